"""A recipe of two phases that is long enough to be stopped anywhere, and what two runs of it must agree in."""

import json
import subprocess
import sys

import jax
import numpy as np

from kd_jax import losses, models
from kd_jax.engine.loop import normalized
from kd_jax.layers.keys import fold
from kd_jax.train import run
from kd_jax.train.compiled import CompiledPhase
from tests.conftest import ROOT, tree
from tests.train.resuming import last_state

LONG = {
    "teacher__steps": 7, "student__steps": 12, "checkpoint__every": 4, "log__every": 3,
    "data__synthetic__train": 40, "seed": 5,
}  # fmt: skip


def long_tree():
    return json.loads(json.dumps(tree(**LONG)))


def assert_same_run(one, two):
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    for name in ("teacher", "student"):
        a, b = last_state(one, name), last_state(two, name)
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")
    states = "".join(last_state(one, "student"))
    for part in ("trace", "['skd']", "batch_stats" if "batch_stats" in states else "stats", "extra"):
        assert part in states  # momentum, simplifier, running statistics and metric sums are all compared


def start(tmp_path, *point, **streams):
    """The run in a process of its own, which the test may signal. streams: as subprocess.Popen takes them."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(long_tree()))
    command = [sys.executable, "-m", "tests.train.killer", str(config), str(tmp_path / "run"), *point, "tiny"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | streams
    return subprocess.Popen(command, cwd=ROOT, **streams)


def quarters_loss(config_tree):
    """The loss of the first step where every quarter of the batch has statistics of its own."""
    prepared = run.prepare(config_tree, "/nowhere")
    plan, batches = prepared.plans[0], run.batches_of(prepared.recipe, prepared.layout, prepared.dataset)
    variables = CompiledPhase(plan).init(fold(jax.random.key(config_tree["seed"]), "init"), (), {}).student
    batch = normalized(batches.train(0, plan.phase.batch_size), plan.network)
    losses_of_quarters = []
    for image, label in zip(np.split(batch["image"], 4), np.split(batch["label"], 4), strict=True):
        logits = models.apply(plan.network.model, variables, image, train=True)[0].logits
        losses_of_quarters.append(losses.cross_entropy(student=logits, labels=label).mean())
    return float(np.mean(losses_of_quarters))
