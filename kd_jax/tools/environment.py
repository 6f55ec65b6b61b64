"""What a command reads from the environment: checked before it is used, with the blame on the variable."""

import ctypes
import gc
import os
import tempfile

from kd_jax.distributed import parent, xla_flags
from kd_jax.tools import kernel_library
from kd_jax.typing import InputError, first_line

CACHE = "~/.cache/kd_jax/xla"
WHERE = "JAX_COMPILATION_CACHE_DIR"
GARBAGE = 50_000  # new objects before Python looks for cycles among them
MALLOC = ((-8, 1), (-4, 0), (-1, 2**31 - 1))  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD


def prepare() -> None:
    """Set up the process for JAX, before a device is asked for.

    Raises:
      InputError: a variable of the environment that cannot be used.
    """
    parent.die_with_starter()
    check_xla_flags()
    kernel_library.choose()
    use_compilation_cache()
    keep_memory()
    collect_less()


def check_xla_flags() -> None:
    """Refuse XLA_FLAGS that XLA does not take: it would end the process without an exception. So a copy of the process
    reads them first.

    Raises:
      InputError: with the reason that XLA gives.
    """
    if not os.environ.get("XLA_FLAGS", "").strip() or not hasattr(os, "fork"):
        return
    from jaxlib import xla_client

    with tempfile.TemporaryFile() as words:
        child = os.fork()
        if not child:
            try:
                os.dup2(words.fileno(), 2)
                xla_client.CompileOptions()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        words.seek(0)
        said = words.readline().decode(errors="replace").partition("] ")[2].strip()
    if status:
        raise InputError(f"XLA_FLAGS={os.environ['XLA_FLAGS']}: XLA does not take it ({said or 'it gives no reason'})")


def use_deterministic_operations() -> None:
    """Ask XLA for operations that give the same bits every time on a GPU, unless XLA_FLAGS speaks of them already;
    other devices do not read that flag. Before a device is asked for."""
    if xla_flags.value(xla_flags.DETERMINISTIC) is None:
        xla_flags.add(xla_flags.DETERMINISTIC, "true")


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says where (or "" nowhere).

    Raises:
      InputError: they cannot be kept there.
    """
    import jax

    if WHERE in os.environ:
        if os.environ[WHERE] and "://" not in os.environ[WHERE]:
            _check_writable(os.environ[WHERE], f"{WHERE}={os.environ[WHERE]}")
        return
    folder, home = os.path.expanduser(CACHE), os.environ.get("HOME")
    if folder == CACHE or home == "":
        raise InputError(f'HOME: is {"empty" if home == "" else "not set"}; set it, or {WHERE} to a folder or to ""')
    _check_writable(folder, f"HOME={home}" if home else folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _check_writable(folder: str, blamed: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        advice = f'a folder for compiled programs is needed; {WHERE}="" keeps none'
        raise InputError(f"{blamed}: cannot write in {folder} ({e.strerror or e}); {advice}") from e


def keep_memory() -> None:
    """Where glibc is the C library, let malloc keep what is freed, in one arena, unless a variable of its own is set.

    By default a program of XLA asks the system for its temporaries at every call and gives them back, and each page of
    them is a fault: of resnet8x4's training step (batch 64) 77,000, and a tenth of its time on two cores. Only the
    main arena can keep large blocks. One arena also stops a slow growth of memory: the threads that write checkpoints
    come and go, and each would leave an arena behind.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        for parameter, value in MALLOC:
            mallopt(parameter, value)


def collect_less() -> None:
    """Let Python look for cycles of objects less often, and never among what is imported.

    Tracing a step makes millions of objects that live on; by default the collector starts after every 700 of them and
    passes over all modules again and again, for a fifth of the time that a trace takes.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE)


def without_devices() -> str | None:
    """What to say of an error where JAX cannot use the devices that JAX_PLATFORMS asks for; None where it can, or
    where the variable asks for none."""
    import jax

    asked = os.environ.get("JAX_PLATFORMS")
    if not asked:
        return None
    try:
        jax.devices()
    except Exception as e:  # RuntimeError, or AssertionError where the platform's package is not installed
        why = first_line(e) if isinstance(e, RuntimeError) else "none was found"
        return f'JAX_PLATFORMS={asked}: cannot use such a device here ({why}); JAX_PLATFORMS="" takes what there is'
    return None
