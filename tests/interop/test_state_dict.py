"""State dicts to and from our variables: round trips, prefixes, and what is said when they do not fit."""

import jax
import numpy as np
import pytest

from kd_jax import InputError, models
from kd_jax.interop import state_dict, torch_read, torch_write

MODEL = models.create("resnet8", 5)


@pytest.fixture(scope="module")
def variables():
    """Of a network that is not the initial one anywhere."""
    initial = models.init(MODEL, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    leaves, structure = jax.tree.flatten(initial)
    random = np.random.default_rng(0)
    return jax.tree.unflatten(structure, [np.asarray(leaf) + random.random(leaf.shape, np.float32) for leaf in leaves])


def same(a, b):
    assert jax.tree.structure(tuple(a)) == jax.tree.structure(tuple(b))
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tuple(a), tuple(b))))


def write(path, content):
    """A torch file of nested dicts whose leaves are arrays."""
    torch_write.write_torch(path, content, {})
    return str(path)


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors"])
def test_there_and_back_is_the_identity(tmp_path, variables, file):
    models.save_torch(tmp_path / file, MODEL, variables, {"network": {"mean": [0.5]}})
    assert same(models.load_torch(tmp_path / file, MODEL), variables)
    assert state_dict.read(tmp_path / file).about == {"network": {"mean": [0.5]}}


SLOWER = [pytest.param(name, marks=pytest.mark.full) for name in ("ShuffleV1", "MobileNetV2", "ResNet50")]


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", *SLOWER])
def test_every_layout_comes_back(tmp_path, name):
    model = models.create(name, 3)
    random = np.random.default_rng(0)
    shapes = models.shapes(model, (32, 32, 3))[0]
    weights = jax.tree.map(lambda s: random.random(s.shape, np.float32), shapes)
    models.save_torch(tmp_path / "net.pth", model, weights)
    assert same(models.load_torch(tmp_path / "net.pth", model), weights)
    assert state_dict.recognize(state_dict.read(tmp_path / "net.pth")) == (name, 3)


