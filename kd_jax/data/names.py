"""File and class names as people read them."""

import os


def shown(name: str | os.PathLike) -> str:
    """A file name, path or class name on one line of any terminal and in any UTF-8 file.

    Bytes that are not UTF-8, line breaks, tabs and other characters that cannot be printed are escaped as in a Python
    string.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
