"""A method of a user's own, from outside the package: one file, one config, nothing else.

It has parameters, a log, a tuple keyword and a second pass of the student.
"""

import json
import subprocess
import sys

import numpy as np

from tests.conftest import ROOT

METHOD = '''
"""Consistency under translations: the student is to say the same of a shifted image, behind a learned scale."""

import jax.numpy as jnp

from kd_jax import InputError, methods
from kd_jax.typing import Distiller, Monitor, Vars


def shift_consistency(*, weight: float = 1.0, shifts: tuple[int, ...] = (1, 2)) -> Distiller:
    """Mean squared difference of logits between an image and its translations."""
    if not shifts:
        raise InputError("shift_consistency: shifts must name one shift or more")

    def init(key, context):
        return Vars({"scale": jnp.ones(context.num_classes)}, {}, {})

    def apply(vars, view, key, train):
        total, logits = 0.0, view.student.logits
        for shift in shifts:
            outputs, view = methods.look_again(view, jnp.roll(view.image, shift, axis=2))
            total += jnp.mean((vars.params["scale"] * outputs.logits - logits) ** 2, axis=-1)
        return view, {"": total / len(shifts)}, {"scale": jnp.mean(vars.params["scale"])}, {}

    return methods.weigh(Distiller(init, apply, monitors=(Monitor("scale"),)), weight)


methods.CRITERIA["shift_consistency"] = shift_consistency
'''
CONFIG = '''
"""A student that is consistent under translations, beside KD."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import shift_consistency  # noqa: F401  registers itself

from kd_jax import recipes


def get_config(arg=None):
    arg = recipes.argument(arg, default=("resnet8", "resnet8"))
    own = recipes.member("shift_consistency", weight=0.5)
    terms = {"ce": recipes.member("ce"), "kd": recipes.member("kd"), "shift_consistency": own}
    return recipes.distillation("own", arg, recipes.Part(terms=terms))
'''


def test_one_file_and_one_config(tmp_path):
    (tmp_path / "shift_consistency.py").write_text(METHOD)
    (tmp_path / "config.py").write_text(CONFIG)
    sizes = {"size": 8, "classes": 5, "train": 40, "test": 13}
    flags = [f"--config.data.synthetic.{key}={value}" for key, value in sizes.items()]
    command = [sys.executable, str(ROOT / "launch" / "train.py"), f"--config={tmp_path / 'config.py'}:smoke", *flags]
    shifts = "--config.student.terms.shift_consistency.shifts"

    def train(name, *more):
        given = [*command, f"--workdir={tmp_path / name}", *more]
        return subprocess.run(given, capture_output=True, text=True, cwd=tmp_path)

    done = train("run", f"{shifts}=(1, 3)")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["student"]["terms"]["shift_consistency"]["shifts"] == [1, 3]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["phase"] == "student" and row["split"] == "train"]
    assert [row["logs"]["shift_consistency/scale"] for row in steps][0] == 1.0
    assert all(
        np.isfinite(row["terms"]["shift_consistency"]) and row["terms"]["shift_consistency"] > 0 for row in steps
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["phases"]["student"]["method_params"] == 5
    wrong = train("other", f"{shifts}=()")
    assert wrong.returncode == 2 and "shifts must name one shift or more" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
