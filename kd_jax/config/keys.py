"""Errors that name the key of the configuration they are about."""

from typing import Any

from kd_jax.typing import InputError


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