def test_a_layout_by_hand():
    tensors = state_dict.to_torch(
        jax.tree.map(np.asarray, models.init(MODEL, jax.random.key(0), np.zeros((1, 8, 8, 3))))
    )
    read = state_dict.from_torch(state_dict.WeightsFile("net.pth", tensors, {}, ""), MODEL)
    kernel, head = read.params["layer2"]["0"]["conv1"]["kernel"], read.params["fc"]["kernel"]
    assert kernel[2, 0, 5, 7] == tensors["layer2.0.conv1.weight"][7, 5, 2, 0]
    assert head[9, 4] == tensors["fc.weight"][4, 9]
    assert tensors["bn1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("prefix", ["", "module.", "student.", "module.student.", "anything.at.all."])
def test_prefixes_are_found(tmp_path, variables, prefix):
    tensors = {prefix + k: v for k, v in state_dict.to_torch(variables).items()}
    path = write(tmp_path / "net.pth", tensors)
    assert same(models.load_torch(path, MODEL), variables)
    assert state_dict.fit(state_dict.read(path), MODEL).prefix == prefix


NAMES = ["model", "state_dict", "net", "model_state_dict", "state_dict_ema", "anything"]


@pytest.mark.parametrize("key", NAMES)
def test_dicts_around_a_state_dict_are_taken_off(monkeypatch, tmp_path, variables, key):
    (tmp_path / "file").write_bytes(b"x")
    inner = state_dict.to_torch(variables)
    loop = {"model": {key: inner}}
    loop["self"] = loop["model"]["self"] = loop
    for content in ({key: inner, "epoch": 3, "accuracy": np.zeros(()), 0: inner}, {"model": {key: inner}}, loop):
        monkeypatch.setattr(torch_read, "read", lambda path, content=content: content)
        file = state_dict.read(tmp_path / "file")
        assert state_dict.fit(file, MODEL).prefix == "" and same(state_dict.from_torch(file, MODEL), variables)


def test_numbers_and_text_among_the_tensors_are_passed_over(monkeypatch, tmp_path, variables):
    (tmp_path / "file").write_bytes(b"x")
    mixed = {**state_dict.to_torch(variables), "epoch": 5, "best": 0.7, "arch": "resnet8", "seed": None}
    for content in ({"model": mixed}, mixed):
        monkeypatch.setattr(torch_read, "read", lambda path, content=content: content)
        assert same(state_dict.from_torch(state_dict.read(tmp_path / "file"), MODEL), variables)


def test_no_state_dict(monkeypatch, tmp_path):
    for content, message in (
        ({"epoch": 3, "opt": {}}, "it holds: epoch, opt"),
        ([1], "it holds: list"),
        ({}, "it holds: "),
    ):
        monkeypatch.setattr(torch_read, "read", lambda path, content=content: content)
        with pytest.raises(InputError, match=f"no state dict in it; {message}$"):
            state_dict.read(tmp_path / "file")


def test_half_precision_is_widened(tmp_path, variables):
    half = {k: v.astype(np.float16) for k, v in state_dict.to_torch(variables).items()}
    half = {k: v.astype(np.int64) if k.endswith(state_dict.COUNTER) else v for k, v in half.items()}
    widened = state_dict.from_torch(state_dict.WeightsFile("net.pth", half, {}, ""), MODEL)
    assert {leaf.dtype for leaf in jax.tree.leaves(widened)} == {np.dtype("float32")}
    assert same(widened, jax.tree.map(lambda v: v.astype(np.float16).astype(np.float32), variables))


def test_what_does_not_fit_is_a_table(variables):
    tensors = state_dict.to_torch(variables)
    tensors["fc.bias"] = np.zeros(7, np.float32)
    tensors["extra.weight"] = np.zeros(2, np.float32)
    del tensors["layer3.0.conv1.weight"]
    with pytest.raises(InputError) as e:
        state_dict.from_torch(state_dict.WeightsFile("net.pth", tensors, {}, ""), MODEL, what="resnet8 with 5 classes")
    assert str(e.value).splitlines() == [
        "net.pth: does not fit resnet8 with 5 classes: "
        f"1 missing, 1 unexpected, 1 of another shape, of {len(state_dict.published(MODEL))} tensors",
        "  missing: layer3.0.conv1.weight (64, 32, 3, 3)",
        "  unexpected: extra.weight (2,)",
        "  of another shape: fc.bias is (7,), not (5,)",
    ]


def test_a_known_network_is_named(variables):
    file = state_dict.WeightsFile(
        "net.pth", {f"module.{k}": v for k, v in state_dict.to_torch(variables).items()}, {}, ""
    )
    with pytest.raises(
        InputError, match=r"(?s)does not fit.*\.\.\. and \d+ more.*\n  it fits: resnet8 with 5 classes$"
    ):
        state_dict.from_torch(file, models.create("vgg8", 5))


def test_partial_only_when_asked_and_only_if_something_fits(variables):
    tensors = {k: v for k, v in state_dict.to_torch(variables).items() if not k.startswith("fc.")}
    tensors["fc.bias"] = np.zeros(100, np.float32)
    file = state_dict.WeightsFile("net.pth", tensors, {}, "")
    with pytest.raises(InputError, match="1 missing, 1 of another shape"):
        state_dict.from_torch(file, MODEL)
    loaded = state_dict.from_torch(file, MODEL, partial=True)
    start = models.init(MODEL, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    np.testing.assert_array_equal(loaded.params["conv1"]["kernel"], variables.params["conv1"]["kernel"])
    np.testing.assert_array_equal(loaded.params["fc"]["kernel"], start.params["fc"]["kernel"])
    with pytest.raises(InputError, match="does not fit"):
        state_dict.from_torch(state_dict.WeightsFile("net.pth", {"a": np.zeros(1)}, {}, ""), MODEL, partial=True)


@pytest.mark.parametrize(("name", "array", "message"), [
    ("bn1.bias", np.full(16, np.nan, np.float32), "holds values that are not finite"),
    ("bn1.bias", np.zeros(16, np.int8), "is int8, not a floating-point tensor"),
    ("bn1.running_var", np.full(16, -1e-3, np.float32), "holds variances below 0"),
])  # fmt: skip
def test_values_that_are_no_weights(variables, name, array, message):
    tensors = state_dict.to_torch(variables) | {name: array}
    with pytest.raises(InputError, match=f"{name} {message}"):
        state_dict.from_torch(state_dict.WeightsFile("net.pth", tensors, {}, ""), MODEL)


def test_grey_images(tmp_path):
    grey = models.init(MODEL, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    models.save_torch(tmp_path / "grey.pth", MODEL, grey)
    file = state_dict.read(tmp_path / "grey.pth")
    assert state_dict.image_channels(file, MODEL) == 1 and state_dict.recognize(file) == ("resnet8", 5)
    assert same(models.load_torch(tmp_path / "grey.pth", MODEL, (8, 8, 1)), grey)
    with pytest.raises(InputError, match=r"conv1.weight is \(16, 1, 3, 3\), not \(16, 3, 3, 3\)"):
        models.load_torch(tmp_path / "grey.pth", MODEL)


def test_saving_another_network_is_refused(tmp_path, variables):
    with pytest.raises(ValueError, match="not variables of VGG"):
        models.save_torch(tmp_path / "net.pth", models.create("vgg8", 5), variables)
    assert not (tmp_path / "net.pth").exists()
