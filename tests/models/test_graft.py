"""The grafted student: its parts by hand, a head that nothing moves, names, and what is no graft."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kd_jax
from kd_jax import methods, models
from kd_jax.engine import optim
from kd_jax.interop import state_dict
from kd_jax.methods.simkd import simkd
from kd_jax.models import vit
from kd_jax.models.graft import HEAD, Graft, create_graft, head_of, last_map, parse, with_head
from kd_jax.typing import InputError, Variables
from tests.tiny import TinyNet

CLASSES = 7
KEY = jax.random.key(0)
# last maps for images of 32 pixels: resnet 8 x 8, vgg and ShuffleV1 4 x 4, MobileNetV2 2 x 2
PAIRS = {
    "resnet8+resnet8x4": (8, 256),
    "resnet8+vgg8": (4, 512),
    "vgg8+resnet8x4": (4, 256),
    "MobileNetV2+resnet20": (2, 64),
    "wrn_16_1+ShuffleV1": (4, 960),
    "ShuffleV2+wrn_16_2": (4, 128),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_shapes(pair):
    model, (size, width) = create_graft(f"graft:{pair}", CLASSES, models.create), PAIRS[pair]
    variables, out = models.shapes(model, (32, 32, 3), batch=2)
    alone, student_out = models.shapes(model.student, (32, 32, 3), batch=2)
    assert out.stages[:-1] == student_out.stages and out.stages[-1].shape == (2, size, size, width)
    if student_out.preacts is None:
        assert out.preacts is None
    else:
        assert out.preacts[:-1] == student_out.preacts and out.preacts[-1].shape == (2, size, size, width)
    assert out.pooled.shape == (2, width) and out.logits.shape == (2, CLASSES)
    assert out.cam.shape == (2, size, size, CLASSES)
    assert variables.params["student"] == alone.params and variables.stats["student"] == alone.stats
    shapes = {"kernel": (width, CLASSES), "bias": (CLASSES,)}
    assert {name: x.shape for name, x in variables.stats[HEAD].items()} == shapes
    kernels = {name: x["kernel"].shape for name, x in variables.params.items() if "kernel" in x}
    last = student_out.stages[-1].shape[-1]
    half = width // 2
    expected = {"transfer.0": (1, 1, last, half), "transfer.3": (3, 3, half, half), "transfer.6": (1, 1, half, width)}
    assert kernels == expected and set(variables.params) - set(kernels) == {
        "student", "transfer.1", "transfer.4", "transfer.7",
    }  # fmt: skip
    assert models.count_multiply_adds(model, (32, 32, 3)) > 0


@pytest.fixture(scope="module")
def grafts():
    """(model, variables with a head, images, the teacher's variables); maps of the same size, and not."""
    teachers = {
        "even": TinyNet(widths=(8, 32), num_classes=CLASSES),
        "pooled": models.create("vgg8", CLASSES),
    }
    by_name = {}
    for name, teacher in teachers.items():
        model = Graft(TinyNet(num_classes=CLASSES), teacher, 4, CLASSES)
        image = jax.random.normal(jax.random.key(1), (4, 16, 8, 3))
        initial = jax.jit(models.init, static_argnums=0)(model, KEY, image)
        given = jax.jit(models.init, static_argnums=0)(teacher, jax.random.key(2), image)
        by_name[name] = model, with_head(initial, head_of(given)), image, given
    return by_name


def conv(x, kernel):
    pad = kernel.shape[0] // 2
    x, out = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))), 0
    height, width = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            out = out + x[:, i : i + height, j : j + width] @ np.asarray(kernel[i, j], np.float64)
    return out


