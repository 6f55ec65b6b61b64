"""From a command line to exit codes: 0 done, 2 wrong input in one line, 3 not finite, 143 and 130 stopped
by a signal after saving, 1 anything else."""

import ctypes
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable

from absl import flags
from ml_collections import config_dict, config_flags

from kd_jax.distributed import processes
from kd_jax.distributed.preemption import Interrupted
from kd_jax.typing import InputError, suggest

CACHE = "~/.cache/kd_jax/xla"


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says where (or ""
    nowhere)."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(CACHE))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def limit_arenas() -> None:
    """Where glibc is the C library, let threads share a few malloc arenas: the threads that write
    checkpoints come and go, and each would leave an arena behind, a slow growth of memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(-8, 2)  # M_ARENA_MAX


def main(run: Callable[[], None], *, required: tuple[str, ...] = ()) -> None:
    """Parse the flags, run, and end the process with the right exit code."""
    try:
        _parse(sys.argv, required)
        use_compilation_cache()
        limit_arenas()
        run()
    except InputError as e:
        _end(2, e)
    except ArithmeticError as e:
        _end(3, e)
    except Interrupted as e:
        _end(128 + e.number, e)
    except Exception as e:
        processes.check_others()
        if isinstance(e, (OSError, processes.MainProcessError)):
            _end(1, e)
        if processes.are_several():
            traceback.print_exc()
            processes.end_process(1)
        raise


def _end(code: int, error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)
    if processes.are_several():  # an orderly end would wait for the others
        processes.end_process(code)
    sys.exit(code)


def define_config() -> flags.FlagHolder:
    """The flag --config=FILE.py[:ARGUMENT] with its --config.KEY=VALUE overrides."""
    return config_flags.DEFINE_config_file("config", None, "FILE.py[:ARGUMENT]", lock_config=True)


def numbers(flag: str, values: list[str]) -> tuple[float, ...]:
    """The value of a flag like --mean=0.5,0.5,0.5."""
    try:
        return tuple(float(value) for value in values)
    except ValueError as e:
        raise InputError(f"--{flag}={','.join(values)}: numbers separated by commas are needed") from e


def _parse(argv: list[str], required: tuple[str, ...]) -> None:
    """absl's parsing with our errors, and with None as a value of --config.KEY."""
    if any(arg in ("--help", "-help", "--helpshort", "--helpfull", "-h") for arg in argv[1:]):
        print(f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.main_module_help()}")
        sys.exit(0)
    named = [arg.partition("=")[2] for arg in argv[1:] if arg.lstrip("-").startswith("config=")]
    overrides = [arg.lstrip("-").partition("=")[0] for arg in argv[1:] if arg.lstrip("-").startswith("config.")]
    nothing = [arg for arg in argv[1:] if arg.lstrip("-").startswith("config.") and arg.endswith("=None")]
    try:
        if named:
            default = _default(named[-1])
            for dotted in overrides:
                _known_key(default, dotted)
        rest = flags.FLAGS([arg for arg in argv if arg not in nothing])
    except InputError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, ImportError, SyntaxError) as e:
        raise InputError(" ".join(str(e).split())) from e
    if len(rest) > 1:
        raise InputError(f"{rest[1]}: unexpected argument; flags look like --name=value")
    for name in required:
        if not flags.FLAGS[name].value:
            raise InputError(f"--{name}: missing; --help shows what is accepted")
    for arg in nothing:
        _set_none(flags.FLAGS["config"].value, arg.lstrip("-").removesuffix("=None"))


def _default(spelled: str) -> config_dict.ConfigDict:
    """The configuration of FILE.py[:ARGUMENT] before any override."""
    path, _, argument = spelled.partition(":")
    if not os.path.isfile(path):
        raise InputError(f"--config: no file {path}; give FILE.py or FILE.py:ARGUMENT")
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None:
        raise InputError(f"--config: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"--config: {path} has no function get_config")
    return module.get_config(argument) if argument else module.get_config()


def _known_key(config: config_dict.ConfigDict, dotted: str) -> None:
    at = config
    names = dotted.split(".")[1:]
    for depth, name in enumerate(names):
        name = name.partition("[")[0]
        if not isinstance(at, config_dict.ConfigDict) or name not in at:
            where = ".".join(["config", *names[:depth]])
            known = list(at) if isinstance(at, config_dict.ConfigDict) else []
            accepted = suggest(name, known) if known else "known: none, it is a value"
            raise InputError(f"{where}.{name}: unknown key; {accepted}")
        at = at[name]


def _set_none(config: config_dict.ConfigDict, dotted: str) -> None:
    """Set a key to None; whether the key takes None is decided where the config is validated."""
    *path, last = dotted.split(".")[1:]
    for name in path:
        config = config[name]
    with config.unlocked():
        config[last] = None
