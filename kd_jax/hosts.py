"""Several processes that run one recipe: how they find each other, which of them writes, and what they agree on."""

import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from kd_jax.typing import InputError, first_line

# what says that this process is one of several: JAX's own variables, SLURM, Open MPI, a TPU pod, Kubernetes' jobsets
SIGNS = {
    "JAX_COORDINATOR_ADDRESS": bool,
    "SLURM_STEP_NUM_TASKS": lambda n: int(n) > 1,
    "OMPI_COMM_WORLD_SIZE": lambda n: int(n) > 1,
    "TPU_WORKER_HOSTNAMES": lambda names: "," in names,
    "MEGASCALE_COORDINATOR_ADDRESS": bool,
    "JOBSET_NAME": bool,
}
PATIENCE = 30  # seconds without a sign of life after which a process counts as lost


def connect(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Join the other processes of this run, if there are any; before any device is asked for.

    Args:
      coordinator: HOST:PORT of process 0; "" lets the environment say, where one of SIGNS stands in it.
      processes: how many there are, 0 for what the environment says.
      process: which one this is, counted from 0; -1 likewise.

    Raises:
      InputError: some of the three without the others; nobody answers.
    """
    given = {"--coordinator": bool(coordinator), "--num_processes": processes > 0, "--process_id": process >= 0}
    if any(given.values()) and not all(given.values()):
        raise InputError(f"{', '.join(k for k, v in given.items() if not v)}: missing; the three go together")
    if all(given.values()) and process >= processes:
        raise InputError(f"--process_id={process}: must be below --num_processes={processes}")
    several = any(name in os.environ and says(os.environ[name]) for name, says in SIGNS.items())
    if not several and not coordinator:
        return
    told = {}
    if coordinator:
        told = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    try:
        jax.distributed.initialize(**told, heartbeat_timeout_seconds=PATIENCE)
    except (RuntimeError, ValueError) as e:
        raise InputError(f"--coordinator={coordinator}: cannot join the other processes ({first_line(e)})") from e


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def meet(where: str) -> None:
    """Wait until every process is here."""
    if count() > 1:
        multihost_utils.sync_global_devices(where)


def agree(number: int | None) -> int | None:
    """The largest of the numbers that the processes bring, None where none of them brings any."""
    if count() == 1:
        return number
    brought = multihost_utils.process_allgather(np.int32(-1 if number is None else number))
    return int(brought.max()) if brought.max() >= 0 else None


def by_first(action: Callable[[], None]) -> None:
    """Let process 0 do something for all; the others wait, and give up where it failed.

    Raises:
      InputError: in the others, where process 0 has refused.
    """
    failed = None
    if first():
        try:
            action()
        except Exception as e:
            failed = e
    if agree(1 if failed else 0):
        raise failed or InputError("process 0 has refused; its message says why")


def lost(error: RuntimeError) -> str | None:
    """What to say of an error of JAX's runtime: that another process is gone. None where there is no other, or where
    the error is another one."""
    if not jax.distributed.is_initialized() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    return (
        f"process {jax.process_index()} of {count()}: another process is gone, or did not answer "
        f"({first_line(error)}); started again, all of them resume"
    )
