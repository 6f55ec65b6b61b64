"""Programs that are the same are compiled once in a session, whatever run asks for them.

Two programs are the same where their functions have the same code, and what the code holds on to is equal: settings,
networks, arrays. What a function reads from its module is not compared: a test that patches modules shares nothing.
"""

import dataclasses
import types
from contextlib import contextmanager
from functools import partial, wraps

import jax
import numpy as np
import pytest
from flax import linen as nn

from kd_jax.distributed.mesh import Layout

# a program of XLA's own emitters takes about a hundred of the 65,530 memory maps that Linux gives a process, and XLA
# dies where there are none left
MOST = 100


@contextmanager
def sharing():
    """While inside, a program is the one that was made before where that is the same."""
    shared = SharedPrograms()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("jit", "jit_step"):
            patch.setattr(Layout, name, shared.instead_of(getattr(Layout, name)))
        yield shared


class SharedPrograms:
    """The programs that there are. active: whether they are shared now."""

    def __init__(self):
        self.active = True
        self._programs, self._alive = {}, []

    def instead_of(self, make):
        """What stands in for `Layout.jit` or `Layout.jit_step`."""

        @wraps(make)
        def jit(layout, function, **how):
            if not self.active:
                return make(layout, function, **how)
            if len(self._programs) >= MOST:
                self._programs.clear()
                self._alive.clear()
            # the functions stay alive with the programs: the number of an object is its own for its lifetime only
            self._alive.append((layout, function, how))
            key = (make.__name__, _key((layout, function, how), ()))
            if key not in self._programs:
                self._programs[key] = make(layout, function, **how)
            return self._programs[key]

        return jit


def _key(x, above: tuple[int, ...]):
    """What is equal for equal things. above: the numbers of the objects that hold this one."""
    if id(x) in above:
        return ("above", above.index(id(x)))
    key = partial(_key, above=(*above, id(x)))
    match x:
        case types.FunctionType():
            cells = tuple(key(cell.cell_contents) for cell in x.__closure__ or ())
            return (x.__code__, id(x.__globals__), key(x.__defaults__), key(x.__kwdefaults__), cells)
        case types.MethodType():
            return ("method", key(x.__func__), key(x.__self__))
        case partial():
            return ("partial", key(x.func), key(x.args), key(x.keywords))
        case Layout():
            return ("layout", x.mesh, x.scope)
        case np.ndarray() | np.generic():
            return (x.shape, str(x.dtype), x.tobytes())
        case jax.Array() if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return (str(x.dtype), key(jax.random.key_data(x)))
        case jax.Array():
            return ("array", key(np.asarray(x)))
        case tuple() | list():
            return (type(x), *map(key, x))
        case dict():
            return (type(x), *((name, key(value)) for name, value in x.items()))
        case nn.Module():
            return (type(x), x)
        case _ if dataclasses.is_dataclass(x) and not isinstance(x, type):
            return (type(x), *(key(getattr(x, field.name)) for field in dataclasses.fields(x)))
    try:
        hash(x)
    except TypeError:
        return (type(x), id(x))
    return (type(x), x)
