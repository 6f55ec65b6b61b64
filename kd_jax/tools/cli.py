"""From a command line to exit codes: 0 done, 2 wrong input in one line, 3 not finite, 143, 130 and 129 stopped
by a signal after saving, 1 anything else.

Only errors of the types that say so become one line; every other one is a fault of the code and keeps its traceback.
With KD_JAX_DEBUG=1 every error keeps it.
"""

import errno
import math
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable

from absl import flags

from kd_jax.distributed import processes
from kd_jax.distributed.preemption import Interrupted, silence
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.tools import environment
from kd_jax.tools.config_file import ConfigFlag
from kd_jax.typing import InputError

# what the user's disk, quota or rights say, whoever asks them
OF_THE_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def main(
    run: Callable[..., None], *, config: ConfigFlag | None = None, required: tuple[str, ...] = (), plain: bool = False
) -> None:
    """Parse the flags, run, and end the process with the right exit code.

    Args:
      run: what the command does; with `plain` it takes the arguments that are no flags.
      config: its flag --config, if it has one.
      required: flags that must be given.
      plain: whether there may be arguments that are no flags.
    """
    _open_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not show what is in a file's name
    try:
        arguments = _parse(sys.argv, config, required)
        if arguments and not plain:
            raise InputError(f"{arguments[0]}: unexpected argument; flags look like --name=value")
        environment.prepare()
        run(*[arguments] * plain)
    except Exception as e:
        if not isinstance(e, InputError | NonFiniteError | Interrupted):
            processes.check_others()
        code, message = verdict(e)
        if message is None and not processes.are_several():
            raise
        if message is None or os.environ.get("KD_JAX_DEBUG") == "1":
            traceback.print_exc()
        if _is_of_stdout(e):  # or the interpreter writes its last lines there, and complains
            silence(1)
        _end(code, message)
    except KeyboardInterrupt:  # before a run looks at signals, or a second one
        if os.environ.get("KD_JAX_DEBUG") == "1":
            traceback.print_exc()
        _end(128 + signal.SIGINT, "stopped by SIGINT")


def _open_streams() -> None:
    """Have what a scheduler has closed of stdin, stdout and stderr lead nowhere: the next file of the run would get its
    number, and what XLA prints."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def verdict(error: Exception) -> tuple[int, str | None]:
    """The exit code of an error, and the line that says it; None for a fault of the code, which keeps its traceback."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, NonFiniteError):
        return 3, str(error)
    if isinstance(error, Interrupted):
        return 128 + error.number, str(error)
    if _is_of_stdout(error):
        return 1, "stdout: closed by its reader, as `| head` does; a run that this stopped resumes by the same command"
    if isinstance(error, processes.MainProcessError) or isinstance(error, OSError) and _of_the_user(error):
        return 1, str(error)
    if isinstance(error, RuntimeError | AssertionError) and (message := environment.without_devices()):
        return 2, message
    return 1, None


def _is_of_stdout(error: Exception) -> bool:
    """Whether what broke is stdout, and no other pipe."""
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _of_the_user(error: OSError) -> bool:
    """Whether a file could not be read or written for a reason that lies with the user's machine or command."""
    from kd_jax.storage.files import StorageError

    if isinstance(error, StorageError) or error.errno in OF_THE_SYSTEM:
        return True
    if not isinstance(error, FileNotFoundError) or error.filename is None:
        return False
    values = (argument.partition("=")[2] or argument for argument in sys.argv[1:])
    named = {os.path.abspath(os.path.expanduser(value)) for value in values}
    return os.path.abspath(os.fsdecode(error.filename)) in named  # by the command line


def _end(code: int, message: str | None) -> None:
    if message is not None:
        print(f"error: {message}", file=sys.stderr, flush=True)
    if processes.are_several():  # an orderly end would wait for the others
        processes.end_process(code)
    sys.exit(code)


def define_config(*, optional: bool = False) -> ConfigFlag:
    """The flag --config=FILE.py[:ARGUMENT] with its --config.KEY=VALUE overrides. optional: whether it may be
    missing."""
    return ConfigFlag(optional=optional)


def numbers(flag: str, values: list[str]) -> tuple[float, ...]:
    """The value of a flag like --mean=0.5,0.5,0.5."""
    try:
        parsed = tuple(float(value) for value in values)
        if any(math.isnan(number) for number in parsed):
            raise ValueError("nan")
    except ValueError as e:
        raise InputError(f"--{flag}={','.join(values)}: numbers separated by commas are needed") from e
    return parsed


def _parse(argv: list[str], config: ConfigFlag | None, required: tuple[str, ...]) -> list[str]:
    """absl's parsing with our errors. Returns the arguments that are no flags."""
    if any(arg in ("--help", "-help", "--helpshort", "--helpfull", "-h") for arg in argv[1:]):
        print(f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.main_module_help()}")
        sys.exit(0)
    try:
        command, *arguments = flags.FLAGS.read_flags_from_files(argv)
        rest = flags.FLAGS([command, *(config.take(arguments) if config else arguments)])
    except flags.Error as e:
        raise InputError(" ".join(str(e).split())) from e
    for name in flags.FLAGS:
        if flags.FLAGS[name].value != flags.FLAGS[name].value:  # a bound lets it pass, and nothing is below it
            raise InputError(f"--{name}=nan: must be a number")
    for name in required:
        if not flags.FLAGS[name].value:
            raise InputError(f"--{name}: missing; --help shows what is accepted")
    return rest[1:]
