"""The ImageNet pairs: their recipes' numbers against the sources, every method builds, some take real steps."""

import json
import math
from functools import partial

import pytest
from etils import epath

from configs import compose, dkd, ema_teacher, kd, sftn, sftn_vs_kd, skd, sokd_fitnet
from kd_jax import InputError, config, models, recipes
from kd_jax.distributed.mesh import Layout
from kd_jax.models.vit import VisionTransformer
from kd_jax.plan import build
from kd_jax.tools.combinations import refusal
from kd_jax.train import run

R18, MV1 = "imagenet_ResNet34,imagenet_ResNet18", "imagenet_ResNet50,imagenet_MobileNetV1"
VIT, MIXED = "vit_small_patch16_224,vit_tiny_patch16_224", "imagenet_ResNet50,vit_tiny_patch16_224"
PAIRS = (R18, MV1, VIT, MIXED)
METHODS = {"kd": kd, "dkd": dkd, "skd": skd, "sftn": sftn, "sokd_fitnet": sokd_fitnet}


def trained(phase):
    """What a phase's recipe says."""
    optim, schedule = phase.optim, phase.schedule
    rates = (phase.epochs, phase.batch_size, optim.name, optim.lr, optim.momentum, optim.weight_decay)
    return rates, (schedule.name, tuple(schedule.milestones), schedule.gamma, schedule.warmup_epochs)


STEPS = ("step", (30, 60, 90), 0.1, 0.0)
SGD = ((100, 512, "sgd", 0.2, 0.9, 1e-4), STEPS)  # mdistiller, configs/imagenet
# DeiT's table of hyper-parameters: 300 epochs of 1024, 5e-4 x 1024 / 512, decay 0.05, 5 epochs of warm-up, a cosine
ADAMW = (300, 1024, "adamw", 1e-3, 0.9, 0.05)


@pytest.mark.parametrize("pair", PAIRS)
def test_phases_have_the_recipe_of_their_network(pair):
    config_dict = kd.get_config(pair)
    for name, network in zip(("teacher", "student"), pair.split(","), strict=True):
        rates, schedule = trained(config_dict[name])
        if network.startswith("imagenet_"):
            assert (rates, schedule) == SGD
        else:
            assert rates == ADAMW and schedule[0] == "cosine" and schedule[3] == 5.0
    assert not config_dict.student.optim.nesterov and config_dict.student.optim.clip == 0
    data = config_dict.data
    assert (data.name, data.stream, data.crop, data.augment) == ("tfds:imagenet2012", True, 224, "auto")


@pytest.mark.parametrize(("pair", "beta"), [(R18, 0.5), (MV1, 2.0), (VIT, 0.5), (MIXED, 0.5)])
def test_weights_of_kd_and_dkd(pair, beta):
    """mdistiller, configs/imagenet; the transformers' beta is ours."""
    by_kd, by_dkd = kd.get_config(pair).student.terms, dkd.get_config(pair).student.terms
    assert (by_kd.ce.weight, by_kd.kd.weight, by_kd.kd.temperature) == (0.5, 0.5, 1.0)
    assert (by_dkd.ce.weight, by_dkd.dkd.weight, by_dkd.dkd.alpha, by_dkd.dkd.beta) == (1.0, 1.0, 1.0, beta)
    assert (by_dkd.dkd.temperature, by_dkd.dkd.warmup_epochs) == (1.0, 1.0)


