"""SFTN's branches: their wiring against a slow reference, gradients and switches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import losses, methods, models
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.sftn import _placed, _stage_pairs
from kd_jax.typing import Variables
from tests.tiny import TinyNet

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

TEACHER = TinyNet(num_classes=5)
SHAPE, BATCH = (8, 8, 3), 6


@pytest.fixture(scope="module")
def setting():
    image = jax.random.normal(jax.random.key(1), (BATCH, *SHAPE))
    variables = jax.jit(models.init, static_argnums=0)(TEACHER, jax.random.key(0), image)
    context = kd_jax.make_init_context(TEACHER, (), image_shape=SHAPE, batch_size=BATCH)
    return image, jnp.arange(BATCH) % 5, variables, context


def run(distiller, vars, setting, params=None):
    """terms, logs, stats of the distiller on the teacher's view."""
    image, labels, variables, context = setting
    net = variables._replace(params=variables.params if params is None else params)
    outputs, _ = models.apply(TEACHER, net, image, train=True)
    view = context.view_shapes._replace(image=image, student=outputs, labels=labels, step=jnp.int32(0))
    return distiller.apply(vars, view, jax.random.key(3), True)[1:]


@pytest.fixture(scope="module")
def branches(setting):
    """kwargs -> (distiller, its variables), each built once."""
    cached = {}

    def make(**kwargs):
        key = tuple(kwargs.items())
        if key not in cached:
            distiller = methods.sftn_branches(student="resnet8", **kwargs)
            cached[key] = distiller, jax.jit(lambda: distiller.init(jax.random.key(2), setting[3]))()
        return cached[key]

    return make


def test_a_branch_is_transform_then_the_students_tail(setting, branches):
    """By hand: the 3x3 and 1x1 of the transform with BatchNorm over the batch, then the student behind stage 1."""
    distiller, vars = branches(stages=("1:1",), temperature=2.0)
    terms, logs, _ = run(distiller, vars, setting)
    image, labels, variables, _ = setting
    outputs, _ = models.apply(TEACHER, variables, image, train=True)
    transform = vars.params["branch1"]["transform"]

    def conv(x, kernel):
        pad = kernel.shape[0] // 2
        x, out = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0))), 0
        size = x.shape[1] - 2 * pad
        for i in range(kernel.shape[0]):
            for j in range(kernel.shape[1]):
                out = out + x[:, i : i + size, j : j + size] @ np.asarray(kernel[i, j], np.float64)
        return out

    def norm_relu(x):  # scale 1, bias 0 at the start
        return np.maximum((x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), 0)

    x = norm_relu(conv(outputs.stages[1], transform["conv0"]["kernel"]))
    x = norm_relu(conv(x, transform["conv"]["kernel"])).astype(np.float32)
    student = models.create("resnet8", 5)
    net = Variables(vars.params["branch1"]["student"], vars.stats["branch1"]["student"])
    logits = models.apply(student, net, x, train=True, after=1)[0].logits
    ce = losses.cross_entropy(student=logits, labels=labels)
    kl = losses.kd(student=logits, teacher=outputs.logits, temperature=2.0)
    np.testing.assert_allclose(terms["ce"], ce, rtol=1e-3)
    np.testing.assert_allclose(terms["kl"], 3 * kl, rtol=1e-3)
    np.testing.assert_allclose(logs["branch1/kl"], kl / 4, rtol=1e-3)
    np.testing.assert_array_equal(logs["branch1/top1"], logits.argmax(-1) == labels)


def test_the_terms_are_means_over_branches(setting, branches):
    (both, vars), one, two = branches(), branches(stages=("1:1",)), branches(stages=("2:2",))
    terms = run(both, vars, setting)[0]
    pick = lambda name: vars._replace(params={name: vars.params[name]}, stats={name: vars.stats[name]})  # noqa: E731
    first, second = run(one[0], pick("branch1"), setting)[0], run(two[0], pick("branch2"), setting)[0]
    for name in ("ce", "kl"):
        np.testing.assert_allclose(terms[name], (first[name] + second[name]) / 2, rtol=1e-5)


