"""Finished runs for tests of reports, without any training."""

import json

from tests.conftest import tree

TOP1 = {("1", 0): 0.5, ("1", 1): 0.6, ("1", 2): 0.55, ("4", 0): 0.58, ("4", 1): 0.69, ("4", 2): 0.60, ("8", 0): 0.5}
CODE = {"revision": "a" * 40, "modified": False}


def summary_of(config_tree, top1, code=CODE, teacher="t", digest="d"):
    phase = {"top1_last": top1, "top1_best": top1 + 0.01, "top5_last": 0.9, "agreement_last": 0.8, "ms_per_step": 20.0,
             "wall_seconds": 3.0, "teacher": {"digest": teacher}}  # fmt: skip
    about = {"recipe": "skd", "seed": config_tree["seed"], "data": "synthetic", "data_digest": digest, "code": code}
    about |= {"versions": {"jax": "0.10"}, "device": {"kind": "cpu"}, "config": config_tree}
    return about | {"phases": {"teacher": phase, "student": phase}}


def put(folder, temperature, seed, top1, subset=0.0, **how):
    """A finished run, as far as a report reads it."""
    changes = {"student__refine__skd__temperature": float(temperature), "seed": seed, "data__subset": subset}
    config_tree = json.loads(json.dumps(tree(**changes)))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_tree))
    if top1 is None:
        return
    (folder / "summary.json").write_text(json.dumps(summary_of(config_tree, top1, **how)))
    rows = [
        {"phase": "student", "split": "test", "step": 5 * e, "epoch": float(e), "top1": top1 * e / 3} for e in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
