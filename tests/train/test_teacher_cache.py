"""Runs whose teacher is read from a cache: bit for bit those of a teacher that runs, and nothing wrong is ever read."""

import json

import pytest

from kd_jax.train import run
from tests.conftest import shrunk, tree
from tests.train.test_run import assert_same_run

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

LONG = {"teacher__steps": 4, "student__steps": 17, "checkpoint__every": 6, "log__every": 3, "seed": 5}


def trained(home, cache="", **changes):
    more = {"teacher_cache": str(cache)} if cache else {}
    return run.run(json.loads(json.dumps(tree(**{**LONG, **more, **changes}))), str(home))


def test_x(tmp_path):
    trained(tmp_path / "live")
    s = trained(tmp_path / "cold", tmp_path / "cache")
    print(s["phases"]["student"]["teacher_cache"])
    assert_same_run(tmp_path / "live", tmp_path / "cold")
    s = trained(tmp_path / "warm", tmp_path / "cache")
    print(s["phases"]["student"]["teacher_cache"])
    assert_same_run(tmp_path / "live", tmp_path / "warm")