@pytest.mark.parametrize("name", ["even", "pooled"])
def test_by_hand(grafts, name):
    """The student as it is alone; pool, projector and the teacher's head in numpy."""
    model, variables, image, teacher = grafts[name]
    out, moved = jax.jit(lambda: models.apply(model, variables, image, train=True))()
    student = Variables(variables.params["student"], variables.stats["student"])
    alone, stats = jax.jit(lambda: models.apply(model.student, student, image, train=True))()
    jax.tree.map(np.testing.assert_array_equal, (out.stages[:-1], out.preacts[:-1]), (alone.stages, alone.preacts))
    jax.tree.map(np.testing.assert_array_equal, moved["student"], stats)
    x = np.asarray(alone.stages[-1], np.float64)  # 4 x 2; of VGG 2 x 1
    if name == "pooled":
        x = x.reshape(4, 2, 2, 1, 2, -1).mean((2, 4))
    for i in (0, 3, 6):
        x = conv(x, variables.params[f"transfer.{i}"]["kernel"])
        mean = 0.9 * 0 + 0.1 * x.mean((0, 1, 2))
        np.testing.assert_allclose(moved[f"transfer.{i + 1}"]["mean"], mean, rtol=1e-3, atol=1e-5)
        x = preact = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        x = np.maximum(x, 0)
    near = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    near(out.stages[-1], x)
    near(out.preacts[-1], preact)
    near(out.pooled, x.mean((1, 2)))
    kernel, bias = (np.asarray(teacher.params["fc" if name == "even" else "classifier"][k]) for k in ("kernel", "bias"))
    near(out.logits, x.mean((1, 2)) @ kernel + bias)
    near(out.cam, x @ kernel + bias)
    np.testing.assert_allclose(out.logits, out.pooled @ kernel + bias, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, dict(moved[HEAD]), {"kernel": kernel, "bias": bias})


@pytest.mark.parametrize("name", ["even", "pooled"])
def test_continued_after_every_stage(grafts, name):
    model, variables, image, _ = grafts[name]
    out = jax.jit(lambda: models.apply(model, variables, image)[0])()
    for i, x in enumerate(out.stages):
        later, _ = jax.jit(lambda x, i=i: models.apply(model, variables, x, after=i))(x)
        assert len(later.stages) == len(out.stages) - 1 - i
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), later.stages, out.stages[i + 1 :])
        np.testing.assert_allclose(later.logits, out.logits, rtol=1e-4, atol=1e-5)
        part = jax.eval_shape(partial(model.init, KEY, after=i), x)
        assert ("student" in part.get("params", {})) == (i < len(out.stages) - 1) and HEAD in part["batch_stats"]


def test_nothing_moves_the_head(grafts):
    """Three steps with decay: the projector moves, the head does not, and the student's own head only decays."""
    model, variables, image, teacher = grafts["even"]
    distiller = methods.chain(simkd=simkd(), ce=methods.ce(weight=0.5))
    context = kd_jax.make_init_context(model, (model.teacher,), image_shape=image.shape[1:], batch_size=4)
    parts = {"student": model, "distiller": distiller, "tx": optim.sgd(lambda step: 0.1, weight_decay=0.1)}
    taught = jax.jit(partial(kd_jax.teacher_outputs, model.teacher))(teacher, image)

    state = jax.jit(partial(kd_jax.init_state, context=context, **parts))(KEY)
    step = jax.jit(lambda state, batch: kd_jax.train_step(state, taught, batch, KEY, **parts)[0])
    start, state = state.params["student"], state._replace(stats={**state.stats, "student": variables.stats})
    for _ in range(3):
        state = step(state, {"image": image, "label": jnp.arange(4)})
    jax.tree.map(np.testing.assert_array_equal, dict(state.stats["student"][HEAD]), dict(variables.stats[HEAD]))
    assert HEAD not in state.params["student"]
    for where in (("transfer.6", "kernel"), ("student", "conv1", "kernel")):
        a, b = start, state.params["student"]
        for part in where:
            a, b = a[part], b[part]
        assert np.abs(a - b).max() > 1e-4
    shrunk, kernel = (tree["student"]["fc"]["kernel"] for tree in (state.params["student"], start))
    momenta, at = 0, np.asarray(kernel, np.float64)
    for _ in range(3):
        momenta = 0.9 * momenta + 0.1 * at
        at = at - 0.1 * momenta
    np.testing.assert_allclose(shrunk, at, rtol=1e-5)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_head_of_every_network(name):
    model = models.create(name, 100)  # as in test_models: its shapes are known
    variables, out = models.shapes(model, (32, 32, 3))
    head = head_of(variables)
    assert {k: v.shape for k, v in head.items()} == {"kernel": (out.pooled.shape[-1], 100), "bias": (100,)}
    if name in ("MobileNetV2", "ShuffleV2", "EfficientNetLite0", *vit.NETWORKS):
        with pytest.raises(
            ValueError, match=f"a {type(model).__name__} cannot be the teacher: its classifier reads no stage of it"
        ):
            last_map(model)
    else:
        assert last_map(model) == out.stages[-1].shape[1:]


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "ShuffleV1"])
def test_the_last_map_is_what_the_classifier_reads(name):
    model = models.create(name, CLASSES, **{"blocks": (1, 1, 1)} if name == "ShuffleV1" else {})
    image = jax.random.normal(KEY, (2, 32, 16, 3))

    @jax.jit
    def run():
        variables = models.init(model, KEY, image)
        return head_of(variables), models.apply(model, variables, image)[0]

    classifier, out = run()
    pooled = np.maximum(out.preacts[-1], 0).mean((1, 2))
    np.testing.assert_allclose(pooled, out.pooled, rtol=1e-4, atol=1e-6)
    logits = out.pooled @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, out.logits, rtol=1e-4, atol=1e-6)


