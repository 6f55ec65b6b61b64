"""The pass over the training images that says how alike classes are, and what is refused before any phase trains."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import compose
from kd_jax import InputError, losses, models
from kd_jax.models.network import normalize
from kd_jax.train import run
from kd_jax.train.batches import batches_of
from kd_jax.train.class_cka import class_cka
from tests.conftest import shrunk

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


def tree(name="wkd_l", **changes):
    return json.loads(json.dumps(shrunk(compose.get_config(f"{name},resnet8x4,resnet8,smoke"), **changes)))


@pytest.mark.parametrize("stream", [False, True])
def test_it_is_of_the_teachers_last_maps(tmp_path, stream):
    """43 images, of which the smallest of five classes has eight, in batches of 16, the last filled up."""
    changes = {"data__synthetic__train": 43, "student__batch_size": 16, "data__stream": stream, "data__workers": 0}
    prepared = run.prepare(tree(**changes), str(tmp_path))
    plan, network = prepared.plans[1], prepared.plans[0].network
    images, labels = prepared.dataset.train.images, prepared.dataset.train.labels
    variables = models.init(network.model, jax.random.key(0), images[:1] / 255)
    with batches_of(prepared.recipe, prepared.layout, prepared.dataset) as source:
        ours = class_cka(plan, source, (prepared.layout.put(variables, "s"),))
    rows = np.concatenate([np.flatnonzero(labels == k)[:8] for k in range(5)])
    x = normalize(np.float32(images[rows]) / 255, network.mean, network.std)
    last = models.apply(network.model, variables, x)[0].stages[-1]
    np.testing.assert_allclose(ours, losses.class_cka(last.reshape(5, -1, last.shape[-1])), rtol=1e-4)
    assert ours.min() < 0.9


@pytest.mark.parametrize(("images", "classes"), [(8, 4), (4, 0)])
def test_classes_with_fewer_than_two_images_are_like_no_other(tmp_path, images, classes):
    changes = {"data__synthetic__train": images, "student__batch_size": 4, "teacher__batch_size": 4}
    prepared = run.prepare(tree(**changes), str(tmp_path))
    plan, network = prepared.plans[1], prepared.plans[0].network
    variables = models.init(network.model, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    labels = prepared.dataset.train.labels
    several = np.flatnonzero(np.bincount(labels, minlength=5) > 1)
    with batches_of(prepared.recipe, prepared.layout, prepared.dataset) as source:
        ours = np.asarray(class_cka(plan, source, (prepared.layout.put(variables, "s"),)))
    alike = (ours > 0) & ~np.eye(5, dtype=bool)
    assert {*np.flatnonzero(alike.any(1))} == {*several} and bool(len(several)) == bool(classes)


def test_nobody_asks(tmp_path):
    """Nothing is read where the costs are the classifier's."""
    plan = run.prepare(tree(student__terms__wkd_l__relation="classifier"), str(tmp_path)).plans[1]
    assert class_cka(plan, None, ()) is None and plan.context.labels is None


EMA = {"student__teacher": "ema", "student__ema": 0.9}
MOVES = "reads its teacher before training, but ema changes at every step; accepted: another config.student.teacher"


@pytest.mark.parametrize(("name", "changes", "message"), [
    *((name, EMA, f"config.student.terms.{name}: {MOVES}") for name in ("wkd_l", "fcfd", "ofd")),
    ("wkd_l", {"student__teacher": "phase:teacher,phase:teacher", "student__terms__wkd_l__teacher": 1},
     "config.student.terms.wkd_l.teacher: 1, but how alike classes are says the first teacher, 0"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, changes, message):
    with pytest.raises(InputError, match=message):
        run.prepare(tree(name, **changes), str(tmp_path))
