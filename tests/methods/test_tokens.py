"""Methods on tokens: the patches of a transformer are the cells of a map."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import losses, methods, models
from kd_jax.layers import augment, policy
from kd_jax.layers.exits import TokenExit
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.sftn import _branches
from kd_jax.methods.stages import _grid, as_before, as_map, is_tokens
from kd_jax.models.vit import VisionTransformer

SHAPE, BATCH = (8, 15, 3), 4  # 2 x 3 patches, 3 columns unseen
CNN = models.create("resnet8", 5, widths=(4, 4, 8, 8))
VIT = VisionTransformer(width=8, heads=2, blocks=(1, 1, 1), patch=4, num_classes=5)


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (BATCH, *SHAPE))


@pytest.fixture(scope="module")
def views(image):
    """(student, teacher) -> a view of their outputs, and context; of "vit" and "cnn"."""
    nets = {"vit": VIT, "cnn": CNN}

    @jax.jit
    def outputs():
        variables = {n: models.init(net, jax.random.key(i), image) for i, (n, net) in enumerate(nets.items())}
        return {name: models.apply(nets[name], variables[name], image)[0] for name in nets}

    out = outputs()

    def view(student, teacher):
        context = kd_jax.make_init_context(nets[student], (nets[teacher],), image_shape=SHAPE, batch_size=BATCH)
        fields = {"student": out[student], "teachers": (out[teacher],), "labels": jnp.arange(BATCH) % 5}
        return context.view_shapes._replace(image=image, step=jnp.int32(0), **fields), context

    return view


def test_a_cell_is_its_patch(views, image):
    tokens = views("vit", "cnn")[0].student.stages[2]
    cells = as_map(tokens, SHAPE)
    assert is_tokens(tokens) and not is_tokens(cells) and cells.shape == (BATCH, 2, 3, 8)
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(cells[:, row, column], tokens[:, 1 + 3 * row + column])
    variables = jax.jit(partial(models.init, VIT))(jax.random.key(0), image)
    other = image.at[:, 5, 10].add(1.0)  # of the patch in row 1, column 2
    stage = jax.jit(lambda x: as_map(models.apply(VIT, variables, x)[0].stages[0], SHAPE))
    first = [stage(x) for x in (image, other)]
    moved = np.asarray(first[0] != first[1]).any((0, 3))
    np.testing.assert_array_equal(moved, [[False] * 3, [False, False, True]])
    assert as_map(cells, SHAPE) is cells and as_before(cells, cells) is cells
    np.testing.assert_array_equal(as_before(2 * cells, tokens)[:, 1:], 2 * tokens[:, 1:])
    np.testing.assert_array_equal(as_before(2 * cells, tokens)[:, 0], tokens[:, 0])
    assert as_map(jax.ShapeDtypeStruct((4, 7, 8), jnp.bfloat16), SHAPE).dtype == jnp.bfloat16


def test_a_distillation_token_is_no_patch():
    """Methods on maps read the patches behind both tokens, change these alone, and bring both into a tail."""
    distilled = VIT.clone(distill_token=True)
    tokens = jax.random.normal(jax.random.key(2), (BATCH, 8, 8))
    assert models.shapes(distilled, SHAPE)[1].stages[1].shape == (1, 8, 8)
    cells = as_map(tokens, SHAPE)
    np.testing.assert_array_equal(cells.reshape(BATCH, 6, 8), tokens[:, 2:])
    changed = as_before(-cells, tokens)
    np.testing.assert_array_equal(changed[:, :2], tokens[:, :2])
    np.testing.assert_array_equal(changed[:, 2:], -tokens[:, 2:])
    layer = TokenExit(5, (2, 2), 1)
    patches = jax.random.normal(jax.random.key(3), (BATCH, 6, 8))
    params = jax.jit(layer.init)(jax.random.key(4), patches)
    exits = [jax.jit(layer.apply)(params, x) for x in (patches, jnp.delete(patches, 1, axis=1))]
    np.testing.assert_array_equal(*exits)
    branch = _branches(distilled, "student", SHAPE, (1, 1, 1, 1), (), "conv1x1", False)[0]
    variables = jax.eval_shape(branch.transform.init, jax.random.key(0), jnp.zeros((1, 2, 3, 4)))
    assert variables["params"]["positions"].shape == (1, 8, 8)


def test_the_grid_is_the_only_one():
    for height in range(1, 24):
        for width in range(1, 24):
            for patch in range(1, min(height, width) + 1):
                grid = height // patch, width // patch
                assert _grid(grid[0] * grid[1], height, width) == grid
    with pytest.raises(ValueError, match="9 tokens beside the class token are no grid of patches of 8x15 images"):
        as_map(jnp.zeros((2, 10, 4)), SHAPE)


def term_of(distiller, vars, view):
    """The one term, in one program."""
    return jax.jit(lambda vars, view: distiller.apply(vars, view, jax.random.key(3), True)[1][""])(vars, view)


def norm(x):
    x = np.asarray(x, np.float64)
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


@pytest.mark.parametrize("student", ["vit", "cnn"])
def test_fitnet_on_tokens(views, student):
    """By hand: a regressor whose last ReLU is there for a convolutional teacher alone."""
    teacher = {"vit": "vit", "cnn": "vit"}[student]
    view, context = views(student, teacher)
    stage = 1 if student == "vit" else 2
    distiller = methods.fitnet(weight=1.0, stage=stage)
    vars = jax.jit(lambda: distiller.init(jax.random.key(2), context))()
    value = term_of(distiller, vars, view)
    ours, theirs = (as_map(x.stages[stage], SHAPE) for x in (view.student, view.teachers[0]))
    kernel, (h, w) = np.asarray(vars.params["regressor"]["conv0"]["kernel"], np.float64), theirs.shape[1:3]
    size = kernel.shape[:2]
    assert size == (1 + ours.shape[1] - h, 1 + ours.shape[2] - w)
    cells = [np.asarray(ours[:, i : i + h, j : j + w], np.float64) @ kernel[i, j] for i, j in np.ndindex(size)]
    regressed = norm(sum(cells))
    assert (regressed < 0).any() and (np.asarray(theirs) < 0).any()
    np.testing.assert_allclose(value, ((regressed - theirs) ** 2).mean((1, 2, 3)), rtol=1e-3)


def test_fitnet_on_a_transformer_keeps_the_relu_of_a_convolutional_teacher():
    shape = (8, 16, 3)  # 4 x 8 patches, as many as the teacher's stage 2 has cells
    vit = VisionTransformer(width=8, heads=2, blocks=(1, 1), patch=2, num_classes=5)
    context = kd_jax.make_init_context(vit, (CNN,), image_shape=shape, batch_size=BATCH)
    distiller = methods.fitnet(weight=1.0, stage=2)
    vars = jax.jit(lambda: distiller.init(jax.random.key(2), context))()
    tokens = jax.random.normal(jax.random.key(1), (BATCH, 33, 8))
    outputs = [net._replace(stages=(None, None, x)) for net, x in (
        (context.view_shapes.student, tokens), (context.view_shapes.teachers[0], jnp.zeros((BATCH, 4, 8, 8))),
    )]  # fmt: skip
    view = context.view_shapes._replace(image=jnp.zeros((BATCH, *shape)), student=outputs[0], teachers=(outputs[1],))
    value = term_of(distiller, vars, view)
    assert 0.4 < float(value.mean()) < 0.6  # of N(0, 1), a ReLU leaves half the square


@pytest.mark.parametrize("method", ["at", "nst", "kdsvd"])
def test_losses_on_stages_read_tokens_as_maps(views, method):
    view, context = views("vit", "cnn")
    distiller = getattr(methods, method)(weight=1.0)
    distiller.init(jax.random.key(0), context)
    value = distiller.apply(NO_VARS, view, jax.random.key(0), True)[1][""]
    students = [as_map(s, SHAPE) for s in view.student.stages[1:]]
    wanted = getattr(losses, method)(students=students, teachers=view.teachers[0].stages[1:])
    np.testing.assert_array_equal(value, wanted)
    assert float(jnp.abs(value).max()) > 0


def test_dafa_refines_the_patches_and_leaves_the_class_token(views):
    view, _ = views("cnn", "vit")
    start = policy.init(jax.random.key(0), estimator="relaxed")
    dafa = methods.dafa(stages=(1,))
    apply = jax.jit(
        lambda policy_vars, key: dafa.apply(NO_VARS._replace(policy=policy_vars), view, key, True)[0].teachers
    )
    off = {**start, "probability": jnp.zeros_like(start["probability"])}
    jax.tree.map(np.testing.assert_array_equal, apply(off, jax.random.key(5)), view.teachers)
    on = {k: jnp.ones_like(v) for k, v in start.items()}
    before, after = view.teachers[0].stages, apply(on, jax.random.key(5))[0].stages
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    np.testing.assert_array_equal(before[1][:, 0], after[1][:, 0])
    key = methods.base.fold(jax.random.key(5), "draw")
    drawn = policy.draw(on, key, estimator="relax", temperature=0.5)
    pair, place = jnp.asarray(augment.PAIRS)[drawn.index], methods.base.fold(jax.random.key(5), "operations")
    by_hand = augment.apply_pair(as_map(before[1], SHAPE), pair, drawn.on, drawn.magnitudes, place)
    np.testing.assert_allclose(as_map(after[1], SHAPE), by_hand, rtol=1e-5, atol=1e-6)


def test_dam_on_tokens(views):
    view, context = views("cnn", "vit")
    distiller = methods.dam(weight=1.0, areas=2, channels=4)
    vars = jax.jit(lambda: distiller.init(jax.random.key(2), context))()
    refined, terms, _, stats = distiller.apply(vars, view, jax.random.key(0), True)
    assert refined.spatial_mask.shape == (BATCH, 2, 3, 1) and np.isfinite(terms[""]).all()
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    assert distiller.visualizations(vars, view)["teacher"].shape == (BATCH, 2, 3)


@pytest.mark.full  # on maps: test_sokd_runs.py
def test_sokd_in_front_of_fitnet_searches(views):
    """One step of everything, DAFA's tokens read by DAM and FitNet."""
    view, context = views("vit", "vit")
    chain = methods.chain(
        dam=methods.dam(areas=2, channels=4, stage=1), dafa=methods.dafa(stages=(1,)), fit=methods.fitnet(stage=1)
    )
    vars = jax.jit(lambda: chain.init(jax.random.key(0), context))()

    def loss(params, policy_vars):
        terms = chain.apply(vars._replace(params=params, policy=policy_vars), view, jax.random.key(1), True)[1]
        return sum(jnp.mean(t) for t in terms.values())

    slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(vars.params, vars.policy)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(slopes))
    assert float(optax.tree.norm(slopes[1]["dafa"]["magnitude"])) > 0
