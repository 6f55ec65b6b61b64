"""Transformers in recipes: logits teach across families; methods on maps refuse tokens by name."""

import json

import pytest

from configs import compose, kd
from kd_jax import InputError, build, config
from kd_jax.loop import load_data
from tests.conftest import shrunk


def plan(made, tmp_path):
    recipe = config.parse(json.loads(json.dumps(shrunk(made, data__synthetic__size=32))))
    return build.plan(recipe, load_data(recipe), tmp_path)


def test_logits_teach_across_families(tmp_path):
    jobs = plan(kd.get_config("imagenet_ResNet18,vit_tiny_patch16_224,smoke"), tmp_path)
    assert jobs[1].facts.view_shapes.student.stages[0].shape == (8, 5, 192)


@pytest.mark.parametrize(
    ("spelled", "told"),
    [
        ("fitnet,resnet8,vit_tiny_patch16_224", r"student.terms.fitnet: needs feature maps .B, H, W, C., but vit_tiny"),
        ("sokd,vit_tiny_patch16_224,resnet8", "student.refine.dam: needs feature maps .*, but vit_tiny_patch16_224"),
        ("sftn,vit_tiny_patch16_224,resnet8", "teacher.terms.sftn_branches: needs feature maps"),
    ],
)
def test_tokens_are_refused_by_name(spelled, told, tmp_path):
    with pytest.raises(InputError, match=f"config.{told}") as e:
        plan(compose.get_config(f"{spelled},smoke"), tmp_path)
    assert "\n" not in str(e.value)
