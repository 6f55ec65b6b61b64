"""A mesh of two axes: parameters split over devices, the same training."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from kd_jax.distributed.mesh import Layout
from tests.conftest import ROOT


@pytest.mark.parametrize("part", ["steps", pytest.param("runs", marks=pytest.mark.full)])
def test_split_parameters_train_the_same(tmp_path, part):
    env = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-m", "tests.distributed.fsdp", str(tmp_path), part]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.stdout.endswith("same\n"), done.stderr[-3000:]


def test_one_device_splits_nothing():
    layout = Layout((1, 1))
    assert layout.param_sharding is None and layout.count == layout.fsdp == 1
    places = layout.split({"a": np.zeros((64, 64)), "b": jax.ShapeDtypeStruct((3,), np.float32)})
    assert all(place.is_fully_replicated for place in places.values())


@pytest.mark.parametrize("where", ["r", "s", "b"])
def test_what_is_put_comes_back(where):
    arrays = {"x": np.arange(6.0).reshape(2, 3), "key": jax.random.split(jax.random.key(1), 2)}
    layout = Layout((1,))
    placed = layout.put(arrays, where)
    np.testing.assert_array_equal(layout.whole(placed["x"]), arrays["x"])
    assert jax.random.key_data(placed["key"]).tolist() == jax.random.key_data(arrays["key"]).tolist()
