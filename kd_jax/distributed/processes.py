"""Several processes that run one recipe: how they find each other, which of them writes, and what they agree on."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

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
    "KD_JAX_SEVERAL": bool,  # ours, where nothing else says it: JAX itself knows who the others are
}
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")  # errors of the runtime that no other process caused
PATIENCE = 30  # seconds without a sign of life after which a process counts as lost


def is_distributed(coordinator: str = "", processes: int = 0, process: int = -1) -> bool:
    """Whether this process is one of several, by what `connect` is given or by the environment.

    Raises:
      InputError: some of the three without the others.
    """
    given = {"--coordinator": bool(coordinator), "--num_processes": processes > 0, "--process_id": process >= 0}
    if any(given.values()) and not all(given.values()):
        raise InputError(f"{', '.join(k for k, v in given.items() if not v)}: missing; the three go together")
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise InputError(f"--coordinator={coordinator}: must be HOST:PORT of process 0")
    if all(given.values()) and process >= processes:
        raise InputError(f"--process_id={process}: must be below --num_processes={processes}")
    return bool(coordinator) or any(name in os.environ and says(os.environ[name]) for name, says in SIGNS.items())


def connect(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Join the other processes of this run, if there are any, and say who this is; before any device is asked for.

    Args:
      coordinator: HOST:PORT of process 0; "" lets the environment say, where one of SIGNS stands in it.
      processes: how many there are, 0 for what the environment says.
      process: which one this is, counted from 0; -1 likewise.

    Raises:
      InputError: some of the three without the others; nobody answers.
    """
    if not is_distributed(coordinator, processes, process):
        return
    flags = {}
    if coordinator:  # and nothing else is looked for: a scheduler's idea of our devices is for its own processes
        flags = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        flags["cluster_detection_method"] = "deactivate"
    try:
        jax.distributed.initialize(**flags, heartbeat_timeout_seconds=PATIENCE)
    except (RuntimeError, ValueError) as e:
        raise InputError(f"--coordinator={coordinator}: cannot join the other processes ({first_line(e)})") from e
    if threading.current_thread() is threading.main_thread():
        # JAX's preemption service took SIGTERM, and would keep it to itself
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    if count() > 1:
        mine, all_of_them = jax.local_device_count(), jax.device_count()
        print(f"{_name()}: {mine} of {all_of_them} devices", file=sys.stderr, flush=True)


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def index() -> int:
    """Which process this is, counted from 0."""
    return jax.process_index()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def barrier(where: str) -> None:
    """Wait until every process is here."""
    if count() > 1:
        multihost_utils.sync_global_devices(where)


def all_max(*numbers: int) -> tuple[int, ...]:
    """The largest that any process brings, of each of the numbers."""
    if count() == 1:
        return numbers
    return tuple(multihost_utils.process_allgather(np.int32(numbers)).max(axis=0).tolist())


def agree_max(number: int | None) -> int | None:
    """The largest of the numbers >= 0 that the processes bring, None where none of them brings any."""
    (largest,) = all_max(-1 if number is None else number)
    return largest if largest >= 0 else None


def on_main(action: Callable[[], None]) -> None:
    """Let process 0 do something for all; the others wait, and give up where it failed.

    Raises:
      InputError: in the others, where process 0 has refused.
    """
    failed = None
    if is_main():
        try:
            action()
        except Exception as e:
            failed = e
    if agree_max(1 if failed else 0):
        raise failed or InputError("process 0 has refused; its message says why")


def from_main(answer: Callable[[], Any]) -> Any:
    """What process 0 answers, in every process: what a slow shared disk may show to one and not yet to another is
    decided once.

    Args:
      answer: called in process 0 only; it returns what JSON can hold.

    Raises:
      InputError: in the others, where process 0 has refused.
    """
    answers = []
    on_main(lambda: answers.append(json.dumps(answer()).encode()))
    if count() == 1:
        return json.loads(answers[0])
    (length,) = all_max(len(answers[0]) if answers else 0)
    mine = np.frombuffer(answers[0], np.uint8) if answers else np.zeros(length, np.uint8)
    return json.loads(merge(mine).tobytes())


def merge(array: np.ndarray) -> np.ndarray:
    """The element-wise maximum of what the processes bring: each fills in its part of zeros."""
    return array if count() == 1 else multihost_utils.process_allgather(array).max(axis=0)


def lost(error: BaseException) -> str | None:
    """What to say of an error that JAX's runtime raised, or that was raised over one of its: that another process is
    gone. None where there is no other, or where the error is another one."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    if error is None or not jax.distributed.is_initialized() or str(error).startswith(OWN):
        return None
    return (
        f"{_name()}: another process is gone, or did not answer ({first_line(error)}); "
        "started again, all of them resume from the last checkpoint"
    )


def _name() -> str:
    return f"process {jax.process_index()} of {count()}"