def test_lambdas_scale_and_switch(setting, branches):
    base, vars = branches()
    terms = run(base, vars, setting)[0]
    other = methods.sftn_branches(student="resnet8", lambda_ce=2.0, lambda_kl=1.5)
    scaled = run(other, vars, setting)[0]
    np.testing.assert_allclose(scaled["ce"], 2 * terms["ce"], rtol=1e-6)
    np.testing.assert_allclose(scaled["kl"], 0.5 * terms["kl"], rtol=1e-6)
    assert set(run(methods.sftn_branches(student="resnet8", lambda_kl=0.0), vars, setting)[0]) == {"ce"}
    half = methods.sftn_branches(student="resnet8", weight=0.5)
    np.testing.assert_allclose(run(half, vars, setting)[0]["kl"], 0.5 * terms["kl"], rtol=1e-6)


@pytest.mark.parametrize("off", [{"lambda_ce": 0.0, "lambda_kl": 0.0}, {"weight": 0.0}])
def test_both_weights_zero_is_plain_training(setting, off):
    image, labels, _, context = setting
    tx, batch = optax.sgd(0.1, momentum=0.9), {"image": image, "label": labels}

    def train(distiller):
        parts = {"student": TEACHER, "distiller": distiller, "tx": tx}
        state = kd_jax.init_state(jax.random.key(0), context=context, **parts)
        step = jax.jit(lambda s: kd_jax.train_step(s, None, batch, jax.random.key(1), **parts)[0])
        for _ in range(3):
            state = step(state)
        return state

    plain = train(methods.chain(ce=methods.ce()))
    branched = train(methods.chain(ce=methods.ce(), sftn=methods.sftn_branches(student="resnet8", **off)))
    jax.tree.map(np.testing.assert_array_equal, plain, branched)
    on = train(methods.chain(ce=methods.ce(), sftn=methods.sftn_branches(student="resnet8")))
    assert not np.array_equal(on.params["student"]["conv1"]["kernel"], plain.params["student"]["conv1"]["kernel"])


def gradient(setting, distiller, vars, term):
    """Of the mean of one term with respect to the teacher's parameters."""

    def loss(params):
        return jnp.mean(run(distiller, vars, setting, params)[0][term])

    return jax.jit(jax.grad(loss))(setting[2].params)


@pytest.mark.parametrize("detach", [False, True])
def test_where_the_gradient_goes(setting, branches, detach):
    """The divergence moves what lies under the branches always, head and last stage only if not detached."""
    distiller, vars = branches(detach_target=detach)
    moved = {name: float(optax.tree.norm(g)) for name, g in gradient(setting, distiller, vars, "kl").items()}
    assert all(moved[name] > 1e-4 for name in ("conv1", "bn1", "conv2"))
    for name in ("bn3", "fc"):
        assert (moved[name] == 0) if detach else (moved[name] > 1e-4)
    ce = {name: float(optax.tree.norm(g)) for name, g in gradient(setting, distiller, vars, "ce").items()}
    assert ce["bn1"] > 1e-4 and ce["fc"] == ce["bn3"] == 0  # the branches' own loss knows no head


def test_detaching_leaves_the_path_through_the_features(setting, branches):
    """Detached = not detached minus the gradient through the logits alone."""
    whole = gradient(setting, *branches(), "kl")
    features = gradient(setting, *branches(detach_target=True), "kl")
    distiller, vars = branches()
    image, labels, variables, context = setting

    def through_the_logits(params):
        fixed, _ = models.apply(TEACHER, variables, image, train=True)
        free, _ = models.apply(TEACHER, variables._replace(params=params), image, train=True)
        view = context.view_shapes._replace(
            image=image, labels=labels, step=jnp.int32(0), student=fixed._replace(logits=free.logits)
        )
        return jnp.mean(distiller.apply(vars, view, jax.random.key(3), True)[1]["kl"])

    logits = jax.jit(jax.grad(through_the_logits))(variables.params)
    total = jax.tree.map(jnp.add, features, logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), whole, total)


