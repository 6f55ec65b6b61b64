"""Several processes that run one recipe: how they find each other, which of them writes, and what they agree on."""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from kd_jax.distributed import environment, parent
from kd_jax.distributed.environment import is_distributed
from kd_jax.distributed.heartbeat import RESUME, Heartbeat
from kd_jax.typing import InputError, first_line

JOIN = 300.0  # seconds in which all processes must have come
RUNTIME_PATIENCE = 50  # seconds of JAX's own heartbeat, which aborts: longer than ours, and less than a minute

_heartbeat: Heartbeat | None = None  # where several processes run


class MainProcessError(Exception):
    """Process 0 has failed at what it did for all; its own message says why."""


def connect(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Join the other processes of this run, if there are any, and say who this is; before any device is asked for.

    Args:
      coordinator: HOST:PORT of process 0; "" lets the environment say.
      processes: how many there are, 0 for what the environment says.
      process: which one this is, counted from 0; -1 likewise.

    Raises:
      InputError: a flag or a variable of the environment is wrong or missing.
    """
    if not is_distributed(coordinator, processes, process):
        return
    _join(coordinator, processes, process)
    if threading.current_thread() is threading.main_thread():
        # JAX's preemption service took SIGTERM, and would keep it to itself
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    _start_heartbeat()  # before the first question for a device, which waits for the devices of all
    if count() > 1:
        devices = f"{jax.local_device_count()} of {jax.device_count()} devices"
        print(f"process {index()} of {count()}: {devices}", file=sys.stderr, flush=True)


def _join(coordinator: str, processes: int, process: int) -> None:
    flags = {}
    source = ", ".join(environment.launchers()) if not coordinator else f"--coordinator={coordinator}"
    if coordinator:  # JAX must not look further: what a scheduler says is meant for the scheduler's own processes
        flags = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
        flags["cluster_detection_method"] = "deactivate"
        if process == 0:
            environment.check_port(coordinator)
    timer = threading.Timer(JOIN, _give_up, [source])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            **flags,
            initialization_timeout=int(JOIN) + 60,  # JAX aborts when it is over
            heartbeat_timeout_seconds=RUNTIME_PATIENCE,
        )
    except Exception as e:  # of JAX, of the packages by which it asks a cluster, or of the network
        raise InputError(
            f"{source}: JAX cannot join the other processes ({first_line(e)}); "
            f"start all of them by their launcher, or give {environment.FLAGS}"
        ) from e
    finally:
        timer.cancel()


def _give_up(source: str) -> NoReturn:
    print(
        f"error: {source}: cannot join the other processes: not all of them came within {JOIN:.0f} seconds; "
        "start all, with one --coordinator or by one launcher",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _start_heartbeat() -> None:
    from jax._src.distributed import global_state  # JAX has no public name for its key-value store

    global _heartbeat
    process, num_processes = global_state.process_id, global_state.num_processes
    if num_processes == 1:
        return
    _heartbeat = Heartbeat(global_state.client, process, num_processes)
    _heartbeat.start()
    atexit.register(_close)
    if process != 0:
        message = f"process {process} of {num_processes}: process 0 is gone (nobody answers at its address); {RESUME}"
        parent.say_if_cut_off(global_state.coordinator_address, message)


def _close() -> None:
    """At an orderly end: wait for the others, then stop the signs of life."""
    jax.distributed.shutdown()
    _heartbeat.stop()


def end_process(code: int) -> NoReturn:
    """End this process of several with an exit code. The others learn it; an orderly end would wait for them."""
    if _heartbeat is not None:
        _heartbeat.leave(code)
    sys.stdout.flush()
    os._exit(code)


def check_others() -> None:
    """Find out, after an error, whether another process is gone; then end this process with a line that says so.

    Otherwise return as soon as every other process has shown that it lives: after a few seconds, in a single process at
    once. The type of the error does not tell: a broken connection may come as a ValueError.
    """
    if _heartbeat is not None:
        _heartbeat.check_others()


def are_several() -> bool:
    """Whether this process has joined others, or begun to."""
    return jax.distributed.is_initialized()


def is_main() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def index() -> int:
    """Which process this is, counted from 0."""
    return jax.process_index()


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def barrier(name: str) -> None:
    """Wait until every process is at the barrier of this name."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


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
      InputError: in the others, where process 0 has raised one.
      MainProcessError: in the others, where process 0 has raised another error.
    """
    error = None
    if is_main():
        try:
            action()
        except Exception as e:
            error = e
    (outcome,) = all_max(0 if error is None else 1 if isinstance(error, InputError) else 2)
    if error is not None:
        raise error
    if outcome == 1:
        raise InputError("process 0 has refused; its message says why")
    if outcome == 2:
        raise MainProcessError("process 0 has failed; its message says why")


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
