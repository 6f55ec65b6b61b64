"""Several devices: global scope is one device, device scope is the average of the shards."""

import os
import subprocess
import sys

import pytest

from kd_jax import InputError
from kd_jax.distributed.mesh import Layout
from tests.conftest import ROOT


def assert_same(module, n, *arguments):
    env = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={n}"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.stdout == "same\n", done.stderr[-3000:]


QUICK, SLOW = ("scopes", "stochastic_depth", "outside"), ("classics", "statistics")


@pytest.mark.parametrize(
    ("n", "parts"),
    [(4, QUICK), *(pytest.param(n, (*QUICK, *SLOW), marks=pytest.mark.full) for n in (1, 2, 4, 8))],
)
def test_scopes(n, parts):
    assert_same("tests.distributed.devices", n, str(n), *parts)


@pytest.mark.full
def test_a_search():
    assert_same("tests.distributed.searches", 4, "4")


@pytest.mark.full
def test_several_seeds():
    assert_same("tests.distributed.seeds", 4)


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match=r"config.parallel.mesh: \(64,\) asks for 64 devices, there are"):
        Layout((64,))
