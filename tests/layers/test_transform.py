"""The transform layer: every size to every other, as its docstring says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax.layers.transform import FORMS, Transform, _resized, _strides


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("have", "want"), [(8, 8), (8, 4), (32, 8), (4, 8), (2, 8), (7, 3), (7, 4), (3, 7), (6, 4)])
def test_any_shape_becomes_any_other(form, have, want):
    layer = Transform((want, want, 5), form)
    x = jax.ShapeDtypeStruct((2, have, have, 3), jnp.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    out, moved = jax.eval_shape(lambda v, x: layer.apply(v, x, True, mutable=["batch_stats"]), variables, x)
    assert out.shape == (2, want, want, 5)
    assert jax.tree.structure(moved["batch_stats"]) == jax.tree.structure(variables["batch_stats"])
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v}
    ups, downs = ([v for k, v in kernels.items() if k.startswith(of)] for of in ("up", "conv"))
    assert kernels["conv"] == (1, 1, 5 if ups else 3, 5) and (len(kernels) == 1) == (form == "conv1x1")
    assert ups == [(4, 4, 5 if i else 3, 5) for i in range(len(ups))] and all(v[2] == 3 for v in downs if not ups)


def test_strides():
    assert _strides(8, 8) == [1] and _strides(8, 4) == [2] and _strides(32, 8) == [2, 2] and _strides(2, 8) == [0.5] * 2
    assert _strides(7, 4) == [2] and _strides(7, 3) == [2] and _strides(6, 4) == [1]


def test_resizing():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(_resized(x, (2, 2))[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(_resized(_resized(x, (8, 8)), (4, 4)), x)
    assert _resized(x, (4, 4)) is x and _resized(x, (3, 3)).shape == (1, 3, 3, 1)
