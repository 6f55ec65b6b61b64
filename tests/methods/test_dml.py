"""DML: two plain trainings at weight 0, its gradients by hand, the peer's own statistics, and what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.engine import optim
from kd_jax.methods.dml import dml
from kd_jax.typing import Variables
from tests.tiny import TinyNet

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

SHAPE, BATCH, CLASSES = (8, 8, 3), 6, 5
STUDENT, PEER = TinyNet(widths=(2, 4), num_classes=CLASSES), TinyNet(num_classes=CLASSES)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def batches():
    images = jax.random.normal(jax.random.key(1), (5, BATCH, *SHAPE))
    labels = jax.random.randint(jax.random.key(2), (5, BATCH), 0, CLASSES)
    return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def context():
    return kd_jax.make_init_context(STUDENT, (), image_shape=SHAPE, batch_size=BATCH)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def start(distiller, context, student=STUDENT):
    """The state before the first step, and the step."""
    tx = optim.grouped(optim.sgd, optim.step_schedule(0.05, milestones=(), gamma=0.1), distiller.lr_multipliers)
    parts = {"student": student, "distiller": distiller, "tx": tx}
    state = jax.jit(partial(kd_jax.init_state, context=context, **parts))(KEY)
    return state, jax.jit(lambda state, batch: kd_jax.train_step(state, None, batch, KEY, **parts))


def test_weight_zero_is_two_plain_trainings_bit_for_bit(batches, context):
    both, step = start(methods.chain(ce=methods.ce(), dml=dml(peer="resnet8", weight=0.0)), context)
    single, plain = start(methods.chain(ce=methods.ce()), context)
    peer, alone = start(methods.chain(ce=methods.ce()), context, PEER)
    params = {**peer.params, "student": both.params["method"]["dml"]["peer"]}
    peer = peer._replace(params=params, stats={**peer.stats, "student": both.stats["method"]["dml"]["peer"]})
    first = single.params["student"]
    for batch in batches:
        (both, metrics), (single, _), (peer, measured) = step(both, batch), plain(single, batch), alone(peer, batch)
        assert set(metrics) == {"loss", "top1", "terms/ce", "terms/dml/ce", "logs/dml/peer/top1"}
        same(metrics["terms/dml/ce"], measured["terms/ce"])
        same(metrics["logs/dml/peer/top1"], measured["top1"])
    same(both.student, single.student)
    same(both.params["method"]["dml"]["peer"], peer.params["student"])
    same(both.stats["method"]["dml"]["peer"], peer.stats["student"])
    assert not np.array_equal(first["conv1"]["kernel"], single.params["student"]["conv1"]["kernel"])


@pytest.fixture(scope="module")
def initial(context):
    key = jax.random.key(3)
    student = jax.jit(models.init, static_argnums=0)(STUDENT, key, jnp.zeros((1, *SHAPE)))
    return student, jax.jit(lambda: dml(peer="resnet8").init(key, context))()


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def run(distiller, initial, batch, train=True, params=None, step=0):
    """terms, logs, stats. params: (student's, method's) in place of those that were made."""
    student, vars = initial
    mine, theirs = (student.params, vars.params) if params is None else params
    outputs, _ = models.apply(STUDENT, Variables(mine, student.stats), batch["image"], train)
    view = kd_jax.View(batch["image"], outputs, (), None, batch["label"], None, jnp.int32(step))
    return distiller.apply(vars._replace(params=theirs), view, KEY, train)[1:]


@pytest.fixture(scope="module")
def through(initial, batches):
    """Logits of both networks for the first batch, and (their cotangents) -> the gradient by all parameters."""
    student, vars = initial

    def logits(params):
        pairs = ((STUDENT, params[0], student.stats), (PEER, params[1]["peer"], vars.stats["peer"]))
        return [models.apply(m, Variables(p, s), batches[0]["image"], True)[0].logits for m, p, s in pairs]

    params = (student.params, vars.params)
    back = jax.jit(lambda cotangents: jax.vjp(logits, params)[1](cotangents)[0])
    return jax.jit(logits)(params), back


@pytest.mark.parametrize("weight, temperature", [(1.0, 1.0), (0.5, 3.0)])
def test_gradients_by_hand(batches, initial, through, weight, temperature):
    """Of every term, by every parameter of both: the gradient by the logits in numpy, then back through the network."""
    batch, (pair, back) = batches[0], through
    distiller = dml(peer="resnet8", weight=weight, temperature=temperature)

    @jax.jit
    def ours(params, picked):
        def loss(params):
            means = {name: jnp.mean(term) for name, term in run(distiller, initial, batch, params=params)[0].items()}
            return sum(picked[name] * means[name] for name in picked), means

        return jax.grad(loss, has_aux=True)(params)

    z, y = (np.asarray(x, np.float64) for x in pair)
    t, p, q = temperature, *(softmax(x / temperature) for x in (z, y))
    one_hot, zero = np.eye(CLASSES)[np.asarray(batch["label"])], np.zeros_like(z)
    expected = {
        "ce": (-np.log(softmax(y))[one_hot > 0].mean(), (zero, softmax(y) - one_hot)),
        "student": (weight * t**2 * (q * np.log(q / p)).sum(-1).mean(), (weight * t * (p - q), zero)),
        "peer": (weight * t**2 * (p * np.log(p / q)).sum(-1).mean(), (zero, weight * t * (q - p))),
    }
    params = (initial[0].params, initial[1].params)
    for name, (value, by_logits) in expected.items():
        grads, means = ours(params, {other: jnp.float32(other == name) for other in expected})
        assert set(means) == set(expected)
        np.testing.assert_allclose(means[name], value, rtol=1e-4)
        wanted = back([jnp.asarray(g / BATCH, jnp.float32) for g in by_logits])
        scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(wanted))
        jax.tree.map(lambda a, b, s=scale: np.testing.assert_allclose(a, b, atol=1e-4 * s), grads, wanted)
        still = {"student": 1, "peer": 0, "ce": 0}[name]  # each divergence moves one network alone
        assert scale > 1e-3 and all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads[still]))


def test_a_schedule_scales_the_divergences_alone(batches, initial):
    plain, _, _ = run(dml(peer="resnet8"), initial, batches[0])
    terms, _, _ = run(dml(peer="resnet8", weight=lambda step: 0.1 * step), initial, batches[0], step=5)
    np.testing.assert_array_equal(terms["ce"], plain["ce"])
    for name in ("student", "peer"):
        assert terms[name].shape == (BATCH,)
        np.testing.assert_allclose(terms[name], 0.5 * plain[name], rtol=1e-5)


def test_the_peers_statistics(batches, initial):
    """Those of its training; in evaluation it reads them and keeps them."""
    batch, (_, vars) = batches[0], initial
    peer = Variables(vars.params["peer"], vars.stats["peer"])
    outputs, moved = models.apply(PEER, peer, batch["image"], train=True)
    _, logs, stats = run(dml(peer="resnet8"), initial, batch)
    same(stats, {"peer": moved})
    assert not np.array_equal(moved["bn1"]["mean"], peer.stats["bn1"]["mean"])
    np.testing.assert_array_equal(logs["peer/top1"], outputs.logits.argmax(-1) == batch["label"])
    terms, _, stats = run(dml(peer="resnet8"), initial, batch, train=False)
    same(stats, vars.stats)
    z = np.asarray(models.apply(PEER, peer, batch["image"])[0].logits, np.float64)
    np.testing.assert_allclose(terms["ce"], -np.log(softmax(z))[np.arange(BATCH), batch["label"]], rtol=1e-4)


def test_the_peer_is_a_network_of_the_member(context, batches):
    """Under the member's label, with as many classes as the data; it does not start as the student does."""
    distiller = methods.chain(ce=methods.ce(), dml=dml(peer="resnet8"))
    assert distiller.needs == {"labels"}
    vars = jax.jit(lambda: distiller.init(KEY, context))()
    networks = distiller.networks(vars)
    assert set(networks) == {"dml"}
    name, model, variables = networks["dml"]
    assert (name, model) == ("resnet8", PEER)
    same(variables, Variables(vars.params["dml"]["peer"], vars.stats["dml"]["peer"]))
    assert models.apply(model, variables, batches[0]["image"])[0].logits.shape == (BATCH, CLASSES)
    twin = jax.jit(lambda: methods.chain(other=dml(peer="resnet8")).init(KEY, context).params)()
    assert not np.array_equal(twin["other"]["peer"]["conv1"]["kernel"], variables.params["conv1"]["kernel"])


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"peer": "resnet9"}, "unknown model 'resnet9'; did you mean resnet"),
        ({"peer": "graft:resnet8+resnet20"}, "peer must be a network with a classifier of its own"),
        ({"weight": float("nan")}, "weight must be a finite number"),
        ({"temperature": 0.0}, "temperature must be a finite number above 0"),
    ],
)
def test_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        dml(**kwargs)
