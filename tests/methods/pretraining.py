"""What tests of AB, FSP and FT share: views, a paraphraser as if trained, a step that lowers the loss."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.layers.factors import LinearRegressor, encoder
from kd_jax.losses import pretraining as losses
from kd_jax.methods import paraphraser
from tests.methods.test_vid import init_vars, tiny

# student's and teacher's stages behind the stem: the first pair of AB's is of one shape
STUDENT, TEACHER = [(8, 8, 4), (4, 4, 3), (3, 2, 4)], [(8, 8, 4), (5, 7, 6), (6, 4, 8)]
HIGHER = [(8, 8, 4), (8, 8, 3), (6, 5, 4)]  # of the student, so that a convolution takes them to the teacher's


def paraphrased(width=8, rate=0.5, batch_norm=False, seed=5):
    """What a phase with a term `paraphraser` leaves, as if trained: nothing in it stands where it starts."""
    _, context = tiny([(4, 4, width)], [(4, 4, width)])
    vars = init_vars(paraphraser(rate=rate, batch_norm=batch_norm), context, seed)

    def shifted(x):
        return x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)

    return jax.tree.map(shifted, vars)


def with_given(context, given):
    return context._replace(initial_vars={"paraphraser": given})


def falls(distiller, vars, view):
    """A step of the method's parameters lowers the loss by about as much as its gradient says; every layer has one."""

    def loss(params):
        return distiller.apply(vars._replace(params=params), view, jax.random.key(2), True)[1][""].mean()

    @jax.jit
    def descend(params):
        before, grads = jax.value_and_grad(loss)(params)
        size = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
        return before, loss(jax.tree.map(lambda p, g: p - 1e-2 * before * g / size, params, grads)), grads

    before, after, grads = descend(vars.params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)) and 0.97 * before < after < 0.995 * before
    for path, g in jax.tree.leaves_with_path(grads):
        assert path[-1].key == "bias" or float(jnp.abs(g).max()) > 1e-6, jax.tree_util.keystr(path)


def pair(student=STUDENT, teacher=TEACHER):
    return tiny(student, teacher)


def connected(vars, view, train=True):
    out, stats = [view.student.preacts[1]], {}
    for i in (2, 3):
        variables = {"params": vars.params[f"stage{i}"], "batch_stats": vars.stats[f"stage{i}"]}
        layer = LinearRegressor(view.teachers[0].preacts[i].shape[1:])
        x, moved = layer.apply(variables, view.student.preacts[i], train, mutable=["batch_stats"])
        stats[f"stage{i}"] = moved["batch_stats"]
        out.append(x)
    return out, stats


def equally_wide():
    return pair([(8, 8, 4), (4, 4, 6), (3, 2, 8)])


def expected_ft(vars, view, train=True, mask=(1.0, 1.0), **powers):
    student, teacher = view.student.stages[-1], view.teachers[0].stages[-1]
    variables = {"params": vars.params["translator"], "batch_stats": vars.stats["translator"]}
    translator = encoder(student.shape[-1], 4, bool(variables["batch_stats"]))
    translated, moved = translator.apply(variables, student, train, mutable=["batch_stats"])
    frozen = vars.stats["encoder"]
    factors = encoder(teacher.shape[-1], 4, bool(frozen["batch_stats"])).apply(frozen, teacher, False)
    return losses.ft(student=mask[0] * translated, teacher=mask[1] * factors, **powers), moved
