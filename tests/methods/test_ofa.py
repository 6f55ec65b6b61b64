"""OFA as a method: a term for every exit, all on one target; exits train; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses, make_init_context, methods, models
from kd_jax.methods.base import NO_VARS
from kd_jax.typing import Outputs, Vars
from tests.conftest import make_view
from tests.tiny import TinyNet

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def view():
    student, teacher = TinyNet(widths=(4, 8)), TinyNet(widths=(8, 16))
    image = jax.random.normal(KEY, (6, 8, 8, 3))
    outputs = [models.apply(net, models.init(net, KEY, image), image)[0] for net in (student, teacher)]
    whole = make_view(outputs[0].logits, outputs[1].logits, np.arange(6))
    return whole._replace(image=image, student=outputs[0], teachers=(outputs[1],))


@pytest.fixture(scope="module")
def context():
    nets = TinyNet(widths=(4, 8)), TinyNet(widths=(8, 16))
    return make_init_context(nets[0], nets[1:], image_shape=(8, 8, 3), batch_size=6)


def test_terms(view, context):
    distiller = methods.ofa(weight=0.5, last_weight=2.0, power=1.5, temperature=None)
    vars = distiller.init(KEY, context)
    refined = view._replace(match=view.match._replace(teacher=view.match.teacher[:, ::-1], temperature=2.0))
    after, terms, logs, stats = jax.jit(lambda v, w: distiller.apply(v, w, KEY, True)[:4])(
        vars, refined._replace(extra_views={})
    )
    assert set(terms) == {"last", "exit1", "exit2", "exit3"} == {*vars.params, "last"} and logs == {}
    wanted = losses.ofa(
        student=view.match.student, teacher=refined.match.teacher, labels=view.labels, power=1.5, temperature=2.0
    )
    np.testing.assert_allclose(terms["last"], wanted, rtol=1e-5)
    assert all(term.shape == (6,) and np.isfinite(term).all() for term in terms.values())
    assert stats["exit1"]["bn0_0"]["mean"].shape == (4,) and np.abs(stats["exit1"]["bn0_0"]["mean"]).max() > 0
    assert stats["exit3"] == {}  # of the last stage: a 1x1 convolution alone


@pytest.mark.parametrize("refiners", [(methods.lskd(),), (methods.normkd(),), (methods.lskd(), methods.normkd())])
def test_exits_are_normalised_as_the_pair_is(view, context, refiners, monkeypatch):
    """An exit that says what the student says has the student's term."""
    distiller = methods.ofa(temperature=None)
    vars = distiller.init(KEY, context)
    monkeypatch.setitem(
        methods.ofa.__globals__, "run", lambda layer, params, stats, x, train: (view.student.logits, stats)
    )
    refined = view
    for refiner in refiners:
        refined = refiner.apply(NO_VARS, refined, KEY, True)[0]
    terms = distiller.apply(vars, refined, KEY, True)[1]
    assert not np.allclose(refined.match.student, view.student.logits)
    for name in vars.params:
        np.testing.assert_allclose(terms[name], terms["last"], rtol=1e-5)


def test_exits_and_stages_learn(view, context):
    distiller = methods.ofa(last_weight=0.0)
    vars = distiller.init(KEY, context)

    def loss(params, stages):
        student = Outputs(stages, *view.student[1:])
        terms = distiller.apply(Vars(params, vars.stats, {}), view._replace(student=student), KEY, True)[1]
        assert "last" not in terms
        return sum(term.mean() for term in terms.values())

    by_params, by_stages = jax.jit(jax.grad(loss, argnums=(0, 1)))(vars.params, view.student.stages)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(by_params))
    assert not by_stages[0].any() and all(jnp.abs(g).max() > 0 for g in by_stages[1:])


@pytest.mark.parametrize(("how", "message"), [
    ({"power": 0.0}, "ofa: power must be a finite number above 0, got 0"),
    ({"last_weight": -1.0}, "ofa: last_weight must be a finite number, at least 0, got -1"),
    ({"temperature": 0.0}, "ofa: temperature must be a finite number above 0, or None, got 0"),
])  # fmt: skip
def test_what_is_wrong_is_named(how, message):
    with pytest.raises(InputError, match=message):
        methods.ofa(**how)
