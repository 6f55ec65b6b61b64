"""Values of a sweep as a command line spells them."""

import os
from typing import Any


def split(text: str) -> list[str]:
    """The values between commas; those inside brackets or quotes do not count. Quotes around a value are no part of
    it."""
    values, depth, quoted, start = [], 0, "", 0
    for i, letter in enumerate(text):
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'\"":
            quoted = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[start:i])
            start = i + 1
    values = [value.strip() for value in (*values, text[start:])]
    return [_unquoted(value) for value in values if value]


def _unquoted(value: str) -> str:
    inside = value[1:-1]
    return inside if len(value) > 1 and value[0] == value[-1] in "'\"" and value[0] not in inside else value


def spelled(value: Any) -> str:
    """A value of Python as a command line spells it."""
    return os.fspath(value) if isinstance(value, str | os.PathLike) else repr(_plain(value))


def _plain(value: Any) -> Any:
    """A value with numbers of Python in place of NumPy's, whose repr says np.float64."""
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    return value.tolist() if hasattr(value, "tolist") else value
