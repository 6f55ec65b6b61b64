"""Methods combined by name: who brings which terms, and what every pair makes of it."""

import importlib

import pytest

from configs import compose, pairs, skd_dkd, skd_sokd
from kd_jax import InputError, config

PARTS = list(compose.PARTS)


def student(spelled, pair="resnet32x4,resnet8x4"):
    """{label: weight} of the terms and the refiners, in order."""
    phase = config.parse(compose.get_config(f"{spelled},{pair}").to_dict()).phases[-1]
    return {m.label: m.kwargs["weight"] for m in phase.terms}, [m.label for m in phase.refine]


# where parts agree on something, what their authors took: weights of the terms, and the refiners in order
AGREED = [
    ("skd", {"ce": 1.0, "kd": 100.0}, ["skd"]),
    ("skd+fitnet", {"ce": 1.0, "fitnet": 100.0, "kd": 100.0}, ["skd"]),
    ("skd+kd", {"ce": 1.0, "kd": 100.0}, ["skd"]),
    ("skd_annealed+dkd", {"ce": 1.0, "dkd": 2.0}, ["skd"]),
    ("skd+nkd", {"ce": 1.0, "nkd": 1.0}, ["skd"]),
    ("skd_annealed+nkd", {"ce": 1.0, "nkd": 1.0, "kd": 100.0}, ["skd"]),  # NKD has a temperature of its own
    ("skd+dkd", {"ce": 1.0, "dkd": 2.0}, ["skd"]),
    ("normkd", {"ce": 0.1, "kd": 0.9}, ["normkd"]),
    ("kd+lskd", {"ce": 0.1, "kd": 9.0}, ["lskd"]),
    ("lskd+dkd", {"ce": 1.0, "dkd": 9.0}, ["lskd"]),
    ("mlld+lskd", {"ce": 0.1, "mlld": 9.0}, ["lskd"]),
    ("ctkd+lskd+skd+dist", {"ce": 1.0, "dist": 1.0}, ["skd", "lskd", "ctkd"]),
    ("sokd+fitnet", {"ce": 1.0, "fitnet": 1000.0}, ["dam", "dafa"]),
    ("sokd+skd", {"ce": 1.0, "kd": 100.0, "fitnet": 1000.0}, ["skd", "dam", "dafa"]),
    ("sftn", {"ce": 0.1, "kd": 0.9}, []),
    ("skd+simkd", {"ce": 1.0, "kd": 100.0, "simkd": 1.0}, ["skd"]),
    ("dot+dkd", {"ce": 1.0, "dkd": 1.0}, []),
    ("sftn+skd+sokd+rkd", {"ce": 1.0, "rkd": 1.0, "kd": 100.0, "fitnet": 1000.0}, ["skd", "dam", "dafa"]),
]


@pytest.mark.parametrize(("spelled", "terms", "refine"), AGREED)
def test_what_parts_agree_on(spelled, terms, refine):
    assert student(spelled) == (terms, refine)


@pytest.mark.parametrize("name", compose.PARTS)
def test_one_part_is_its_own_config(name):
    alone = importlib.import_module(f"configs.{'sokd_fitnet' if name == 'sokd' else name}").get_config("vgg13,vgg8")
    combined = compose.get_config(f"{name},vgg13,vgg8")
    assert {**combined.to_dict(), "name": alone.name} == alone.to_dict()


def members(spelled):
    """{label: (kind, keywords)} of what trains the student; warm-ups count as keywords."""
    phase = config.parse(compose.get_config(f"{spelled},vgg13,vgg8").to_dict()).phases[-1]
    return {m.label: (m.kind, m.warmup_epochs, m.kwargs) for m in phase.refine + phase.terms}


# all distances are all pairs, in both orders; half of them all pairs in one
DISTANCES = [1, 2, *(pytest.param(n, marks=pytest.mark.full) for n in range(3, len(PARTS)))]


def pairs_at(distance):
    """Every part, and the one so many places on; but the two that bring one refiner, and the two with an optimiser."""
    both = zip(PARTS, PARTS[distance:] + PARTS[:distance], strict=True)
    return [pair for pair in both if set(pair) not in ({"skd", "skd_annealed"}, {"deepkd", "dot"})]


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_part_beside_another_keeps_what_is_its_own(distance):
    """Nothing is lost and nothing is changed, but for the task's weight, what refiners say of DKD and MLLD, and the
    loss that a refiner brings along where there is none."""
    apart = {name: members(name) for name in compose.PARTS}
    brought_along = {
        "skd": "kd",
        "skd_annealed": "kd",
        "lskd": "kd",
        "normkd": "kd",
        "ctkd": "kd",
        "sftn": "kd",
        "dot": "kd",
        "sokd": "fitnet",
    }
    for a, b in pairs_at(distance):
        together = members(f"{a}+{b}")
        for label, member in apart[a].items():
            retuned = "lskd" in (a, b) or "dkd" in (a, b) and {a, b} & {"skd", "skd_annealed", "normkd"}
            shared = label == "ce" or label in apart[b] or retuned
            if not shared and brought_along.get(a) != label:
                assert together[label] == member, (a, b, label)
        assert together.keys() <= apart[a].keys() | apart[b].keys(), (a, b)