PUBLISHED = [  # batch and rate; term, keyword, value. mdistiller's configs; dist, lskd, mlld, cat_kd: their authors'
    ("at", R18, 512, 0.2, ("at", "weight", 1000.0)),
    ("crd", R18, 256, 0.1, ("crd", "weight", 0.8)),
    ("reviewkd", R18, 256, 0.1, ("reviewkd", "weight", 1.0), ("reviewkd", "warmup_epochs", 1.0)),
    ("reviewkd", R18, 256, 0.1, ("reviewkd", "preact", True), ("reviewkd", "max_width", 512)),
    ("reviewkd", MV1, 256, 0.1, ("reviewkd", "weight", 8.0), ("reviewkd", "max_width", 256)),
    ("ofd", MV1, 128, 0.05, ("ofd", "weight", 1e-4), ("ce", "weight", 1.0)),
    ("dot", R18, 512, 0.2, ("kd", "weight", 0.5), ("kd", "temperature", 1.0)),
    ("dist", R18, 256, 0.1, ("dist", "beta", 2.0), ("dist", "gamma", 2.0), ("dist", "temperature", 1.0)),
    ("lskd", R18, 512, 0.2, ("ce", "weight", 1.0), ("kd", "weight", 9.0), ("kd", "temperature", None)),
    ("mlld", R18, 512, 0.1, ("ce", "weight", 0.5), ("mlld", "weight", 0.5), ("mlld", "temperature", 1.0)),
    ("mlld", MV1, 512, 0.2, ("mlld", "ce_weight", 0.5)),
    ("cat_kd", R18, 512, 0.2, ("cat_kd", "weight", 0.5), ("cat_kd", "resolution", 4), ("cat_kd", "normalize", False)),
    ("cat_kd", MV1, 512, 0.2, ("cat_kd", "weight", 10.0), ("cat_kd", "resolution", 2), ("cat_kd", "normalize", True)),
    ("sokd", R18, 256, 0.1, ("fitnet", "weight", 1000.0)),  # rates of the working copy's ReviewKD variant
]  # fmt: skip


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]}-{row[1].split('_')[-1]}")
def test_published_settings(row):
    method, pair, batch, rate, *values = row
    config_dict = compose.get_config(f"{method},{pair}")
    assert (config_dict.student.batch_size, config_dict.student.optim.lr) == (batch, pytest.approx(rate))
    assert config_dict.student.epochs == 100 and config_dict.student.schedule.milestones == (30, 60, 90)
    assert trained(config_dict.teacher) == SGD
    for label, keyword, value in values:
        assert config_dict.student.terms[label][keyword] == value, (label, keyword)
    assert config_dict.student.optim.delta == (0.09 if method == "dot" else 0)


def test_refiners_and_branches_of_ours():
    """SKD: WTTM's gamma and weight; the temperature is the refiner's alone. SoKD: 5 epochs of search."""
    for pair in PAIRS:
        phase = skd.get_config(pair).student
        gamma, weight = (0.7, 3.5) if "MobileNetV1" in pair else (0.8, 1.6)
        assert phase.refine.skd.temperature == 1 / gamma and phase.terms.kd.temperature is None
        assert (phase.terms.ce.weight, phase.terms.kd.weight) == (1.0, weight)
        assert phase.refine.skd.simplifier == "batch"  # a thousand classes
        assert sokd_fitnet.get_config(pair).student.refine.dafa.search_epochs == 5
        branches = sftn.get_config(pair).teacher.terms.sftn_branches
        assert (branches.student, branches.lambda_ce, branches.lambda_kl) == (pair.split(",")[1], 1.0, 3.0)
    for spelled in ("skd+dkd", "ctkd+kd", "lskd+dist", "ctkd+mlld", "kd+skd+crd"):
        terms = compose.get_config(f"{spelled},{R18}").student.terms
        assert [m.temperature for m in terms.values() if m.kind in ("kd", "dkd", "dist", "mlld")] == [None], spelled
    assert terms.crd.temperature == 0.07  # is of another kind
    assert trained(sokd_fitnet.get_config(MIXED).student)[0] == ADAMW  # smaller batches are published for SGD


def test_other_recipes_of_the_pairs():
    config_dict = sftn_vs_kd.get_config(R18)
    assert config_dict.sftn_skd.teacher == "phase:sftn" and config_dict.skd.refine.skd.temperature == 1.25
    assert config_dict.kd.teacher == "phase:teacher" and config_dict.sftn_kd.terms.kd.weight == 0.5
    config_dict = ema_teacher.get_config("vit_tiny_patch16_224")
    assert trained(config_dict.student)[0] == ADAMW and config_dict.data.name == "tfds:imagenet2012"


def test_small_pairs_stay_as_they_are():
    config_dict = skd.get_config("resnet32x4,resnet8x4")
    assert (config_dict.data.name, config_dict.data.stream, config_dict.data.crop) == ("cifar100", False, 0)
    rates = ((240, 64, "sgd", 0.05, 0.9, 5e-4), ("step", (150, 180, 210), 0.1, 0.0))
    assert trained(config_dict.student) == trained(config_dict.teacher) == rates
    assert config_dict.student.refine.skd.temperature == 10.0 and config_dict.student.terms.kd.weight == 100.0
    skd_dict = skd.get_config("resnet20,resnet8").student
    assert skd_dict.refine.skd.temperature == 4.0 and skd_dict.terms.kd.weight == 20.0


