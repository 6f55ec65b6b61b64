"""A teacher that is any JAX function: imported by name, made for the data, traced before anything trains.

`MODULE:FUNCTION` names FUNCTION(num_classes, image_shape), which returns a function of images (B, H, W, C) in [0, 1].
If what it returns has an attribute `params`, a tree of arrays, it is called as f(params, images): its weights are then
arguments of the compiled program. The arrays that it closes over are constants of the program.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.config import error_in
from kd_jax.interop.loaded import Loaded
from kd_jax.models.outside import FunctionNetwork, as_outputs
from kd_jax.storage.digests import digest
from kd_jax.typing import InputError, Outputs, PyTree, Variables, suggest


class PythonFunction(NamedTuple):
    """A function as a network, its variables, and the bytes of the arrays that it closes over: constants of every
    program that calls it."""

    model: FunctionNetwork
    loaded: Loaded
    closed_over: int


def read(where: str, *, num_classes: int, image_shape: tuple[int, int, int], batch_size: int) -> PythonFunction:
    """The function that `where` names.

    Args:
      where: MODULE:FUNCTION; MODULE is looked for in the current directory first, as by `python -m`.
      num_classes: K, of the data.
      image_shape: (H, W, C), of the data.
      batch_size: B, of every batch that it will see.

    Returns:
      The function. Its digest is of the source of MODULE (and of the file where FUNCTION is defined, if that is another
      one), of the name FUNCTION, of the parameters, and of the arrays that it closes over.

    Raises:
      InputError: no such module or function, whatever they raise, or a result of another shape.
    """
    origin = f"python:{where}"
    module_name, _, name = where.partition(":")
    if not module_name or not name:
        raise InputError(f"{origin}: must be python:MODULE:FUNCTION")
    with _current_directory_first():
        module, path = _module(origin, module_name)
        make = _member(origin, module, name)
        with _errors_named(origin, path, f"{name}({num_classes}, {image_shape})"):
            function = make(num_classes, image_shape)
            if not callable(function):
                raise InputError(f"returns a {type(function).__name__}; accepted: a function of images")
            parameters, call = _call(function)

        def outputs(parameters: dict, image: jax.Array) -> Outputs:
            return as_outputs(call(parameters, image), len(image), num_classes)

        shapes = {place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for place, leaf in parameters.items()}
        image = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
        with _errors_named(origin, path, f"called with images {image.shape}"):
            jaxpr, returned = jax.make_jaxpr(outputs, return_shape=True)(shapes, image)
    constants = list(_constants(jaxpr))
    content = _source(path, make) + f"{name} {digest(parameters)} {digest(constants)}".encode()
    loaded = Loaded(Variables(parameters, {}), hashlib.sha256(content).hexdigest())
    model = FunctionNetwork(outputs, tuple(shapes.items()), returned)
    return PythonFunction(model, loaded, sum(array.nbytes for array in constants))


@contextmanager
def _current_directory_first() -> Iterator[None]:
    """While within, imports look into the current directory first."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # the code that was imported has taken it out
            sys.path.remove(here)


@contextmanager
def _errors_named(origin: str, path: str, doing: str) -> Iterator[None]:
    """Whatever the user's code raises becomes one line."""
    try:
        yield
    except InputError as e:
        raise InputError(f"{origin}: {doing}: {e}") from e
    except (Exception, SystemExit) as e:
        raise InputError(f"{origin}: {doing}: {error_in(path, e)}") from e


def _module(origin: str, name: str) -> tuple[ModuleType, str]:
    """The module and the path of its source."""
    with _errors_named(origin, name, f"import {name}"):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as e:
            if not f"{name}.".startswith(f"{e.name}."):  # one that a package around it imports
                raise
            spec = None
        if spec is None:
            raise InputError(f"no such module, neither in {os.getcwd()} nor installed")
        if not spec.origin or not spec.origin.endswith(".py") or not os.path.isfile(spec.origin):
            raise InputError("no source file that a digest could be made of; accepted: a .py file")
    with _errors_named(origin, spec.origin, f"import {name}"):
        return importlib.import_module(name), spec.origin


def _member(origin: str, module: ModuleType, name: str) -> Callable:
    """The function of a module that has this name."""
    make = getattr(module, name, None)
    if not callable(make):
        functions = [n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_")]
        raise InputError(f"{origin}: no function {name} in {module.__file__}; {suggest(name, functions)}")
    return make


def _constants(jaxpr: Any) -> Iterator[np.ndarray]:
    """The arrays that a jaxpr and those within it hold, in the order of the program."""
    yield from (np.asarray(_without_key_type(array)) for array in getattr(jaxpr, "consts", ()))
    for eqn in jaxpr.eqns:
        yield from (v.val for v in eqn.invars if np.ndim(getattr(v, "val", 0)))
        for part in jax.tree.leaves(eqn.params):
            if hasattr(part, "eqns"):
                yield from _constants(part)


def _source(path: str, make: Callable) -> bytes:
    """The digests of the module, and of the file that the function is defined in."""
    code = getattr(inspect.unwrap(make), "__code__", None)
    paths = dict.fromkeys([path, code.co_filename if code else path])
    return b"".join(hashlib.sha256(Path(p).read_bytes()).digest() for p in paths if os.path.isfile(p))


def _is_key(array: Any) -> bool:
    return jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)


def _without_key_type(array: Any) -> Any:
    """The array, or the numbers in it if it holds random keys."""
    return jax.random.key_data(array) if _is_key(array) else array


def _call(function: Callable) -> tuple[dict[str, np.ndarray], Callable]:
    """The parameters that a function offers, by the names of their places, and (parameters, image) -> its result."""
    offered = getattr(function, "params", None)
    if offered is None:
        return {}, lambda _, image: function(image)
    places, structure = jax.tree_util.tree_flatten_with_path(offered)
    leaves = {jax.tree_util.keystr(place): leaf for place, leaf in places}
    for name, leaf in leaves.items():
        if not hasattr(leaf, "dtype") or leaf.dtype == object:
            raise InputError(f"its params{name} is a {type(leaf).__name__}; accepted: a tree of arrays")
    keys = {name: jax.random.key_impl(leaf) for name, leaf in leaves.items() if _is_key(leaf)}
    arrays = {name: np.asarray(_without_key_type(leaf)) for name, leaf in leaves.items()}
    parameters = {name: array.astype(jax.dtypes.canonicalize_dtype(array.dtype)) for name, array in arrays.items()}

    def call(parameters: Mapping[str, jax.Array], image: jax.Array) -> PyTree:
        wrapped = {name: jax.random.wrap_key_data(parameters[name], impl=impl) for name, impl in keys.items()}
        return function(structure.unflatten([wrapped.get(name, parameters[name]) for name in leaves]), image)

    return parameters, call
