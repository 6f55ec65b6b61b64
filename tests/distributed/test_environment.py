"""What flags and a launcher's variables say of other processes, and what is refused."""

import os
import re
import socket
import subprocess
import sys

import pytest

from kd_jax import InputError
from kd_jax.distributed import environment
from tests.conftest import ROOT

SLURM = {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[1-2]",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
VARIABLES = {*environment.LAUNCHERS, *SLURM, *OPEN_MPI, *environment.JAX_VARIABLES, "KUBERNETES_SERVICE_HOST"}


@pytest.fixture
def variables(monkeypatch):
    """A function that sets the variables of a launcher, and nothing else."""

    def put(settings):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)

    put({})
    return put


@pytest.mark.parametrize(
    ("settings", "several"),
    [
        ({}, False),
        (SLURM, True),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": ""}, False),
        (OPEN_MPI, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"JAX_COORDINATOR_ADDRESS": "[::1]:1234"}, True),
        ({"JAX_COORDINATOR_ADDRESS": ""}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "host"}, True),
        ({"JOBSET_NAME": "run"}, True),
        ({"KD_JAX_SEVERAL": "1"}, True),
        ({"KD_JAX_SEVERAL": ""}, False),
    ],
)
def test_a_launcher_says_it(variables, settings, several):
    variables(settings)
    assert environment.is_distributed() is several


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"OMPI_COMM_WORLD_SIZE": ""},
            "OMPI_COMM_WORLD_SIZE=: must be the number of processes, 1 or more; or unset it",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE=two: must be the number of processes"),
        ({"OMPI_COMM_WORLD_SIZE": "0"}, "OMPI_COMM_WORLD_SIZE=0: must be the number of processes, 1 or more"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK: missing, but needed with OMPI_COMM_WORLD_SIZE=2"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "x"}, "OMPI_COMM_WORLD_RANK=x: must be a number from 0"),
        ({"SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS=: must be the number of processes"),
        ({"SLURM_STEP_NUM_TASKS": "4(x2)"}, "SLURM_STEP_NUM_TASKS=4(x2): must be the number of processes"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_JOB_ID: missing, but needed with SLURM_STEP_NUM_TASKS=2"),
        (
            {name: value for name, value in SLURM.items() if name != "SLURM_PROCID"},
            "SLURM_PROCID: missing, but needed with SLURM_STEP_NUM_TASKS=2; start by the launcher, or give --coord",
        ),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST: empty, but needed"),
        (SLURM | {"SLURM_PROCID": "-1"}, "SLURM_PROCID=-1: must be a number from 0"),
        ({"TPU_WORKER_HOSTNAMES": ""}, "TPU_WORKER_HOSTNAMES=: must be the names of hosts, separated by commas"),
        ({"TPU_WORKER_HOSTNAMES": "a,,b"}, "TPU_WORKER_HOSTNAMES=a,,b: must be the names of hosts"),
        ({"TPU_WORKER_HOSTNAMES": ","}, "TPU_WORKER_HOSTNAMES=,: must be the names of hosts"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "JAX_COORDINATOR_ADDRESS=host: must be HOST:PORT of process 0"),
        ({"KD_JAX_SEVERAL": "yes"}, "KD_JAX_SEVERAL=yes: must be 1, or nothing"),
    ],
)
def test_a_variable_is_wrong(variables, settings, message):
    variables(settings)
    with pytest.raises(InputError, match=re.escape(message)):
        environment.is_distributed()
    assert environment.is_distributed("localhost:1", 2, 0)  # flags are there for just that


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_COORDINATOR_PORT", "http"),
        ("JAX_COORDINATOR_PORT", "0"),
        ("JAX_LOCAL_DEVICE_IDS", "0,a"),
        ("JAX_PARTITION_INDEX", ""),
    ],
)
def test_a_variable_of_jax_is_wrong(variables, name, value):
    variables({name: value})
    assert not environment.is_distributed()  # and JAX does not read it
    with pytest.raises(InputError, match=f"{name}={value}: must be "):
        environment.is_distributed("localhost:1", 2, 0)
    variables({"JAX_COORDINATOR_PORT": "8476", "JAX_LOCAL_DEVICE_IDS": "0,1", "JAX_PARTITION_INDEX": "0"})
    assert environment.is_distributed("localhost:1", 2, 0)


def test_a_port_is_taken():
    with socket.create_server(("", 0)) as taken:
        coordinator = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=f"{coordinator}: process 0 cannot listen at port .* in use"):
            environment.check_port(coordinator)
    environment.check_port(coordinator)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("localhost:1",), "--num_processes, --process_id: missing; --coordinator=HOST:PORT, --num_processes=N and"),
        (("localhost:1", 2), "--process_id: missing"),
        (("", 2, 0), "--coordinator: missing"),
        (("", 0, 0), "--coordinator, --num_processes: missing"),
        (("localhost", 2, 0), "--coordinator=localhost: must be HOST:PORT of process 0, with a port from 1 to 65535"),
        ((":1", 2, 0), "--coordinator=:1: must be HOST:PORT"),
        (("localhost:", 2, 0), "--coordinator=localhost:: must be HOST:PORT"),
        (("localhost:http", 2, 0), "--coordinator=localhost:http: must be HOST:PORT"),
        (("localhost:0", 2, 0), "with a port from 1 to 65535"),
        (("localhost:65536", 2, 0), "with a port from 1 to 65535"),
        (("localhost:-1", 2, 0), "with a port from 1 to 65535"),
        (("localhost:1", 2, 2), "--process_id=2: must be below --num_processes=2"),
        (("nosuch.invalid:1", 2, 1), "--coordinator=nosuch.invalid:1: the host nosuch.invalid is not known here"),
        (("a..b:1", 2, 1), "--coordinator=a..b:1: the host a..b is not known here"),
    ],
)
def test_flags_are_wrong(variables, flags, message):
    with pytest.raises(InputError, match=re.escape(message)):
        environment.is_distributed(*flags)


def test_a_pod_may_get_its_name_later(variables):
    variables({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert environment.is_distributed("nosuch.invalid:1", 2, 1)


@pytest.mark.parametrize("settings", [{"OMPI_COMM_WORLD_SIZE": ""}, OPEN_MPI])
def test_a_command_says_it_in_one_line(settings):
    """The second: the variables are good, but JAX does not know such a cluster without one more. The line names
    what the environment says, and no flag that nobody gave."""
    command = [sys.executable, "launch/train.py", "--config=configs/kd.py:smoke", "--workdir=/nowhere"]
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | settings
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert line.startswith(f"error: OMPI_COMM_WORLD_SIZE={settings['OMPI_COMM_WORLD_SIZE']}: ")
