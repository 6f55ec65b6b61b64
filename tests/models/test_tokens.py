"""Transformers in recipes: some methods read their tokens as maps, the others refuse them by name."""

import json
from functools import partial

import pytest
from etils import epath

from configs import compose
from kd_jax import InputError, config, models
from kd_jax.distributed.mesh import Layout
from kd_jax.models.vit import VisionTransformer
from kd_jax.plan import build
from kd_jax.train.run import load_data
from tests.conftest import shrunk

TINY = {
    "vit_tiny_patch16_224": partial(VisionTransformer, width=12, heads=3, blocks=(1, 1, 1, 1), patch=8),
    "vit_small_patch16_224": partial(VisionTransformer, width=24, heads=3, blocks=(1, 1, 1, 1), patch=8),
    "imagenet_ResNet18": partial(models.MODELS["imagenet_ResNet18"], blocks=(1,) * 4, widths=(4, 4, 8, 8, 16)),
}


def register(monkeypatch, **networks):
    """Small networks under the published names, which recipes know as ImageNet's."""
    for name, make in networks.items():
        monkeypatch.setitem(models.MODELS, name, make)


@pytest.fixture
def tiny(monkeypatch):
    register(monkeypatch, **TINY)


def plan(config_dict, tmp_path):
    recipe = config.parse(json.loads(json.dumps(shrunk(config_dict, data__synthetic__size=32))))
    return build(recipe, load_data(recipe), epath.Path(tmp_path), Layout((1,)))


MIXED = "imagenet_ResNet18,vit_tiny_patch16_224"
PAIRS = (MIXED, "vit_tiny_patch16_224,imagenet_ResNet18", "vit_small_patch16_224,vit_tiny_patch16_224")
READ = (
    "sftn",
    "skd",
    "sokd",
    "fitnet",
    "kd",
    "dist",
    "crd",
    "rkd",
    "pkt",
    "cc",
    "at",
    "nst",
    "kdsvd",
    "vid",
    "wkd_f",
    "embed",
    "ofa",
)
LOGITS = (
    "dkd",
    "mlld",
    "dml",
    "dot",
    "lskd",
    "ctkd",
    "nkd",
    "rld",
    "ttm",
    "wttm",
    "ab_kd",
    "normkd",
    "ea_kd",
    "ea_dkd",
    "crld",
    "deepkd",
    "wkd_l",
)  # as kd
REFUSED = ("sp", "fcfd", "fsp", "ft", "ab", "ofd", "reviewkd", "cat_kd", "simkd", "sdd_kd", "sdd_dkd", "sdd_nkd")


def test_stochastic_depth_is_of_transformers(tiny, tmp_path):
    config_dict = compose.get_config(f"kd,{MIXED},smoke")
    config_dict.student.drop_path = 0.1
    plans = plan(config_dict, tmp_path)
    assert [getattr(p.network.model, "drop_path", None) for p in plans] == [None, 0.1]
    config_dict.teacher.drop_path = 0.2
    with pytest.raises(InputError, match="config.teacher.drop_path: 0.2, but imagenet_ResNet18 drops no blocks"):
        plan(config_dict, tmp_path)


def test_every_method_is_one_or_the_other():
    assert {*READ, *REFUSED, *LOGITS} == set(compose.PARTS) - {"skd_annealed"}  # skd's, with other keywords


@pytest.mark.full
@pytest.mark.parametrize("pair", [MIXED, *PAIRS[1:]])
def test_those_that_read_tokens(tiny, pair, tmp_path):
    """All at once; 4 x 4 patches are as many as the cells of stage 2 elsewhere, which FitNet's regressor needs."""
    config_dict = compose.get_config(f"{'+'.join(READ)},{pair},smoke")
    config_dict.student.terms.wkd_f.update({"stage": 2, "grid": 1})  # later maps have one cell here
    assert [job.phase.name for job in plan(config_dict, tmp_path)] == ["teacher", "student"]


@pytest.mark.parametrize("pair", [MIXED, *(pytest.param(pair, marks=pytest.mark.full) for pair in PAIRS[1:])])
@pytest.mark.parametrize("method", REFUSED)
def test_tokens_are_refused_by_name(tiny, method, pair, tmp_path):
    tokens = r"needs feature maps \(B, H, W, C\), but the (student|teacher)'s stages are tokens"
    lacks = r"needs (class activation maps|pre-activation features) \(\w+\.\w+\), which vit"
    message = rf"config\.\w+\.terms\.\w+: (\w+: {tokens}|{lacks})"
    if method == "simkd":
        message = "graft:.*(has tokens; a graft needs a student with feature maps|its classifier reads no stage of it)"
    with pytest.raises(InputError, match=message) as e:
        plan(compose.get_config(f"{method},{pair},smoke"), tmp_path)
    assert "\n" not in str(e.value)
