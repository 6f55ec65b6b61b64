"""Embedding distillation as a criterion: its projector, what it reads, and a teacher from anywhere."""

import json
import sys

import jax
import numpy as np
import pytest

from configs import unlabelled
from kd_jax import InputError, losses, make_init_context, methods, recipes
from kd_jax.methods.base import NO_VARS
from kd_jax.train import run
from tests.conftest import shrunk

KEY = jax.random.key(0)
FUNCTION = """
import jax.numpy as jnp

def teacher(num_classes, image_shape):
    def run(images):
        pooled = jnp.concatenate([images.mean((1, 2)), images.max((1, 2)), images.min((1, 2))], -1)
        return {"logits": pooled @ jnp.eye(9, num_classes), "pooled": pooled}
    return run

def without(num_classes, image_shape):
    return lambda images: images.mean((1, 2)) @ jnp.eye(3, num_classes)
"""


@pytest.fixture
def context(nets):
    return make_init_context(nets["student"], (nets["teacher"],), image_shape=(8, 8, 3), batch_size=8)


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_it_is_the_loss_behind_a_linear_layer(nets, context, rng, distance):
    distiller = methods.embed(distance=distance, weight=2.0)
    vars = distiller.init(KEY, context)
    assert distiller.needs == {"teacher.pooled"} and vars.stats == vars.policy == {}
    params = vars.params["projector"]
    assert {k: v.shape for k, v in params.items()} == {"kernel": (8, 16), "bias": (16,)}
    student, teacher = (rng.normal(size=(8, width)).astype("f") for width in (8, 16))
    view = context.view_shapes
    outputs = view.student._replace(pooled=student), (view.teachers[0]._replace(pooled=teacher),)
    view = view._replace(student=outputs[0], teachers=outputs[1], labels=None)

    def value(params):
        return distiller.apply(vars._replace(params={"projector": params}), view, KEY, True)[1][""]

    projected = student @ params["kernel"] + params["bias"]
    wanted = 2 * losses.embed(student=projected, teacher=teacher, distance=distance)
    np.testing.assert_allclose(jax.jit(value)(params), wanted, rtol=1e-5)
    slopes = jax.jit(jax.grad(lambda params: value(params).sum()))(params)
    assert all(np.abs(slope).max() > 1e-4 for slope in jax.tree.leaves(slopes))  # it is trained


def test_off_and_refused(context):
    assert methods.embed(weight=0.0).init(KEY, context) == NO_VARS and methods.embed(weight=0.0).needs == frozenset()
    with pytest.raises(InputError, match="embed: distance must be cosine or mse, got 'l1'"):
        methods.embed(distance="l1")


@pytest.mark.usefixtures("tiny_resnet8")
def test_a_function_teaches_images_without_labels(tmp_path, monkeypatch):
    """What it returns as `pooled` is nine wide, the student's eight; without it the method is refused by name."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "embedder.py").write_text(FUNCTION)
    config_dict = unlabelled.get_config("resnet8,smoke")
    config_dict.student.terms.embed = recipes.member("embed")
    config_dict.student.ema, config_dict.student.steps = None, 20

    def config_tree(function):
        return json.loads(json.dumps(shrunk(config_dict, student__teacher=f"python:embedder:{function}")))

    try:
        summary = run.run(config_tree("teacher"), str(tmp_path / "run"))
        terms = [row["terms"]["embed"] for row in map(json.loads, open("run/metrics.jsonl")) if row["split"] == "train"]
        assert np.mean(terms[-3:]) < 0.5 * np.mean(terms[:3])
        assert summary["phases"]["student"]["method_params"] == 8 * 9 + 9
        message = r"config.student.terms.embed: needs pooled features \(teacher.pooled\), which python:embed"
        with pytest.raises(InputError, match=message):
            run.prepare(config_tree("without"), str(tmp_path / "other"))
    finally:
        sys.modules.pop("embedder", None)
