"""What four devices send each other in a training step is what the mathematics needs, read from the compiled module."""

import json
import math
import os
import subprocess
import sys

import jax
import pytest

from kd_jax import models
from kd_jax.distributed.mesh import SMALL
from tests.conftest import ROOT

BATCH, CLASSES = 16, 100
SHAPES = models.shapes(models.create("resnet8", CLASSES), (8, 8, 3))[0]
PARAMETERS = models.count_parameters(SHAPES.params)
CHANNELS = models.count_parameters(SHAPES.stats) // 2  # a running mean and a variance each
ATTENTION = 4 * CLASSES * CLASSES  # queries, keys, values and output of SKD's block


def steps(folder, **flags):
    """Of KD's and SKD's step, the kinds of collectives with their number and bytes."""
    rows = folder / "rows.json"
    given = {
        "pair": "resnet8,resnet8",
        "image": 8,
        "batches": BATCH,
        "classes": CLASSES,
        "json": rows,
        "out": folder,
        **flags,
    }
    script, words = str(ROOT / "benchmarks" / "run.py"), [f"--{k}={v}" for k, v in given.items()]
    command = [sys.executable, script, "scaling", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row["method"]: row["collectives"] for row in json.loads(rows.read_text())}


def floats(collectives, kind):
    return collectives.get(kind, (0, 0))[1] / 4


def test_gradients_are_summed_once(tmp_path):
    collectives = steps(tmp_path, meshes=4)
    # BatchNorm: mean and variance of the global batch, and of both what the backward pass sums
    assert list(collectives["kd"]) == ["all-reduce"]
    assert floats(collectives["kd"], "all-reduce") == pytest.approx(PARAMETERS + 4 * CHANNELS, rel=0.01)
    # attention over the global batch: everyone's keys and values, and back their gradients
    wanted = PARAMETERS + ATTENTION + 4 * CHANNELS + 2 * BATCH * CLASSES
    assert floats(collectives["skd"], "all-reduce") == pytest.approx(wanted, rel=0.01)
    assert floats(collectives["skd"], "all-gather") == pytest.approx(2 * BATCH * CLASSES, rel=0.05)
    assert set(collectives["skd"]) == {"all-reduce", "all-gather"}


def test_statistics_of_their_own_are_averaged(tmp_path):
    collectives = steps(tmp_path, meshes=4, scope="device")
    assert list(collectives["kd"]) == list(collectives["skd"]) == ["all-reduce"]
    assert floats(collectives["kd"], "all-reduce") == pytest.approx(PARAMETERS + 2 * CHANNELS, rel=0.01)
    assert floats(collectives["skd"], "all-reduce") == pytest.approx(PARAMETERS + ATTENTION + 2 * CHANNELS, rel=0.01)


def test_split_parameters_are_gathered_once(tmp_path):
    collectives = steps(tmp_path, meshes="2x2", methods="kd")["kd"]
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(SHAPES.params)]
    split = sum(size for size in sizes if size >= SMALL)
    assert floats(collectives, "all-gather") == pytest.approx(split, rel=0.05)