def test_a_composition_in_full():
    recipe = config.parse(compose.get_config("sftn+sokd+dkd,vgg13,vgg8").to_dict())
    teacher, pupil = recipe.phases
    assert recipe.name == "sftn+sokd+dkd" and (teacher.model, pupil.model) == ("vgg13", "vgg8")
    branches = {m.label: m.kwargs for m in teacher.terms}["sftn_branches"]
    assert branches["student"] == "vgg8" and branches["stages"] == ("1:1", "2:2", "3:3")
    dkd = {m.label: m for m in pupil.terms}["dkd"]
    assert dkd.kwargs["beta"] == 6.0 and dkd.warmup_epochs == 20
    assert {m.label: m for m in pupil.terms}["fitnet"].kwargs["depth"] == 3
    for config_file, spelled in ((skd_dkd, "skd+dkd"), (skd_sokd, "skd+sokd")):
        assert config_file.get_config("vgg13,vgg8") == compose.get_config(f"{spelled},vgg13,vgg8")


def test_phases_that_prepare():
    phases = config.parse(compose.get_config("ft+fsp+ab,resnet56,resnet20").to_dict()).phases
    assert [p.name for p in phases] == ["teacher", "paraphrase", "pretrain", "student"]
    _, paraphrase, pretrain, student = phases
    assert {m.label for m in pretrain.terms} == {"ab", "fsp"} and pretrain.model == "resnet20"
    assert (paraphrase.model, paraphrase.trains, paraphrase.init.student) == ("resnet56", "method", "phase:teacher")
    assert (pretrain.optim.lr, paraphrase.optim.lr, paraphrase.epochs) == (0.05, 0.01, 30)
    assert (student.init.student, student.init.method) == ("phase:pretrain", "phase:paraphrase")


def test_what_parts_change_of_the_phase():
    def phase(spelled):
        return config.parse(compose.get_config(spelled).to_dict()).phases[-1]

    mlld, beside = phase("mlld,vgg13,vgg8"), phase("lskd+mlld,vgg13,vgg8")
    assert (mlld.optim.lr, mlld.epochs) == (0.025, 240) and (beside.optim.lr, beside.epochs) == (0.01, 480)
    assert {m.label: m.kwargs for m in beside.terms}["mlld"]["weight"] == 6.0
    assert beside.refine[0].kwargs["temperature"] == 2.0 and beside.schedule.milestones == (150, 180, 210)
    dot = phase("dot+crd,vgg13,vgg8").optim
    assert (dot.name, dot.delta, dot.momentum) == ("dot", 0.075, 0.9)
    assert phase("simkd,vgg13,MobileNetV2").model == "graft:MobileNetV2+vgg13"
    assert phase("simkd,vgg13,MobileNetV2").optim.lr == 0.01


@pytest.mark.parametrize("spelled", ["ofd+crd", "crd+ofd", "skd+crd+ofd+dist"])
def test_the_smallest_batch_counts(spelled):
    student = compose.get_config(f"{spelled},imagenet_ResNet34,imagenet_ResNet18").student
    assert (student.batch_size, student.optim.lr) == (128, 0.05)


def test_no_teacher_where_nothing_needs_one():
    recipe = config.parse(compose.get_config("dml,resnet32x4,resnet8x4").to_dict())
    assert [p.name for p in recipe.phases] == ["student"] and recipe.phases[0].teacher == ()
    recipe = config.parse(compose.get_config("dml+skd,resnet32x4,resnet8x4").to_dict())
    assert [p.name for p in recipe.phases] == ["teacher", "student"]


def test_lskd_beside_dkd_takes_what_its_authors_take():
    phase = config.parse(compose.get_config("dkd+lskd,vgg13,MobileNetV2").to_dict()).phases[1]
    dkd = {m.label: m for m in phase.terms}["dkd"]
    assert (dkd.kwargs["weight"], dkd.kwargs["beta"], dkd.warmup_epochs) == (9.0, 2.0, 20)
    assert phase.refine[0].kwargs["temperature"] == 3.0
    phase = config.parse(compose.get_config("lskd,resnet110,resnet20").to_dict()).phases[1]
    assert (
        phase.refine[0].kwargs["temperature"] == 4.0 and {m.label: m.kwargs["weight"] for m in phase.terms}["kd"] == 12
    )


@pytest.mark.parametrize("distance", DISTANCES[: len(PARTS) // 2])
def test_parts_do_not_depend_on_their_order(distance):
    for a, b in pairs_at(distance):
        assert student(f"{a}+{b}") == student(f"{b}+{a}"), (a, b)


@pytest.mark.parametrize("pair", pairs.REVIEWKD_WEIGHT, ids="-".join)
def test_what_the_papers_choose_by_pair(pair):
    assert student("reviewkd", ",".join(pair).upper())[0]["reviewkd"] == pairs.REVIEWKD_WEIGHT[pair]


@pytest.mark.parametrize(
    ("spelled", "message"),
    [
        ("skd+review", "config argument 'skd.review': unknown method 'review'; did you mean reviewkd. known: kd, "),
        ("", None),
        ("skd+", "unknown method ''; known: kd"),
        ("kd+kd", "'kd.kd': kd twice"),
        ("skd+skd_annealed", "skd.skd_annealed: two of its parts bring the refiner skd, and differ; take one of them"),
        ("deepkd+dot", "deepkd.dot: its parts bring optim.name=deepkd and optim.name=dot; take one of them"),
        ("dot+deepkd+skd", "its parts bring optim.name=dot and optim.name=deepkd; take one of them"),
        ("resnet8,resnet8", "unknown method 'resnet8'; known: kd"),
    ],
)
def test_wrong_compositions(spelled, message):
    if message is None:
        assert compose.get_config(spelled).name == "skd"
        return
    with pytest.raises(InputError, match=message) as e:
        compose.get_config(spelled)
    assert "\n" not in str(e.value)
