"""WKD-L as a method: its costs, what is refined and what is raw, how its weight falls, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import InputError, losses, methods, models
from kd_jax.engine.state import make_init_context
from kd_jax.models.outside import LogitsTable
from kd_jax.typing import Variables
from tests.conftest import make_view
from tests.losses.common_input import LABELS, STUDENT, TEACHER
from tests.tiny import TinyNet

KEY = jax.random.key(0)
NET = TinyNet(num_classes=5)


@pytest.fixture(scope="module")
def context():
    plain = make_init_context(NET, (NET,), image_shape=(8, 8, 3), batch_size=3, steps=80)
    teacher = (NET, models.init(NET, KEY, jnp.zeros((1, 8, 8, 3))))
    return plain._replace(teachers=(teacher,), class_cka=jnp.eye(5) / 2 + 0.5)


def refined_view(step=0):
    """What matches is another teacher than the raw one, at T = 2."""
    view = make_view(STUDENT, TEACHER, LABELS, step)
    return view._replace(match=view.match._replace(teacher=jnp.asarray(TEACHER[:, ::-1]), temperature=2.0))


def value(distiller, vars, view):
    after, terms, logs, stats = distiller.apply(vars, view, KEY, True)
    assert after is view and set(terms) == {""} and logs == {} and stats is vars.stats
    return terms[""]


def test_costs_are_of_the_classifiers_rows(context):
    vars = methods.wkd_l(sharpness=2.0, relation="classifier").init(KEY, context)
    rows = np.asarray(context.teachers[0][1].params["fc"]["kernel"].T, np.float64)
    cosine = rows @ rows.T / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows, axis=1)[:, None]
    np.testing.assert_allclose(vars.stats["costs"], 1 - np.exp(-2 * (1 - cosine)), atol=1e-5)
    assert vars.params == vars.policy == {} and vars.stats["steps"] == 80


def test_costs_are_of_cka(context):
    costs = methods.wkd_l(sharpness=2.0).init(KEY, context).stats["costs"]
    np.testing.assert_allclose(costs, (1 - np.exp(-1)) * (1 - np.eye(5)), rtol=1e-6)
    assert "classes.cka" in methods.wkd_l().needs - methods.wkd_l(relation="classifier").needs


@pytest.mark.parametrize("relation", ["cka", "classifier"])
def test_shapes_of_a_teacher_give_costs_of_that_shape(context, relation):
    shapes = context._replace(teachers=((NET, models.shapes(NET, (8, 8, 3))[0]),), class_cka=None)
    costs = methods.wkd_l(relation=relation).init(KEY, shapes).stats["costs"]
    assert costs.shape == (5, 5) and not costs.any()


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_the_pair_is_refined_and_the_rest_is_raw(context, temperature):
    distiller = methods.wkd_l(weight=0.5, gamma=7.0, temperature=temperature, decay_from=1.0)
    vars, view = distiller.init(KEY, context), refined_view()
    pair = {"student": STUDENT, "teacher": TEACHER[:, ::-1], "raw_teacher": TEACHER, "labels": LABELS}
    wanted = losses.wkd_l(**pair, costs=vars.stats["costs"], gamma=7.0, temperature=temperature or 2.0)
    assert "steps" not in vars.stats
    np.testing.assert_allclose(value(distiller, vars, view), 0.5 * wanted, rtol=1e-5)
    assert ("match.temperature" in distiller.needs) == (temperature is None)


def test_the_transport_falls_along_a_cosine_and_the_label_does_not(context):
    distiller, label = methods.wkd_l(gamma=700.0, decay_from=0.5), methods.wkd_l(gamma=0.0)
    vars = distiller.init(KEY, context)
    parts = [value(distiller, vars, refined_view(n)) - value(label, vars, refined_view(n)) for n in (0, 40, 60, 80)]
    np.testing.assert_allclose(parts[1], parts[0], rtol=1e-6)
    np.testing.assert_allclose(parts[2], parts[0] / 2, rtol=1e-4)
    np.testing.assert_allclose(parts[3], 0, atol=1e-5)
    assert parts[0].min() > 0.1


def test_several_teachers_are_their_mean(context):
    distiller, one = methods.wkd_l(decay_from=1.0), refined_view()
    vars = distiller.init(KEY, context)
    pair = tuple(one.teachers[0]._replace(logits=one.teachers[0].logits + d) for d in (1.5, -1.5))
    np.testing.assert_allclose(
        value(distiller, vars, one), value(distiller, vars, one._replace(teachers=pair)), rtol=1e-5
    )


def test_where_it_cannot_be(context):
    def refused(message, relation="cka", **changes):
        with pytest.raises(InputError, match=message):
            methods.wkd_l(relation=relation).init(KEY, context._replace(**changes))

    table = (LogitsTable(5), Variables({}, {"logits": jnp.zeros((40, 5))}))
    refused("wkd_l: relation classifier: a network with one classifier wanted", "classifier", teachers=(table,))
    refused("wkd_l: context.teachers is empty", "classifier", teachers=())
    refused("wkd_l: relation cka: context.class_cka is None; give losses.class_cka of", class_cka=None)
    refused("wkd_l: relation cka: context.class_cka is None", class_cka=None, teachers=())
    bare = make_view(STUDENT, TEACHER, LABELS)
    refused("wkd_l: relation cka needs feature maps, which the teacher has not; accepted: class", view_shapes=bare)
    refused("wkd_l: decay_from needs the number of steps", steps=0)


@pytest.mark.parametrize(("how", "message"), [
    ({"gamma": -1.0}, "wkd_l: gamma must be a finite number, at least 0, got -1"),
    ({"sharpness": 0.0}, "wkd_l: sharpness must be a finite number above 0, got 0"),
    ({"decay_from": 1.5}, "wkd_l: decay_from must be from 0 to 1, got 1.5"),
    ({"relation": "fc"}, "wkd_l: relation must be cka or classifier, got 'fc'"),
    ({"iterations": 0}, "wkd_l: iterations must be at least 1, got 0"),
    ({"temperature": 0.0}, "wkd_l: temperature must be a finite number above 0, or None, got 0"),
])  # fmt: skip
def test_what_is_wrong_is_named(how, message):
    with pytest.raises(InputError, match=message):
        methods.wkd_l(**how)
