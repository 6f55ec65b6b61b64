"""Whether this process is one of several: what the flags of a command and the variables of a launcher say."""

import errno
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from kd_jax.typing import InputError

FLAGS = "--coordinator=HOST:PORT, --num_processes=N and --process_id=I"


class Launcher(NamedTuple):
    """A variable that a launcher sets, and the variables that JAX reads with it."""

    several: Callable[[str], bool]  # whether a value says that there are several processes
    accepted: str = ""  # the accepted values, in words; `several` raises ValueError for others
    numbers: tuple[str, ...] = ()  # variables that must hold a number from 0 if there are several processes
    names: tuple[str, ...] = ()  # variables that must not be empty if there are several processes


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):  # int() also takes signs, blanks and underscores
        raise ValueError
    return int(text)


def _count(value: str) -> bool:
    if _number(value) < 1:
        raise ValueError
    return int(value) > 1


def _hosts(value: str) -> bool:
    names = value.split(",")
    if not all(name.strip() for name in names):
        raise ValueError
    return len(names) > 1


def _address(value: str) -> bool:
    if value:
        split_address(value)
    return bool(value)


def _port(value: str) -> None:
    if not 1 <= _number(value) <= 65535:
        raise ValueError


def _numbers(value: str) -> None:
    for number in value.split(",") if value else []:
        _number(number)


def _one(value: str) -> bool:
    if value not in ("", "1"):
        raise ValueError
    return value == "1"


COUNT = "the number of processes, 1 or more"
LAUNCHERS = {
    "JAX_COORDINATOR_ADDRESS": Launcher(_address, "HOST:PORT of process 0, with a port from 1 to 65535"),
    "SLURM_STEP_NUM_TASKS": Launcher(
        _count,
        COUNT,
        numbers=("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
        names=("SLURM_STEP_NODELIST",),
    ),
    "OMPI_COMM_WORLD_SIZE": Launcher(
        _count, COUNT, numbers=("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    ),  # Open MPI
    "TPU_WORKER_HOSTNAMES": Launcher(_hosts, "the names of hosts, separated by commas"),
    "MEGASCALE_COORDINATOR_ADDRESS": Launcher(bool),  # several TPU slices
    "JOBSET_NAME": Launcher(bool),  # Kubernetes
    # ours, for a TPU pod: nothing in the environment says it, and JAX asks the TPU's own records for the others
    "KD_JAX_SEVERAL": Launcher(_one, "1, or nothing"),
}

# what JAX reads beside flags and launchers: what refuses a value, and the accepted ones in words
JAX_VARIABLES = {
    "JAX_COORDINATOR_PORT": (_port, "a port from 1 to 65535"),
    "JAX_LOCAL_DEVICE_IDS": (_numbers, "numbers of devices, separated by commas"),
    "JAX_PARTITION_INDEX": (_number, "a number from 0"),
}


def is_distributed(coordinator: str = "", processes: int = 0, process: int = -1) -> bool:
    """Whether this process is one of several, by the three flags or, without them, by the environment.

    Raises:
      InputError: a flag or a variable is wrong, or some are missing; the message names it.
    """
    by_flags = coordinator or processes > 0 or process >= 0
    if by_flags:
        _check_flags(coordinator, processes, process)
    elif not launchers():
        return False
    for name, (check, accepted) in JAX_VARIABLES.items():
        try:
            check(os.environ.get(name, "1"))
        except ValueError as e:
            raise InputError(f"{name}={os.environ[name]}: must be {accepted}; or unset it") from e
    return True


def check_port(coordinator: str) -> None:
    """Refuse a port that is taken on this host, which is the one of process 0: JAX would crash.

    Raises:
      InputError: the port is taken.
    """
    _, port = split_address(coordinator)
    try:
        socket.create_server(("", port)).close()
    except OSError as e:
        if e.errno not in (errno.EADDRINUSE, errno.EACCES):
            return  # no such kind of socket here: JAX tries all kinds
        raise InputError(
            f"--coordinator={coordinator}: process 0 cannot listen at port {port} ({e.strerror}); give a free port"
        ) from e


def launchers() -> list[str]:
    """The variables in the environment that say that there are several processes, as NAME=VALUE.

    Raises:
      InputError: one of them, or one that JAX reads with it, is wrong or missing.
    """
    return [f"{name}={os.environ[name]}" for name, launcher in LAUNCHERS.items() if _is_several(name, launcher)]


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT.

    Raises:
      ValueError: it is not of that form, or the port is not a number from 1 to 65535.
    """
    host, _, port = address.rpartition(":")
    _port(port)
    if not host:
        raise ValueError
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_flags(coordinator: str, processes: int, process: int) -> None:
    missing = [
        flag
        for flag, is_given in (
            ("--coordinator", coordinator),
            ("--num_processes", processes > 0),
            ("--process_id", process >= 0),
        )
        if not is_given
    ]
    if missing:
        raise InputError(f"{', '.join(missing)}: missing; {FLAGS} go together")
    try:
        host, _ = split_address(coordinator)
    except ValueError as e:
        raise InputError(
            f"--coordinator={coordinator}: must be HOST:PORT of process 0, with a port from 1 to 65535"
        ) from e
    if process >= processes:
        raise InputError(f"--process_id={process}: must be below --num_processes={processes}")
    _check_host(coordinator, host)


def _check_host(coordinator: str, host: str) -> None:
    """Refuse a host that has no address. In Kubernetes the name of a pod gets one later, and JAX waits for it."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as e:  # UnicodeError: an empty or a very long part of a name
        raise InputError(
            f"--coordinator={coordinator}: the host {host} is not known here; "
            "give the name or the address of the host of process 0"
        ) from e


def _is_several(name: str, launcher: Launcher) -> bool:
    if name not in os.environ:
        return False
    value = os.environ[name]
    try:
        several = launcher.several(value)
    except ValueError as e:
        raise InputError(f"{name}={value}: must be {launcher.accepted}; or unset it, or give {FLAGS}") from e
    if several:
        _check_companions(f"{name}={value}", launcher)
    return several


def _check_companions(setting: str, launcher: Launcher) -> None:
    for name in (*launcher.numbers, *launcher.names):
        if not os.environ.get(name):
            state = "empty" if name in os.environ else "missing"
            raise InputError(f"{name}: {state}, but needed with {setting}; start by the launcher, or give {FLAGS}")
    for name in launcher.numbers:
        try:
            _number(os.environ[name])
        except ValueError as e:
            raise InputError(
                f"{name}={os.environ[name]}: must be a number from 0, with {setting}; or give {FLAGS}"
            ) from e
