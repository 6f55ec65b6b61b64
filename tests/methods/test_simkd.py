"""SimKD's loss against slow loops, where its gradient goes, and students and teachers that it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import models
from kd_jax.methods.simkd import simkd
from kd_jax.models.graft import Graft, create_graft
from kd_jax.typing import Outputs, View
from tests.conftest import TINY
from tests.losses.slopes import gradients_are_slopes

BATCH, CLASSES = 3, 5


def view_of(student, teacher, spatial_mask=None, step=0):
    """Of a student's last stage and a teacher's last map before its ReLU."""
    logits = jnp.zeros((BATCH, CLASSES))
    pooled = jnp.zeros((BATCH, teacher.shape[-1]))
    ours = Outputs((jnp.zeros((BATCH, 2, 2, 1)), student), None, None, logits)
    theirs = Outputs((), (jnp.ones((BATCH, 9, 9, 4)), teacher), pooled, logits)
    return View(None, ours, (theirs,), None, jnp.zeros(BATCH, int), None, jnp.int32(step), spatial_mask)


def term(view, **kwargs):
    _, terms, logs, stats = simkd(**kwargs).apply(kd_jax.typing.Vars({}, {}, {}), view, jax.random.key(0), True)
    assert set(terms) == {""} and not logs and not stats
    return terms[""]


def slow(student, teacher, mask=None):
    """ReLU, the mean over each window, the mean of the squares."""
    (b, h, w, c), (_, height, width, _), values = student.shape, teacher.shape, []
    for n in range(b):
        total = 0.0
        for i in range(h):
            rows = range(i * height // h, -(-(i + 1) * height // h))
            for j in range(w):
                columns = range(j * width // w, -(-(j + 1) * width // w))
                for k in range(c):
                    cells = [max(teacher[n, y, x, k], 0.0) for y in rows for x in columns]
                    factor = 1.0 if mask is None else mask[n, i, j, 0]
                    total += (factor * (student[n, i, j, k] - sum(cells) / len(cells))) ** 2
        values.append(total / (h * w * c))
    return values


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (5, 3)])
def test_values(rng, size):
    student, teacher = np.abs(rng.normal(size=(BATCH, 2, 2, 4))), rng.normal(size=(BATCH, *size, 4))
    view = view_of(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(term(view), slow(student, teacher), rtol=1e-5)
    np.testing.assert_allclose(term(view, weight=3.0), 3 * np.array(slow(student, teacher)), rtol=1e-5)
    later = view._replace(step=jnp.int32(4))
    np.testing.assert_allclose(
        term(later, weight=lambda step: step / 8), np.array(slow(student, teacher)) / 2, rtol=1e-5
    )
    mask = (rng.uniform(size=(BATCH, 2, 2, 1)) > 0.5).astype("f")
    np.testing.assert_allclose(
        term(view._replace(spatial_mask=jnp.asarray(mask))), slow(student, teacher, mask), rtol=1e-5
    )


def test_gradients(rng, x64):
    """In both maps; the teacher's are kept off the corner of the ReLU."""
    away = lambda x: jnp.abs(x) + 0.1  # noqa: E731
    gradients_are_slopes(lambda student, teacher: term(view_of(student, away(teacher))), rng)


@pytest.fixture(scope="module")
def grafted():
    """A graft of resnet8 on a wider one, its context, and (parameters -> the loss)."""
    teacher = models.create("resnet8", CLASSES, widths=(8, 8, 16, 32))
    model = Graft(models.create("resnet8", CLASSES, **TINY), teacher, 2, CLASSES)
    context = kd_jax.make_init_context(model, (teacher,), image_shape=(8, 8, 3), batch_size=BATCH)
    return model, teacher, context


def test_the_whole_below_the_heads_learns(grafted):
    """The projector and the student up to its last stage; not the student's own head, which nobody reads."""
    model, teacher, context = grafted
    assert simkd().init(jax.random.key(0), context) == ({}, {}, {}) and simkd().needs == {"teacher.preacts"}
    image = jax.random.normal(jax.random.key(1), (BATCH, 8, 8, 3))

    @jax.jit
    def run():
        variables = models.init(model, jax.random.key(0), image)
        taught = kd_jax.teacher_outputs(teacher, models.init(teacher, jax.random.key(2), image), image)

        def loss(params):
            outputs, _ = models.apply(model, variables._replace(params=params), image, True)
            view = context.view_shapes._replace(student=outputs, teachers=(taught,), step=jnp.int32(0))
            return jnp.mean(term(view)), (outputs.stages[-1], taught)

        return jax.value_and_grad(loss, has_aux=True)(variables.params)

    (value, (last, taught)), grads = run()
    np.testing.assert_allclose(value, np.mean((last - taught.stages[-1]) ** 2), rtol=1e-5)
    largest = {name: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(tree)) for name, tree in grads.items()}
    of_student = {
        name: max(float(jnp.abs(g).max()) for g in jax.tree.leaves(t)) for name, t in grads["student"].items()
    }
    assert all(value > 1e-5 for value in largest.values()), largest
    assert of_student.pop("fc") == 0 and all(value > 1e-5 for value in of_student.values()), of_student


def facts_of(student, teacher):
    return kd_jax.make_init_context(student, (teacher,), image_shape=(32, 32, 3), batch_size=BATCH)


@pytest.mark.parametrize(
    "student, teacher, message",
    [
        ("resnet8", "resnet8x4", "simkd: the student is no graft on this teacher: its last stage is 8x8x64, .*8x8x256"),
        ("graft:resnet8+resnet8", "resnet8x4", "is no graft on this teacher"),
        ("graft:resnet8+vgg8", "ResNet18", None),  # two teachers of one shape
        ("graft:resnet8+vgg8", "resnet8", "is no graft on this teacher"),
        ("resnet8", "MobileNetV2", "this teacher's classifier reads none of its stages"),
        ("resnet8", "ShuffleV2", "this teacher's classifier reads none of its stages"),
        ("resnet8", "resnet8", r"the network in training is a ResNet; it needs a student graft:STUDENT\+TEACHER"),
    ],
)
def test_who_is_refused(student, teacher, message):
    make = lambda name: create_graft(name, CLASSES, models.create) if ":" in name else models.create(name, CLASSES)  # noqa: E731
    context = facts_of(make(student), make(teacher))
    if message is None:
        simkd().init(jax.random.key(0), context)
        return
    with pytest.raises(ValueError, match=message):
        simkd().init(jax.random.key(0), context)


def test_a_larger_map_is_refused():
    """A student of the right width that was not pooled to the teacher's size."""
    view = view_of(jnp.zeros((BATCH, 4, 2, 4)), jnp.zeros((BATCH, 2, 2, 4)))
    with pytest.raises(ValueError, match="its last stage is 4x2x4, the teacher's 2x2x4"):
        simkd().init(jax.random.key(0), kd_jax.InitContext(view, CLASSES))
