"""Every method behind SKD, SoKD and SFTN: all of them trace, some take real steps, and what cannot be is refused."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from configs import compose
from kd_jax import InputError, build, config, loop, make_facts, methods, models
from kd_jax.combinations import FRONT, combinations, table
from kd_jax.engine.step import only
from kd_jax.typing import Vars
from tests.conftest import ROOT, shrunk

METHODS = [name for name in compose.PARTS if name not in FRONT]
COVERING = {"skd+dkd", "skd+lskd", "sokd+reviewkd", "sokd+kdsvd", "sftn+vid", "sftn+rkd"}
PAIRED = [f"{front}+{name}" for front in FRONT[1:] for name in METHODS]


@pytest.fixture(scope="module")
def facts():
    """Of a student and a teacher of other widths."""
    student, teacher = (models.create("resnet8", 5, widths=(4, 4, w, 2 * w)) for w in (4, 8))
    made = make_facts(student, (teacher,), image_shape=(8, 8, 3), batch_size=8, num_examples=16, steps_per_epoch=2)
    return made._replace(teachers=((teacher, models.shapes(teacher, (8, 8, 3))[0]),))


@pytest.mark.parametrize("front", FRONT)
def test_every_method_traces_behind_every_front(facts, front):
    """Terms, their gradients, and what a search needs: the gradient of a gradient in the policy."""
    for name in METHODS:
        made = compose.get_config(f"{front}+{name},resnet8,resnet8,smoke".lstrip("+"))
        if front == "sokd":
            made.student.refine.dafa.stages = "2"  # tracing takes a third of the time
        made = config.parse(made.to_dict())
        distiller = methods.chain(**build.members_of(made.phases[1], 2))

        def loss(trained, policy, stats, view, distiller=distiller):
            outputs, params = trained
            own = Vars(params, stats, policy)
            view = view._replace(student=outputs, match=view.match._replace(student=outputs.logits))
            _, terms, _, moved = distiller.apply(own, view, jax.random.key(0), True)
            return sum(jnp.mean(t) for t in terms.values()), moved

        def steep(policy, trained, *rest, loss=loss):
            slopes = jax.grad(loss, has_aux=True)(trained, policy, *rest)[0]
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(slopes))

        taught = tuple(only(t, distiller.needs) for t in facts.view_shapes.teachers)
        view, vars = (
            facts.view_shapes._replace(teachers=taught),
            jax.eval_shape(partial(distiller.init, facts=facts), jax.random.key(0)),
        )
        trained = (view.student, vars.params)
        if front == "sokd":
            searched = jax.eval_shape(jax.grad(steep), vars.policy, trained, vars.stats, view)
            assert jax.tree.map(jnp.shape, searched) == jax.tree.map(jnp.shape, vars.policy), name
            continue
        (slopes, moved) = jax.eval_shape(jax.grad(loss, has_aux=True), trained, vars.policy, vars.stats, view)
        assert jax.tree.map(jnp.shape, slopes) == jax.tree.map(jnp.shape, trained), (front, name)
        assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, vars.stats), (front, name)


@pytest.mark.full
@pytest.mark.parametrize(
    ("pair", "refused"),
    [
        ("resnet32x4,resnet8x4", {}),
        ("vgg13,MobileNetV2", {"ofd": "config.student.terms.ofd: needs .*student.preacts., which MobileNetV2 has not"}),
        ("resnet32x4,ShuffleV1", {}),
        ("wrn_40_2,wrn_16_2", {}),
    ],
)
def test_other_pairs(pair, refused):
    found = combinations(pair, ROOT / "configs")
    assert list(found) == METHODS and all(list(row) == [*FRONT] for row in found.values())
    bad = {name for name, row in found.items() if any(row.values())}
    assert bad == set(refused), table(found)


@pytest.mark.parametrize("spelled", [s if s in COVERING else pytest.param(s, marks=pytest.mark.full) for s in PAIRED])
def test_combinations_take_real_steps(spelled, tmp_path):
    one_stage = {"student__refine__dafa__stages": "2"} if spelled.startswith("sokd") else {}  # a third of the compiling
    made = shrunk(compose.get_config(f"{spelled},resnet8,resnet8,smoke"), **one_stage)
    loop.run(json.loads(json.dumps(made)), str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if r["phase"] == "student" and r["split"] == "train"]
    assert len(steps) == 2 and all(math.isfinite(v) for r in steps for v in (r["loss"], *r["terms"].values()))


@pytest.mark.parametrize(
    ("spelled", "change", "told"),
    [
        (
            "ofd,resnet8,MobileNetV2",
            {},
            "config.student.terms.ofd: needs pre-activation features .student.preacts., which ",
        ),
        (
            "ofd,MobileNetV2,resnet8",
            {},
            "config.student.terms.ofd: needs pre-activation features .teacher.preacts., which ",
        ),
        ("ofd,ShuffleV1,resnet8", {}, "ofd"),
        (
            "skd+fitnet,resnet8,resnet8",
            {"student__terms__kd__weight": 0.0},
            "config.student.refine.skd: no term can see",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(spelled, change, told, tmp_path):
    made = shrunk(compose.get_config(f"{spelled},smoke"), data__synthetic__size=32, **change)
    with pytest.raises(InputError, match=told) as e:
        loop.run(json.loads(json.dumps(made)), str(tmp_path))
    assert "\n" not in str(e.value)