def test_statistics_move_and_belong_to_the_method(setting, branches):
    for kwargs in ({}, {"share": True}):
        distiller, vars = branches(**kwargs)
        _, _, stats = run(distiller, vars, setting)
        assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
        still = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (stats, vars.stats)), strict=True)]
        assert not any(still)


def test_sharing(setting, branches):
    """One set of student stages, from the earliest entry on; every branch keeps its transform."""
    distiller, vars = branches(share=True)
    assert set(vars.params) == {"branch1", "branch2", "shared"}
    assert set(vars.params["branch1"]) == set(vars.params["branch2"]) == {"transform"}
    assert {"conv2", "bn2", "bn3", "fc"} == set(vars.params["shared"]["student"])
    unshared = branches()[1].params
    assert {"conv2", "bn2", "bn3", "fc"} == set(unshared["branch1"]["student"])
    assert {"bn3", "fc"} == set(unshared["branch2"]["student"])
    grads = jax.jit(jax.grad(lambda p: jnp.mean(run(distiller, vars._replace(params=p), setting)[0]["ce"])))(
        vars.params
    )
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["shared"]["student"]["fc"]))


@pytest.mark.full  # one family: above
def test_two_families_on_one_teacher(setting):
    image, labels, _, context = setting
    chain = methods.chain(
        ce=methods.ce(), a=methods.sftn_branches(student="resnet8"), b=methods.sftn_branches(student="wrn_16_1")
    )
    vars = jax.jit(lambda: chain.init(jax.random.key(0), context))()
    terms, logs, _ = run(chain, vars, setting)
    assert set(terms) == {"ce", "a/ce", "a/kl", "b/ce", "b/kl"} and len(logs) == 8
    assert {w.log for w in chain.monitors} == {f"{x}/branch*/{y}" for x in "ab" for y in ("top1", "kl")}


def test_stages_from_the_output_side():
    assert _placed((), 4, 4, "x") == ((1, 1), (2, 2))
    assert _placed((), 4, 5, "x") == ((1, 2), (2, 3))
    assert _placed((), 5, 4, "x") == ((2, 1), (3, 2))
    assert _stage_pairs((" 1:2", "3: 3")) == ((1, 2), (3, 3)) and _stage_pairs(()) == ()


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"student": "resnet9"}, "unknown model 'resnet9'"),
    ({"lambda_kl": -1.0}, "lambda_kl must be a finite number, at least 0, got -1.0"),
    ({"lambda_ce": float("nan")}, "lambda_ce must be a finite"),
    ({"temperature": 0.0}, "temperature must be a finite number above 0"),
    ({"transform": "linear"}, "transform must be conv3x3 or conv1x1, got 'linear'"),
    ({"stages": ("1-1",)}, r"stages must be a tuple of TEACHER:STUDENT,.* got \('1-1',\)"),
    ({"stages": ("1:-1",)}, r"stages must be a tuple of TEACHER:STUDENT,.* got \('1:-1',\)"),
    ({"stages": "1:1,2:2"}, "stages must be a tuple of TEACHER:STUDENT,.* got '1:1,2:2'"),
    ({"stages": ("1:1", "1:2")}, "each teacher stage once"),
])  # fmt: skip
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        methods.sftn_branches(**kwargs)


def test_stages_that_are_not_there(setting):
    with pytest.raises(ValueError, match="stages 1:1, 2:4: the teacher has stages 0 to 3, resnet8 has 0 to 3"):
        methods.sftn_branches(student="resnet8", stages=("1:1", "2:4")).init(jax.random.key(0), setting[3])


def test_no_branch_no_variables():
    assert methods.sftn_branches(lambda_ce=0.0, lambda_kl=0.0).init(None, None) == NO_VARS
