"""DeiT's distillation: published values, the token's part of the network, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import InputError, losses, methods, models
from kd_jax.engine.views import make_view
from kd_jax.methods.base import NO_VARS
from kd_jax.models.vit import VisionTransformer
from kd_jax.typing import Outputs
from tests.losses.common_input import LABELS, STUDENT, TEACHER

SIZES = {"width": 8, "heads": 2, "blocks": (1, 1), "patch": 4, "num_classes": 5}
DEIT = VisionTransformer(**SIZES, distill_token=True)
KEY = jax.random.key(0)
IMAGE = np.random.RandomState(0).normal(size=(3, 8, 8, 3)).astype("f")


def term(distiller, student, token, teacher=TEACHER):
    outputs = Outputs((), None, None, jnp.asarray(student), distill_logits=jnp.asarray(token))
    batch = {"label": jnp.asarray(LABELS)}
    view = make_view(None, outputs, (Outputs((), None, None, jnp.asarray(teacher)),), batch, jnp.int32(0))
    return np.asarray(distiller.apply(NO_VARS, view, KEY, True)[1][""])


def test_values_of_the_published_code():
    """Its DistillationLoss, alpha 0.5, on the same logits for both tokens: soft at T = 3, and hard."""
    with jax.enable_x64(True):
        task = term(methods.ce(weight=0.5), STUDENT, STUDENT).mean()
        hard = term(methods.deit(), STUDENT, STUDENT).mean()
        soft = term(methods.deit(distillation="soft", over_classes=True), STUDENT, STUDENT).mean()
    assert task + hard == pytest.approx(1.9963047103, abs=1e-9)
    assert task + soft == pytest.approx(1.0356800757, abs=1e-9)


def test_whose_logits():
    """`ce` reads the class token's, whatever compares with the teacher the distillation token's; soft is KD."""
    token, one = STUDENT[::-1], methods.deit(weight=1.0)
    np.testing.assert_array_equal(term(methods.ce(), STUDENT, token), term(methods.ce(), STUDENT, STUDENT))
    np.testing.assert_array_equal(term(one, STUDENT, token), term(one, TEACHER, token))
    assert not np.allclose(term(one, STUDENT, token), term(one, STUDENT, STUDENT))
    labels = np.argmax(TEACHER, -1)
    wanted = losses.cross_entropy(student=jnp.asarray(token), labels=labels)
    np.testing.assert_allclose(term(one, STUDENT, token), wanted, rtol=1e-6)
    soft, kd = methods.deit(weight=1.0, distillation="soft", temperature=2.0), methods.kd(temperature=2.0)
    np.testing.assert_array_equal(term(soft, STUDENT, token), term(kd, STUDENT, token))


def test_the_network():
    """Both heads; their mean in evaluation; a tail continues; half of it is the network without the token."""

    @jax.jit
    def everything():
        variables = models.init(DEIT, KEY, IMAGE)
        runs = [models.apply(DEIT, variables, IMAGE, train)[0] for train in (False, True)]
        return variables, *runs, [models.tail(DEIT, variables, x, i) for i, x in enumerate(runs[0].stages)]

    variables, out, trained, tails = everything()
    params = variables.params
    assert params["dist_token"].shape == (1, 1, 8) and params["pos_embed"].shape == (1, 6, 8)
    assert [s.shape for s in out.stages] == [(3, 6, 8)] * 3
    np.testing.assert_allclose(out.logits, (trained.logits + trained.distill_logits) / 2, rtol=1e-6)
    np.testing.assert_array_equal(out.distill_logits, trained.distill_logits)
    head, normed = params["head_dist"], out.stages[-1][:, 1]
    normed = (normed - normed.mean(-1, keepdims=True)) / np.sqrt(normed.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out.distill_logits, normed @ head["kernel"] + head["bias"], rtol=1e-3, atol=1e-5)
    for logits in tails:
        np.testing.assert_allclose(logits, out.logits, rtol=1e-5, atol=1e-6)
    plain = models.shapes(VisionTransformer(**SIZES), (8, 8, 3))[0].params
    assert {*params} - {*plain} == {"dist_token", "head_dist"}


def step(distiller, model=DEIT, teacher=None):
    """Which parameters a step of a student moves, by their first name."""
    tx = kd_jax.engine.optim.sgd(lambda step: jnp.float32(1.0), weight_decay=0.0)
    teachers = () if teacher is None else (teacher,)
    context = kd_jax.make_init_context(model, (model,), image_shape=(8, 8, 3), batch_size=3)
    parts = {"student": model, "distiller": distiller, "tx": tx}
    batch = {"image": IMAGE, "label": jnp.asarray(LABELS)}

    @jax.jit
    def moved():
        state = kd_jax.init_state(KEY, context=context, **parts)
        after, _ = kd_jax.train_step(state, teachers, batch, KEY, **parts)
        pair = (s.params["student"] for s in (state, after))
        return jax.tree.map(lambda a, b: jnp.abs(a - b).max(), *pair)

    return {name for name, part in moved().items() if max(jax.tree.leaves(part)) > 0}


def test_each_head_has_its_own_gradient():
    outputs = Outputs((), None, None, jnp.asarray(TEACHER, jnp.float32))
    by_labels = step(methods.chain(ce=methods.ce()))
    by_teacher = step(methods.chain(deit=methods.deit()), teacher=outputs)
    assert by_labels - by_teacher == {"head"} and by_teacher - by_labels == {"head_dist"}
    assert {"cls_token", "dist_token"} <= by_labels & by_teacher


@pytest.mark.parametrize(("how", "message"), [
    ({"distillation": "medium"}, "deit: distillation must be hard or soft, got 'medium'"),
    ({"distillation": "soft", "temperature": 0.0}, "deit: temperature must be a finite number above 0, or None"),
])  # fmt: skip
def test_arguments_out_of_range(how, message):
    with pytest.raises(InputError, match=message):
        methods.deit(**how)
