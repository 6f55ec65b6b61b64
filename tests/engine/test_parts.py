"""A batch in parts, blocks computed twice, and another precision: what must stay the same, and what is refused."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

import kd_jax
from kd_jax import InputError, config, data, methods, models, recipes
from kd_jax.distributed.mesh import Layout
from kd_jax.engine.metrics import read
from kd_jax.engine.objective import objective
from kd_jax.engine.views import student_runner
from kd_jax.methods.base import fold
from kd_jax.plan import build, optimizers
from tests.conftest import TINY, tree
from tests.tiny import TinyNet

KEY = jax.random.key(0)
BATCH = {"image": jax.random.normal(KEY, (8, 8, 8, 3)), "label": jnp.arange(8) % 10}
VIT = {"width": 8, "heads": 2, "patch": 4, "blocks": (1, 1)}
TAUGHT = kd_jax.Outputs((), None, None, 3 * jax.random.normal(KEY, (8, 10)))
PLAIN = methods.chain(ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9))
TX = optax.sgd(0.1, momentum=0.9)


def net(name="resnet8", **more):
    return models.create(name, 10, **VIT, **more) if name.startswith("vit") else TinyNet(**more)


def start(model):
    parts = {"student": model, "distiller": PLAIN, "tx": TX}
    context = kd_jax.make_init_context(model, (model,), image_shape=(8, 8, 3), batch_size=8)
    return jax.jit(partial(kd_jax.init_state, context=context, **parts))(KEY), parts


def lowered(model, state, **how):
    step = partial(kd_jax.train_step, student=model, distiller=PLAIN, tx=TX, **how)
    return jax.jit(step).lower(state, TAUGHT, BATCH, KEY)


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("scan", [False, True])
def test_parts_are_the_batch_where_nothing_mixes_examples(scan):
    model = net("vit_tiny_patch16_224")
    state, _ = start(model)
    whole, metrics = lowered(model, state).compile()(state, TAUGHT, BATCH, KEY)
    cut, cut_metrics = lowered(model, state, accumulate=4, scan=scan).compile()(state, TAUGHT, BATCH, KEY)
    close(whole.params, cut.params, rtol=1e-5, atol=1e-6)
    close(whole.opt, cut.opt, rtol=1e-4, atol=1e-6)
    assert int(cut.step) == 1 and read(metrics) == pytest.approx(read(cut_metrics), rel=1e-5)


@pytest.fixture(scope="module")
def by_hand():
    """Two parts of a network with BatchNorm, each after the other, in a loop of its own."""
    model = net()
    state, parts = start(model)
    key = jax.random.fold_in(KEY, state.step)

    @jax.jit
    def loss(params, stats, taught, batch, key):
        given = (state.policy, state._replace(stats=stats), (taught,), batch, key)
        return objective(params, *given, student=model, distiller=PLAIN)

    stats, grads = state.stats, []
    for j in range(2):
        taught, batch = jax.tree.map(lambda x, j=j: x[j::2], (TAUGHT, BATCH))
        grads.append(jax.grad(lambda *a: loss(*a)[0])(state.params, stats, taught, batch, jax.random.fold_in(key, j)))
        stats = loss(state.params, stats, taught, batch, jax.random.fold_in(key, j))[1][3]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)
    updates, opt = TX.update(mean, state.opt, state.params)
    return model, state, (optax.apply_updates(state.params, updates), stats, opt)


@pytest.mark.parametrize("scan", [False, True])
def test_parts_are_a_loop_over_them(by_hand, scan):
    model, state, (params, stats, opt) = by_hand
    now, _ = lowered(model, state, accumulate=2, scan=scan).compile()(state, TAUGHT, BATCH, KEY)
    close(now.params, params, rtol=1e-5, atol=1e-6)
    close(now.stats["student"], stats["student"], rtol=1e-5, atol=1e-6)
    close(now.opt, opt, rtol=1e-4, atol=1e-6)
    once, _ = lowered(model, state).compile()(state, TAUGHT, BATCH, KEY)
    assert float(jnp.abs(once.params["student"]["fc"]["kernel"] - params["student"]["fc"]["kernel"]).max()) > 1e-5


def test_a_loop_over_parts_keeps_one_part(by_hand):
    """Activations of a part of four, and not of all."""
    model, state, _ = by_hand
    sizes = [
        lowered(model, state, accumulate=n, scan=n > 1).compile().memory_analysis().temp_size_in_bytes for n in (1, 4)
    ]
    assert sizes[1] < 0.7 * sizes[0], sizes


def test_precision():
    """bfloat16 inside of the network, float32 around it; and float32 is what it was."""
    model = net()
    state, _ = start(model)
    plain, half = lowered(model, state), lowered(models.with_options(model, precision="bfloat16"), state)
    assert "bf16" not in plain.as_text()
    convolutions = [line for line in half.as_text().splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("bf16" in line and "xf32" not in line for line in convolutions)
    losses, step = [], half.compile()
    first, other = state, plain.compile()(state, TAUGHT, BATCH, KEY)[1]
    for _ in range(6):
        state, metrics = step(state, TAUGHT, BATCH, KEY)
        losses.append(read(metrics)["loss"])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((state.params, state.stats, state.opt, metrics)))
    assert losses[0] == pytest.approx(read(other)["loss"], rel=0.02) and losses[-1] < losses[0]
    assert losses[0] != read(other)["loss"]
    outputs = models.apply(models.with_options(model, precision="bfloat16"), first.student, BATCH["image"])[0]
    assert {x.dtype for x in jax.tree.leaves(outputs)} == {jnp.dtype(jnp.float32)}


QUICK = ("resnet8", "vit_tiny_patch16_224", "wrn_16_1", "vgg8")
KINDS = ("resnet8", "vit_tiny_patch16_224", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "imagenet_MobileNetV1")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in KINDS])
def test_remat_keeps_less(name):
    """Between the passes far less is kept; names and shapes of the variables are the same."""
    sizes, shapes = [], []
    for remat in (False, True):
        model = models.create(name, 10, remat=remat)
        side = 224 if name.startswith("vit") else 32
        image = jax.ShapeDtypeStruct((8, side, side, 3), jnp.float32)
        variables = jax.eval_shape(partial(models.init, model), KEY, image)
        shapes.append(variables)

        def residuals(params, stats, image, model=model):
            def loss(params):
                return models.apply(model, models.base.Variables(params, stats), image, True)[0].logits.sum()

            return jax.vjp(loss, params)[1]

        trees = jax.eval_shape(residuals, variables.params, variables.stats, image), variables
        saved, parameters = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in trees)
        sizes.append(saved - parameters)  # the parameters are kept in any case
    assert shapes[0] == shapes[1]
    assert sizes[1] < 0.75 * sizes[0], sizes


@pytest.mark.parametrize("name", ["resnet8", "vit_tiny_patch16_224"])
def test_remat_computes_the_same(name):
    model = models.create(name, 10, **(VIT if name.startswith("vit") else TINY))
    state, _ = start(model)
    plain = lowered(model, state).compile()(state, TAUGHT, BATCH, KEY)
    again = lowered(models.with_options(model, remat=True), state)
    assert "optimization_barrier" in again.as_text()
    close(plain, again.compile()(state, TAUGHT, BATCH, KEY), rtol=1e-5, atol=1e-6)


def test_a_graft_hands_options_on():
    model = models.with_options(models.create("graft:resnet8+resnet14", 10), precision="bfloat16", remat=True)
    assert model.remat and model.student.remat and not model.teacher.remat


def plan(**changes):
    recipe = config.parse(tree(**changes))
    dataset = data.load(recipe.data.name, synthetic=recipe.data.synthetic)
    return build(recipe, dataset, epath.Path("/nowhere"), Layout((1,)))


WHOLE = [
    ({"refine__skd__simplifier": "batch"}, "skd attends over the whole batch; accepted: 1"),
    ({"refine_order": (), "terms__dist": recipes.member("dist")}, "dist is one number for the whole batch;"),
    ({"refine_order": (), "terms__sp": recipes.member("sp")}, "sp is one number for the whole batch; accepted: 1"),
    ({"refine_order": (), "terms__mlld": recipes.member("mlld")}, "mlld is one number for the whole batch;"),
    ({"refine_order": (), "terms__crd": recipes.member("crd", negatives=8)}, "crd reads a bank of features"),
    (
        {"refine__dafa": recipes.member("dafa"), "refine_order": ("dafa",), "terms__fit": recipes.member("fitnet")},
        "its search looks through the step of a whole batch; accepted: 1",
    ),
    ({"batch_size": 10, "refine_order": ()}, "batch 10 on 1 devices does not divide into so many parts"),
]


@pytest.mark.parametrize(("changes", "message"), WHOLE, ids=[message for _, message in WHOLE])
def test_what_looks_at_the_whole_batch_is_refused(changes, message):
    changes = {f"student__{key}": value for key, value in changes.items()}
    with pytest.raises(InputError, match=f"^config.student.accumulate: 4, but {message}"):
        plan(student__accumulate=4, **changes)


def test_what_may_be_cut_is_not_refused():
    """SKD over classes, without a simplifier, and no SKD; the printed line says how the batch is made up."""
    for changes in ({"refine_order": ()}, {}, {"refine__skd__simplifier": "none"}):
        _, student = plan(student__accumulate=2, **{f"student__{k}": v for k, v in changes.items()})
    line = "batch 8 = 2 devices x 2 accumulated x 2; BatchNorm sees one accumulated part at a time"
    assert replace(student, layout=SimpleNamespace(count=2)).batch_line == line
    assert plan()[0].batch_line == "batch 8 = 1 device x 8"


def test_a_recipe_tells_every_network():
    teacher, student = plan(precision="bfloat16", student__remat=True)
    assert [m.precision for m in (teacher.network.model, student.network.model)] == ["bfloat16"] * 2
    assert student.teachers[0].network.model == teacher.network.model
    assert (teacher.network.model.remat, student.network.model.remat) == (False, True)


@pytest.mark.usefixtures("simple_operations")
def test_finite_differences_need_float32():
    finite, fitnet = recipes.member("dafa", hypergradient="finite"), recipes.member("fitnet")
    search = {"refine__dafa": finite, "refine_order": ("dafa",), "terms__fit": fitnet}
    search = {f"student__{key}": value for key, value in search.items()}
    plan(**search)
    with pytest.raises(InputError, match="^config.precision: bfloat16, but student.* finite differences"):
        plan(**search, precision="bfloat16")


@pytest.mark.usefixtures("simple_operations")
@pytest.mark.parametrize("optimizer", ["dot", "deepkd"])
def test_gradients_apart_need_an_exact_search(optimizer):
    finite, fitnet = recipes.member("dafa", hypergradient="finite"), recipes.member("fitnet")
    search = {"refine__dafa": finite, "refine_order": ("dafa",), "terms__fit": fitnet}
    search |= {"optim__name": optimizer, "optim__delta": 0.05}
    with pytest.raises(
        InputError, match=r"^config\.student\.optim\.delta: a search beside it needs hypergradient=exact"
    ):
        plan(**{f"student__{key}": value for key, value in search.items()})


def test_a_clip_is_of_the_whole_gradient():
    """Student and method together, before decay and momentum."""
    phase = plan(student__optim__clip=0.5)[1].phase
    params = {"student": jnp.full(4, 2.0), "method": {"skd": jnp.full(12, 2.0)}}
    grads = jax.tree.map(jnp.ones_like, params)  # norm 4
    tx = optimizers.make_optimizer(phase, lambda step: 1.0, {})
    updates, _ = tx.update(grads, tx.init(params), params)
    close(updates, jax.tree.map(lambda p: -(0.125 + 5e-4 * p), params), rtol=1e-6)
    small = jax.tree.map(lambda g: 0.01 * g, grads)
    close(tx.update(small, tx.init(params), params)[0], jax.tree.map(lambda p: -(0.01 + 5e-4 * p), params), rtol=1e-6)


def test_a_key_of_its_own_for_every_part():
    from kd_jax.typing import Distiller

    def apply(vars, view, key, train):
        return view, {}, {"": jnp.full(view.labels.shape, jax.random.uniform(key))}, {}

    drawn = methods.chain(ce=methods.ce(), draw=Distiller(methods.identity().init, apply))
    model = net()
    state, _ = start(model)
    step = partial(kd_jax.train_step, student=model, distiller=drawn, tx=TX, accumulate=2)
    _, metrics = jax.jit(step)(state, None, BATCH, KEY)
    key = jax.random.fold_in(KEY, 0)
    each = [jax.random.uniform(fold(fold(jax.random.fold_in(key, j), "method"), "draw")) for j in range(2)]
    assert read(metrics)["logs/draw"] == pytest.approx(float(sum(each)) / 2, rel=1e-6)


DEEP = net("vit_tiny_patch16_224", drop_path=0.5)


@pytest.mark.full  # that blocks drop: test_vit.py; by key and step: above
def test_a_step_draws_its_own_stochastic_depth():
    """A function of key and step; the parts of a batch draw theirs; remat drops the same."""
    state, _ = start(DEEP)
    step = lowered(DEEP, state).compile()

    def head(state, step=step):
        return np.asarray(step(state, TAUGHT, BATCH, KEY)[0].params["student"]["head"]["kernel"])

    first = head(state)
    np.testing.assert_array_equal(first, head(state))
    assert abs(first - head(state._replace(step=jnp.int32(1)))).max() > 1e-4
    plain = lowered(net("vit_tiny_patch16_224"), state).compile()
    assert abs(first - head(state, plain)).max() > 1e-4
    again = lowered(models.with_options(DEEP, remat=True), state).compile()
    np.testing.assert_allclose(first, head(state, again), rtol=1e-5, atol=1e-7)
    cut = lowered(DEEP, state, accumulate=2).compile()
    assert abs(first - head(state, cut)).max() > 1e-5


def test_another_look_drops_other_blocks():
    """Looks of one name drop the same; a phase that leaves the network alone drops none."""
    state, _ = start(DEEP)
    run = partial(student_runner, DEEP, state.params["student"], KEY)
    image = BATCH["image"]
    first, same, other, off = (
        jax.jit(lambda name=name, train=train: run(train=train)({}, image, name)[0].logits)()
        for name, train in (("", True), ("", True), ("again", True), ("", False))
    )
    np.testing.assert_array_equal(first, same)
    plain = jax.jit(lambda: models.apply(net("vit_tiny_patch16_224"), state.student, image)[0].logits)()
    np.testing.assert_array_equal(off, plain)
    assert abs(first - other).max() > 1e-4 and abs(first - off).max() > 1e-4
