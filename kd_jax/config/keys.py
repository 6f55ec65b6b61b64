"""Errors that name the key of the configuration they are about, or the line of the user's code that raised them."""

import os
import traceback
from typing import Any

from kd_jax.typing import InputError, first_line


def require(ok: bool, key: str, value: Any, accepted: str) -> None:
    """Refuse the value of a key.

    Args:
      ok: whether it is accepted.
      key: its dotted name, without "config.".
      value: as it was given.
      accepted: in words.

    Raises:
      InputError: unless ok.
    """
    if not ok:
        raise InputError(f"config.{key}: must be {accepted}, got {value!r}")


def config_key(key: str, function, *args, **kwargs):
    """Call a function, and put the config key in front of what it refuses.

    Raises:
      InputError: the function's own, its message behind "config.KEY: " unless it names a key itself. Every other error
        passes unchanged, with its traceback: it is a fault of the code, not of the key.
    """
    try:
        return function(*args, **kwargs)
    except InputError as e:
        if str(e).startswith("config."):
            raise
        raise InputError(f"config.{key}: {e}") from e


def error_in(path: str, error: BaseException) -> str:
    """One line on an error that a user's Python file raised: the file and the line, the type and what it says.

    Args:
      path: of the file.
      error: with its traceback. The line is the last one of that file in it; of wrong syntax, the line that has it.
    """
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
    else:
        here = os.path.realpath(path)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if os.path.realpath(f.filename) == here]
        place = f"{path}, line {lines[-1]}" if lines else path
    return f"{place}: {type(error).__name__}: {first_line(error)} (KD_JAX_DEBUG=1 shows where it comes from)"
