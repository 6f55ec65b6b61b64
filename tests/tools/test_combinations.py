"""Every method behind SKD, SoKD and SFTN: all of them trace, some take real steps, and what cannot be is refused."""

import json
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest

from configs import compose
from kd_jax import InputError, config, make_init_context, methods, models
from kd_jax.engine.step import select_outputs, sync_stats
from kd_jax.models.graft import Graft
from kd_jax.plan.distiller import members_of
from kd_jax.plan.networks import by_label
from kd_jax.tools.combinations import FORMS, FRONT, combinations, table
from kd_jax.train import run
from kd_jax.typing import Vars, extra_view
from tests.conftest import ROOT, shrunk

METHODS = [name for name in compose.PARTS if name not in FRONT + FORMS]
QUICK = "skd+dkd"
PAIRED = [f"{front}+{name}" for front in FRONT[1:] for name in METHODS]


@pytest.fixture(scope="module")
def nets():
    """A student and a teacher of other widths, and the graft of the two."""
    student, teacher = (models.create("resnet8", 5, widths=(4, 4, w, 2 * w)) for w in (4, 8))
    return {"student": student, "teacher": teacher, "graft": Graft(student, teacher, 2, 5)}


@cache
def facts_of(student, teachers, needs):
    """What a phase's members may know."""
    shape = {"image_shape": (8, 8, 3), "batch_size": 8, "needs": needs}
    context = make_init_context(
        student, teachers, **shape, num_examples=16, labels=tuple(range(5)) * 3 + (0,), steps_per_epoch=2, steps=4
    )
    return context._replace(teachers=tuple((t, models.shapes(t, (8, 8, 3))[0]) for t in teachers))


def phases_of(name, front, nets):
    """Every phase but the teacher's: the distiller, and what it may know. `given` goes from one to the next."""
    config_dict = compose.get_config(f"{front}+{name},resnet8,resnet8,smoke".lstrip("+"))
    if front == "sokd":
        config_dict.student.refine.dafa.stages = (2,)  # tracing takes a third of the time
    given, teacher = {}, nets["student" if name == "fsp" else "teacher"]  # FSP wants equal widths
    for phase in config.parse(config_dict.to_dict()).phases:
        if phase.name == "teacher":
            continue
        distiller = methods.chain(**members_of(phase, 2))
        seat = "teacher" if phase.trains == "method" else "graft" if phase.model.startswith("graft:") else "student"
        needs = distiller.needs & {extra_view("strong")}
        context = facts_of(nets[seat], (teacher,) if phase.teacher else (), needs)._replace(initial_vars=given)
        yield distiller, context, phase
        given = by_label(jax.eval_shape(partial(distiller.init, context=context), jax.random.key(0)))


def reads_features(name):
    """Whether any member of a method reads more of its teacher than logits: what SoKD refines."""
    phases = config.parse(compose.get_config(f"{name},resnet8,resnet8,smoke").to_dict()).phases
    members = [m for phase in phases for m in members_of(phase, 2).values()]
    return any(need.startswith("teacher.") for member in members for need in member.needs)


@pytest.mark.usefixtures("simple_operations")
@pytest.mark.parametrize("front", [
    *(pytest.param(front, marks=pytest.mark.full) if front in ("sokd", "sftn") else front for front in FRONT),
    pytest.param("sokd, on logits", marks=pytest.mark.full),
])  # fmt: skip
def test_every_method_traces_behind_every_front(nets, front):
    """Terms, their gradients, and what a search needs: the gradient of a gradient in the policy. DAFA's operations take
    most of the tracing."""
    front, _, rest = front.partition(", ")
    names = [name for name in METHODS if front != "sokd" or reads_features(name) == (not rest)]
    traced = []
    for name in names:
        for distiller, context, phase in phases_of(name, front, nets):
            if (phase.refine, phase.terms, phase.model) in traced:
                continue
            traced.append((phase.refine, phase.terms, phase.model))
            trace(distiller, context, (front, name), searched=bool(distiller.search))


def trace(distiller, context, what, searched):
    def make(given):
        return distiller.init(jax.random.key(0), context._replace(initial_vars=given))

    def loss(trained, policy, stats, view):
        outputs, params = trained
        all_vars = Vars(params, stats, policy)
        match = view.match and view.match._replace(student=outputs.logits)
        _, terms, _, moved = distiller.apply(
            all_vars, view._replace(student=outputs, match=match), jax.random.key(0), True
        )
        return sum(jnp.mean(t) for t in terms.values()), sync_stats(moved, stats, None)

    def steep(policy, trained, *rest):
        slopes = jax.grad(loss, has_aux=True)(trained, policy, *rest)[0]
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(slopes))

    view = context.view_shapes._replace(
        teachers=tuple(select_outputs(t, distiller.needs) for t in context.view_shapes.teachers)
    )
    vars = jax.eval_shape(make, context.initial_vars)
    trained = (view.student, vars.params)
    if searched:
        policy_slopes = jax.eval_shape(jax.grad(steep), vars.policy, trained, vars.stats, view)
        assert jax.tree.map(jnp.shape, policy_slopes) == jax.tree.map(jnp.shape, vars.policy), what
        return
    slopes, moved = jax.eval_shape(jax.grad(loss, has_aux=True), trained, vars.policy, vars.stats, view)
    assert jax.tree.map(jnp.shape, slopes) == jax.tree.map(jnp.shape, trained), what
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, vars.stats), what


@pytest.mark.full
@pytest.mark.parametrize(
    ("pair", "refused"),
    [
        ("resnet32x4,resnet8x4", {}),
        ("vgg13,MobileNetV2", {"ofd", "ab", "fsp"}),  # no pre-activations; other widths
        ("resnet32x4,ShuffleV1", {"fsp"}),
        ("wrn_40_2,wrn_16_2", {}),
    ],
)
def test_other_pairs(pair, refused):
    refusals = combinations(pair, ROOT / "configs")
    assert list(refusals) == METHODS and all(list(row) == [*FRONT] for row in refusals.values())
    bad = {name for name, row in refusals.items() if any(row.values())}
    assert bad == set(refused), table(refusals)


@pytest.mark.usefixtures("tiny_resnet8", "programs", "simple_operations")
@pytest.mark.parametrize("spelled", [s if s == QUICK else pytest.param(s, marks=pytest.mark.full) for s in PAIRED])
def test_combinations_take_real_steps(spelled, tmp_path):
    one_stage = (
        {"student__refine__dafa__stages": (2,)} if spelled.startswith("sokd") else {}
    )  # a third of the compiling
    config_tree = shrunk(compose.get_config(f"{spelled},resnet8,resnet8,smoke"), **one_stage)
    run.run(json.loads(json.dumps(config_tree)), str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if r["phase"] == "student" and r["split"] == "train"]
    assert len(steps) == 2 and all(math.isfinite(v) for r in steps for v in (r["loss"], *r["terms"].values()))


@pytest.mark.parametrize(
    ("spelled", "change", "message"),
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
        *(
            (f"skd_annealed+{behind},resnet8,resnet8", {}, f"refine.skd: sets a temperature, which {behind} behind it")
            for behind in ("lskd", "normkd", "ctkd")
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(spelled, change, message, tmp_path):
    config_tree = shrunk(compose.get_config(f"{spelled},smoke"), data__synthetic__size=32, **change)
    with pytest.raises(InputError, match=message) as e:
        run.run(json.loads(json.dumps(config_tree)), str(tmp_path))
    assert "\n" not in str(e.value)
