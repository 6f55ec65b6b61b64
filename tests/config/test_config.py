"""From config files to records: every default is there, every mistake is named."""

import pytest
from ml_collections import config_dict

from configs import dkd, kd, pairs, quickstart, skd, skd_dkd
from kd_jax import InputError, config, recipes
from tests.conftest import tree

CRITERION = {"warmup_epochs": 0.0, "teacher": None}


@pytest.mark.parametrize(
    ("kind", "keywords"),
    [
        ("ce", {"weight": 1.0, "smoothing": 0.0, **CRITERION}),
        ("kd", {"weight": 1.0, "temperature": None, **CRITERION}),
        ("dkd", {"weight": 1.0, "alpha": 1.0, "beta": 8.0, "temperature": None, **CRITERION}),
        ("lskd", {"temperature": 2.0}),
    ],
)
def test_a_member_shows_every_keyword_with_its_default(kind, keywords):
    assert recipes.member(kind).to_dict() == {"kind": kind, **keywords}


def test_optional_keywords_take_values_and_none():
    member = recipes.member("skd")
    member.bound, member.width = 0.3, 5
    member.bound = member.width = None
    with pytest.raises(TypeError):
        member.width = "wide"


def test_refused_members():
    with pytest.raises(InputError, match="kd has no keyword 'wieght'; known: weight, temperature"):
        recipes.member("kd", wieght=1.0)
    with pytest.raises(InputError, match="unknown method 'sdk'; did you mean skd"):
        recipes.member("sdk")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("resnet32x4", "resnet8x4", False)),
        (None, ("resnet32x4", "resnet8x4", False)),
        ("smoke", ("resnet32x4", "resnet8x4", True)),
        ("resnet20,resnet8", ("resnet20", "resnet8", False)),
        ("WRN_40_2, wrn_16_2 ,smoke", ("WRN_40_2", "wrn_16_2", True)),
    ],
)
def test_arguments(text, expected):
    assert tuple(recipes.argument(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"), [("resnet20", "give TEACHER,STUDENT"), ("resnet20,resnet9", "unknown model 'resnet9'")]
)
def test_refused_arguments(text, message):
    with pytest.raises(InputError, match=message):
        recipes.argument(text)


def test_the_papers_recipe_is_the_default():
    recipe = config.parse(skd.get_config().to_dict())
    assert [p.name for p in recipe.phases] == ["teacher", "student"]
    assert [p.model for p in recipe.phases] == ["resnet32x4", "resnet8x4"]
    for phase in recipe.phases:
        assert (phase.epochs, phase.batch_size) == (240, 64)
        assert phase.optim == config.Optim("sgd", 0.05, 0.9, 5e-4, False, 0.0, 0.0)
        assert phase.schedule == config.Schedule("step", (150.0, 180.0, 210.0), 0.1, 0.0)
    assert recipe.data.name == "cifar100" and recipe.data_seed == recipe.seed == 0
    student = recipe.phases[1]
    assert student.teacher == ("phase:teacher",) and [m.kind for m in student.refine] == ["skd"]
    assert {m.label: m.kwargs["weight"] for m in student.terms} == {"ce": 1.0, "kd": 100.0}


def test_each_recipe_says_what_its_name_says():
    for module, refiners, terms in (
        (kd, [], ["ce", "kd"]),
        (dkd, [], ["ce", "dkd"]),
        (skd_dkd, ["skd"], ["ce", "dkd"]),
    ):
        student = config.parse(module.get_config().to_dict()).phases[1]
        assert [m.kind for m in student.refine] == refiners and [m.kind for m in student.terms] == terms
    ramp = config.parse(dkd.get_config("resnet56,resnet20").to_dict()).phases[1].terms[1]
    assert ramp.warmup_epochs == 20 and ramp.kwargs["beta"] == 2.0
    assert pairs.of(pairs.DKD_BETA, ("VGG13", "vgg8"), 8.0) == 6.0 and pairs.of(pairs.DKD_BETA, ("a", "b"), 8.0) == 8.0
    quick = config.parse(quickstart.get_config().to_dict())
    assert [p.name for p in quick.phases] == ["teacher", "alone", "kd", "skd"]
    assert {p.model for p in quick.phases[1:]} == {"resnet8"} and quick.data.name == "digits"


def test_smoke_leaves_the_networks_alone():
    recipe = config.parse(dkd.get_config("smoke").to_dict())
    assert recipe.data.name == "synthetic" and recipe.data.synthetic["size"] == 32
    for phase, model in zip(recipe.phases, ("resnet32x4", "resnet8x4"), strict=True):
        assert (phase.model, phase.steps, phase.batch_size) == (model, 2, 8)
        assert all(m.warmup_epochs == 0 for m in phase.terms)


def test_data_seed_is_apart_from_seed():
    recipe = config.parse(tree(seed=3, data__seed=5))
    assert (recipe.seed, recipe.data_seed) == (3, 5)


WRONG = [
    ({"seed": -1}, "config.seed: must be 0 to 2147483647, got -1"),
    ({"phases": ()}, "config.phases: must be different names"),
    ({"phases": ("teacher", "teacher")}, "config.phases: must be different names"),
    ({"phases": ("teacher", "pupil")}, "there is no config.pupil"),
    ({"phases": ("data",)}, "config.phases: must be names of .*other than name, seed, "),
    ({"phases": ("student",)}, "must be phase:NAME of an earlier phase .there is none., got 'phase:teacher'"),
    ({"student__teacher": "teacher"}, "must be phase:NAME, checkpoint:DIR, .*logits:FILE.npz or ema .or several"),
    ({"student__teacher": "phase:student"}, "of an earlier phase .teacher."),
    ({"student__epochs": 0, "student__steps": None}, "config.student.epochs: must be a number above 0, got 0"),
    ({"student__steps": 0}, "config.student.steps: must be"),
    ({"student__batch_size": 0}, "config.student.batch_size: must be a number above 0"),
    ({"student__optim__lr": 0.0}, "config.student.optim.lr: must be a finite number above 0"),
    ({"student__optim__lr": float("nan")}, "config.student.optim.lr: must be"),
    ({"student__optim__lr": None}, "config.student.optim.lr: must be float, got None"),
    ({"student__optim__momentum": 1.0}, "config.student.optim.momentum"),
    ({"student__optim__weight_decay": -1.0}, "config.student.optim.weight_decay"),
    (
        {"student__optim__nesterov": True, "student__optim__momentum": 0.0},
        "config.student.optim.nesterov: must be False where momentum is 0, got True",
    ),
    ({"student__schedule__milestones": (3, 2)}, "config.student.schedule.milestones: must be rising epochs"),
    ({"student__schedule__milestones": ("a",)}, "config.student.schedule.milestones: must be float, got 'a'"),
    ({"student__schedule__gamma": 0.0}, "config.student.schedule.gamma"),
    ({"student__schedule__warmup_epochs": -1.0}, "config.student.schedule.warmup_epochs"),
    ({"student__refine_order": ("sdk",)}, "config.student.refine: no member 'sdk'; there are: skd"),
    ({"student__terms__kd__warmup_epochs": -1.0}, "config.student.terms.kd.warmup_epochs"),
    ({"student__terms": config_dict.ConfigDict()}, "config.student.terms: must be at least one term"),
    ({"student__speed": 1}, "config.student.speed: unknown key; known: model, "),
    ({"student__drop_path": 1.0}, "config.student.drop_path: must be at least 0 and below 1, got 1"),
    ({"data__augment": "mixup"}, "config.data.augment: must be auto, crop_flip, crop or none"),
    ({"parallel__scope": "local"}, "config.parallel.scope: must be global or device"),
    ({"parallel__mesh": (2, 2, 2)}, "config.parallel.mesh: must be .. for all devices"),
    ({"parallel__mesh": (2, 0)}, "config.parallel.mesh: must be .. for all devices"),
    (
        {"parallel__mesh": (2, 2), "parallel__scope": "device"},
        r"config.parallel.scope: must be global where parallel.mesh splits parameters \(2, 2\), got 'device'",
    ),
    ({"precision": "float16"}, "config.precision: must be float32 or bfloat16, got 'float16'"),
    ({"student__accumulate": 0}, "config.student.accumulate: must be a number of parts, at least 1, got 0"),
    ({"student__optim__clip": -1.0}, "config.student.optim.clip: must be 0 for none, or a finite number above"),
    ({"checkpoint__every": -1}, "config.checkpoint.every"),
    ({"checkpoint__keep": 0}, "config.checkpoint.keep"),
    ({"log__every": 0}, "config.log.every"),
    ({"eval__every": 0}, "config.eval.every"),
    ({"extra": 3}, "config.extra: unknown key; known: name, seed, "),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[", ".join(c) for c, _ in WRONG])
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(InputError, match=message) as e:
        config.parse(tree(**changes))
    assert "\n" not in str(e.value)


def test_a_missing_key_and_a_wrong_type_are_named():
    config_tree = tree()
    for wrong in ("x", 1.5, True, None):
        with pytest.raises(InputError, match="config.seed: must be int"):
            config.parse({**config_tree, "seed": wrong})
    del config_tree["student"]["model"]
    with pytest.raises(InputError, match="config.student.model: missing key"):
        config.parse(config_tree)
