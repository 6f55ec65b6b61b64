"""Plans: everything about a recipe is checked before its first phase trains."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from etils import epath

from kd_jax import InputError, config, data, methods, recipes
from kd_jax.distributed.mesh import Layout
from kd_jax.methods.base import identity
from kd_jax.models import base
from kd_jax.models.network import network_of
from kd_jax.plan import build
from tests.conftest import tree


def plan(devices=1, synthetic=None, **changes):
    config_tree = tree(**changes)
    config_tree["data"]["synthetic"] |= synthetic or {}
    recipe = config.parse(config_tree)
    dataset = data.load(recipe.data.name, synthetic=recipe.data.synthetic)
    return build(
        recipe, dataset, epath.Path("/nowhere"), SimpleNamespace(count=devices) if devices > 1 else Layout((1,))
    )


def test_a_plan():
    teacher, student = plan(student__steps=None, student__epochs=3, checkpoint__every=4)
    assert (teacher.steps, teacher.steps_per_epoch, teacher.save_every) == (2, 5, 4)
    assert (student.steps, student.eval_every) == (15, 5)
    assert not teacher.needs_teachers and student.needs_teachers
    assert student.teachers[0].origin == "phase:teacher" and student.teachers[0].network == teacher.network
    assert set(student.abstract.params["method"]) == {"skd"} and student.distiller.lr_multipliers == {"skd": 0.1}


def test_epochs_become_steps_once():
    _, student = plan(student__steps=None, student__epochs=4, student__schedule__milestones=(2, 3))
    rates = [float(student.schedule(jnp.int32(s))) for s in (9, 10, 14, 15)]
    assert rates == pytest.approx([0.05, 0.005, 0.005, 0.0005], rel=1e-5)
    cosine = plan(student__steps=20, student__schedule__name="cosine")[1].schedule
    assert float(cosine(jnp.int32(20))) == 0 and float(cosine(jnp.int32(0))) == pytest.approx(0.05)


def test_terms_of_weight_zero_are_gone():
    _, student = plan(student__terms__kd__weight=0.0, student__refine_order=())
    assert not student.needs_teachers and student.distiller.needs == {"labels"}
    assert student.teachers  # still compared with


def test_a_network_describes_itself():
    network = plan()[0].network
    assert network_of(network.describe()) == network


WRONG = [
    ({"student__model": "resnet9"}, "config.student.model: unknown model 'resnet9'; did you mean"),
    ({"student__refine__skd__kind": "sdk"}, "config.student.refine.skd: unknown method 'sdk'; did you mean skd"),
    ({"student__refine__skd__kind": "kd"}, "config.student.refine.skd.kind: kd does not belong here; known: skd"),
    ({"student__terms__kd__kind": "skd"}, "config.student.terms.kd.kind: skd does not belong here; known: ce, kd, dkd"),
    ({"student__terms__kd__kind": "ce"}, "config.student.terms.kd.temperature: unknown key; known: weight"),
    (
        {"student__refine__skd__temperature": 0.0},
        "config.student.refine.skd: skd: temperature must be a finite number above 0",
    ),
    ({"student__refine__skd__temperature": None}, "config.student.refine.skd.temperature: must be float, got None"),
    ({"student__terms__kd__weight": float("nan")}, "config.student.terms.kd: weight must be a finite number"),
    ({"student__teacher": ""}, "config.student.teacher: none, but the phase's refiners or terms need one"),
    (
        {"student__teacher": "checkpoint:/nowhere"},
        "config.student.teacher: checkpoint:/nowhere: no checkpoints in /nowhere",
    ),
    ({"student__batch_size": 64}, "config.student.batch_size: 64, but there are 40 training examples"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[f"{k}={v}" for c, _ in WRONG for k, v in c.items()])
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(InputError, match=message) as e:
        plan(**changes)
    assert "\n" not in str(e.value)


def test_dkd_with_two_classes_is_refused_by_name():
    with pytest.raises(InputError, match="config.student.terms.dkd: dkd: needs at least 3 classes, the data has 2"):
        plan(synthetic={"classes": 2}, student__terms__dkd=recipes.member("dkd"))


@pytest.mark.parametrize("seat", ["student", "teacher"])
def test_a_term_that_needs_what_a_network_has_not(monkeypatch, seat):
    """The message names the term, what it needs and the network that lacks it."""

    def hint(*, weight: float = 1.0):
        return identity()._replace(needs=frozenset({f"{seat}.preacts", "teacher.stages"}))

    monkeypatch.setitem(methods.CRITERIA, "hint", hint)
    message = (
        rf"^config.student.terms.low: needs pre-activation features \({seat}.preacts\), which MobileNetV2 has not; "
    )
    message += rf"accepted: another config.student.{'model' if seat == 'student' else 'teacher'}$"
    with pytest.raises(InputError, match=message):
        plan(**{f"{seat}__model": "MobileNetV2"}, student__terms__low=recipes.member("hint"))
    plan(student__terms__low=recipes.member("hint"))


def test_a_network_without_class_activation_maps(monkeypatch):
    monkeypatch.setitem(methods.CRITERIA, "hint", lambda: identity()._replace(needs=frozenset({"student.cam"})))
    whole = base.shapes

    def without_cam(*args):
        variables, outputs = whole(*args)
        return variables, outputs._replace(cam=None)

    monkeypatch.setattr(base, "shapes", without_cam)
    message = r"^config.student.terms.low: needs class activation maps \(student.cam\), which resnet8 has not; "
    with pytest.raises(InputError, match=message):
        plan(student__terms__low=recipes.member("hint"))


def test_a_batch_that_does_not_divide():
    with pytest.raises(InputError, match="config.teacher.batch_size: 8 does not divide by the 3 devices"):
        plan(devices=3)
