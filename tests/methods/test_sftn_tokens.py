"""SFTN's branches into tokens and out of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import losses, methods, models
from kd_jax.typing import Variables
from tests.methods.test_sftn import BATCH, SHAPE, TEACHER

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

VIT = models.vit.VisionTransformer(width=8, heads=2, blocks=(1, 1, 1), patch=4, num_classes=5)


@pytest.fixture(scope="module")
def tokens():
    """A student and a teacher with tokens, four of them in images of 8 x 8, under a name and as a view."""
    image = jax.random.normal(jax.random.key(1), (BATCH, *SHAPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "vit_tiny_patch16_224", lambda num_classes: VIT.clone(num_classes=num_classes))
        yield image, jax.jit(lambda: models.init(VIT, jax.random.key(0), image))()


def branched(image, network, variables, student):
    """What a branch from stage 1 makes of a teacher: distiller, its variables, the teacher's outputs, terms, logs."""
    context = kd_jax.make_init_context(network, (), image_shape=SHAPE, batch_size=BATCH)
    distiller = methods.sftn_branches(student=student, stages=("1:1",), transform="conv1x1")

    @jax.jit
    def run(params):
        vars = distiller.init(jax.random.key(2), context)
        vars = vars if params is None else vars._replace(params=params)
        outputs, _ = models.apply(network, variables, image, train=True)
        view = context.view_shapes._replace(
            image=image, student=outputs, labels=jnp.arange(BATCH) % 5, step=jnp.int32(0)
        )
        return vars, outputs, *distiller.apply(vars, view, jax.random.key(3), True)[1:]

    return run


@pytest.mark.full
def test_a_branch_into_tokens(tokens):
    """By hand: cells of either sign in rows behind a class token, learned positions, then the student's tail."""
    image, net = tokens
    of_maps = jax.jit(models.init, static_argnums=0)(TEACHER, jax.random.key(0), image)
    for network, variables in ((TEACHER, of_maps), (VIT, net)):
        run = branched(image, network, variables, "vit_tiny_patch16_224")
        vars, outputs, terms, _, stats = run(None)
        transform = vars.params["branch1"]["transform"]
        cells = np.asarray(outputs.stages[1], np.float64)
        if network is VIT:
            cells = cells[:, 1:].reshape(BATCH, 2, 2, -1)
        else:  # 8 x 8 averaged to 2 x 2
            cells = cells.reshape(BATCH, 2, 4, 2, 4, -1).mean((2, 4))
        x = cells @ np.asarray(transform["conv"]["kernel"][0, 0], np.float64)
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        assert (x < 0).any()
        x = np.concatenate([np.zeros((BATCH, 1, 8)), x.reshape(BATCH, 4, 8)], axis=1) + transform["positions"]
        assert transform["positions"].shape == (1, 5, 8) and 0.01 < float(transform["positions"].std()) < 0.03
        student = Variables(vars.params["branch1"]["student"], {})
        assert set(student.params) == {"blocks.1", "blocks.2", "norm", "head"}
        logits = models.apply(VIT, student, x.astype("f"), train=True, after=1)[0].logits
        np.testing.assert_allclose(
            terms["ce"], losses.cross_entropy(student=logits, labels=jnp.arange(BATCH) % 5), rtol=1e-3
        )
        assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    slopes = jax.jit(jax.grad(lambda p: jnp.mean(run(p)[2]["kl"])))(vars.params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(slopes["branch1"]["transform"]["positions"]))


def test_a_branch_from_tokens_into_maps(tokens):
    """What a teacher's class token says, no branch hears; what its patches say, every one."""
    image, variables = tokens
    vars, outputs, terms, _, _ = branched(image, VIT, variables, "resnet8")(None)
    context = kd_jax.make_init_context(VIT, (), image_shape=SHAPE, batch_size=BATCH)
    distiller = methods.sftn_branches(student="resnet8", stages=("1:1",), transform="conv1x1")
    entry = vars.params["branch1"]["transform"]
    assert set(entry) == {"conv", "bn"} and entry["conv"]["kernel"].shape == (1, 1, 8, 4)

    @jax.jit
    def ce(change, place):
        stages = (outputs.stages[0], outputs.stages[1].at[:, place].add(change), *outputs.stages[2:])
        view = context.view_shapes._replace(image=image, student=outputs._replace(stages=stages), step=jnp.int32(0))
        view = view._replace(labels=jnp.arange(BATCH) % 5)
        return distiller.apply(vars, view, jax.random.key(3), True)[1]["ce"]

    np.testing.assert_allclose(ce(0.0, 1), terms["ce"], rtol=1e-5)
    change = jax.random.normal(jax.random.key(9), (BATCH, 8))
    np.testing.assert_array_equal(ce(change, 0), ce(0.0, 0))
    assert not np.allclose(ce(change, 3), terms["ce"], rtol=1e-3)