@pytest.mark.parametrize("pair", ["imagenet_ResNet34,resnet8x4", "resnet32x4,vit_tiny_patch16_224"])
def test_one_of_each_kind_is_refused(pair):
    with pytest.raises(InputError, match=f"config argument '{pair}': .* is for ImageNet, .* for small images"):
        recipes.argument(pair)


def test_the_arguments_case_does_not_matter():
    pair = recipes.argument(R18.upper())
    assert pair.large and not pair.tokens
    assert dkd.get_config(R18.lower()).student.terms.dkd.beta == 0.5


@pytest.fixture
def tiny(monkeypatch):
    """Networks of few and narrow blocks under the published names: tracing the real ones takes minutes."""
    blocks, vit = {"blocks": (1,) * 4}, partial(VisionTransformer, heads=3, blocks=(1,) * 4)
    basic, bottleneck = {"widths": (4, 4, 8, 8, 16), **blocks}, {"widths": (4, 8, 8, 16, 16), **blocks}
    changed = {"imagenet_ResNet18": basic, "imagenet_ResNet34": basic, "imagenet_ResNet50": bottleneck}
    changed["imagenet_MobileNetV1"] = {"widen": 1 / 8}
    networks = {name: partial(models.MODELS[name], **fields) for name, fields in changed.items()}
    networks |= {"vit_tiny_patch16_224": partial(vit, width=12), "vit_small_patch16_224": partial(vit, width=24)}
    for name, make in networks.items():
        monkeypatch.setitem(models.MODELS, name, make)


def smoke(method, pair):
    config_dict = METHODS[method].get_config(f"{pair},smoke")
    config_dict.data.synthetic.classes = 5
    return config_dict


def builds(method, pair):
    config_dict = smoke(method, pair)
    assert (
        config_dict.data.name,
        config_dict.data.stream,
        config_dict.student.steps,
        config_dict.student.batch_size,
    ) == ("synthetic", False, 2, 8)
    recipe = config.parse(config_dict.to_dict())
    plans = build(recipe, run.load_data(recipe), epath.Path("never-written"), Layout((1,)))
    assert [plan.steps for plan in plans] == [2, 2]


def covering(some):
    """All methods with all pairs; others than these only in make test-all."""
    every = [(m, p) for m in METHODS for p in PAIRS]
    return [pytest.param(*case, marks=() if case in some else pytest.mark.full, id="-".join(case)) for case in every]


TINY = {("kd", R18), ("skd", MV1), ("sftn", VIT), ("dkd", MIXED)}


@pytest.mark.parametrize(("method", "pair"), covering(TINY))
def test_every_pair_builds(tiny, method, pair):
    """Under smoke: 32 x 32 made-up images, hence ViTs of 2 x 2 patches."""
    builds(method, pair)


REAL = set()  # all of them full


@pytest.mark.parametrize(("method", "pair"), covering(REAL))
def test_the_real_networks_build(method, pair):
    builds(method, pair)


@pytest.mark.full
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_every_pair_traces_a_step(method, pair):
    assert refusal(smoke(method, pair)) == ""


STEP = set()  # all of them full


@pytest.mark.parametrize(("method", "pair"), covering(STEP))
def test_pairs_take_real_steps(tiny, method, pair, tmp_path):
    """Checkpoints too: the student's phase reads the teacher's."""
    config_dict = smoke(method, pair)
    config_dict.data.synthetic.train = config_dict.data.synthetic.test = 8
    if method == "sokd_fitnet":
        config_dict.student.refine.dafa.stages = (2,)  # a third of the compiling
    config_dict = json.loads(json.dumps(config_dict.to_dict()))
    run.run(config_dict, str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [r for r in rows if r["split"] == "train"]
    assert [r["phase"] for r in steps] == ["teacher", "teacher", "student", "student"]
    assert all(math.isfinite(v) for r in steps for v in (r["loss"], *r["terms"].values()))
    assert method != "sftn" or {"sftn_branches/ce", "sftn_branches/kl"} <= set(steps[0]["terms"])


@pytest.mark.full
@pytest.mark.parametrize("pair", [R18, "vit_tiny_patch16_224,vit_tiny_patch16_224"])
def test_real_networks_take_real_steps(pair, tmp_path):
    config_dict = smoke("sftn", pair)
    run.run(json.loads(json.dumps(config_dict.to_dict())), str(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text())["phases"]["student"]["steps"] == 2