def test_a_graft_can_teach(grafts):
    model, variables, _, teacher = grafts["even"]
    jax.tree.map(np.testing.assert_array_equal, head_of(variables), head_of(teacher))
    assert last_map(model, (16, 8, 3)) == (4, 2, 32)


def test_names_of_the_published_code_and_back(grafts, tmp_path):
    model, variables, _, _ = grafts["even"]
    names = state_dict.to_torch(variables)
    assert {n for n in names if n.startswith("teacher")} == {"teacher_head.weight", "teacher_head.bias"}
    assert names["teacher_head.weight"].shape == (CLASSES, 32)
    assert names["transfer.3.weight"].shape == (8, 8, 3, 3) and "transfer.7.running_mean" in names
    alone = state_dict.to_torch(Variables(variables.params["student"], variables.stats["student"]))
    assert {n.removeprefix("student.") for n in names if n.startswith("student.")} == set(alone)
    for file in ("graft.pth", "graft.safetensors"):
        models.save_torch(str(tmp_path / file), model, variables)
        again = models.load_torch(str(tmp_path / file), model)
        jax.tree.map(np.testing.assert_array_equal, tuple(again), tuple(variables))


def test_spelling():
    assert parse("resnet8") is None
    assert parse("graft:resnet8+resnet20") == parse("Graft:resnet8 + resnet20") == ("resnet8", "resnet20")
    model = create_graft("graft:resnet8+ResNet18", 3, models.create, factor=4)
    assert model == Graft(models.create("resnet8", 3), models.create("ResNet18", 3), 4, 3)


@pytest.mark.parametrize(
    "name, kwargs, message",
    [
        ("resnet8", {}, "model 'resnet8': a graft is spelled graft:STUDENT\\+TEACHER, of two networks"),
        ("graft:resnet8", {}, "a graft is spelled"),
        ("graft:resnet8+", {}, "a graft is spelled"),
        ("graft:resnet8+resnet14+resnet20", {}, "a graft is spelled"),
        ("graft:resnet8+graft:resnet14", {}, "a graft is spelled"),
        ("graft:resnet8+resnet9", {}, "unknown model 'resnet9'; did you mean resnet"),
        ("graft:resnet8+ShuffleV2", {}, "graft:resnet8\\+ShuffleV2': graft: a ShuffleV2 cannot be the teacher"),
        ("graft:resnet8+resnet20", {"factor": 0}, "factor must be from 1 to the teacher's width 64, got 0"),
        ("graft:resnet8+resnet20", {"factor": 65}, "factor must be from 1"),
    ],
)
def test_refused(name, kwargs, message):
    with pytest.raises(InputError, match=message) as refused:
        create_graft(name, 5, models.create, **kwargs)
    assert "\n" not in str(refused.value)


def test_what_does_not_fit_is_refused(grafts):
    (_, variables, *_), (model, *_) = grafts["even"], grafts["pooled"]
    with pytest.raises(ValueError, match="a classifier of shapes .*32, 7.* wanted, got .*512, 7"):
        with_head(variables, head_of(grafts["pooled"][3]))
    with pytest.raises(ValueError, match="wanted, got"):
        with_head(grafts["even"][3], head_of(variables))
    with pytest.raises(ValueError, match="these variables have 0"):
        head_of(Variables({"conv1": {"kernel": jnp.zeros((3, 3, 3, 8))}, "layer1": {}}, {}))
    with pytest.raises(ValueError, match="stage 2 of a TinyNet is never 3x3x5"):
        jax.eval_shape(lambda x: model.init(KEY, x, after=2), jnp.zeros((1, 3, 3, 5)))
