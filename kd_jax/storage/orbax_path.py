"""A folder as Orbax should take it: every character of its name stands for itself."""

import glob
import os

from etils import epath
from etils.epath import gpath

from kd_jax.storage.files import on_store


class _LiteralPath(gpath.PosixGPath):
    """A path on disk. epath's own `glob` reads `[T=4]` in the name of the folder itself as a pattern, so that Orbax
    writes there and finds nothing."""

    def glob(self, pattern: str):
        yield from (self._new(path) for path in glob.glob(os.path.join(glob.escape(str(self)), pattern)))


def literal(path: epath.Path) -> epath.Path:
    """The path with a `glob` that finds what lies in it; those on object stores as they are."""
    return path if on_store(path) else _LiteralPath(path)
