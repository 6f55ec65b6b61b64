"""Files with several networks: none is taken silently, each can be chosen, and one network alone needs no choice."""

import json

import jax
import numpy as np
import pytest

from kd_jax import InputError, models
from kd_jax.interop import exchange, state_dict, torch_read, torch_write
from kd_jax.models.network import Network
from kd_jax.plan import teachers
from kd_jax.train import run
from tests.conftest import tree

MODEL = models.create("resnet8", 5)


def weights(name, seed, classes=5):
    """A state dict of random values."""
    random = np.random.default_rng(seed)
    shapes = state_dict.published(models.create(name, classes))
    return {k: random.random(shape, np.float32) for k, shape in shapes.items()}


STUDENT, TEACHER = weights("resnet8", 0), weights("resnet8", 1)
PREFIXES = [
    *[("student.", "teacher."), ("module.student.", "module.teacher."), ("model.", "ema_model."), ("", "ema.")],
    *[("model.", "model_ema.module."), ("net.", "net_1.")],
]


def behind(*pairs):
    return {prefix + k: v for prefix, tensors in pairs for k, v in tensors.items()}


def write(path, tensors):
    torch_write.write_torch(path, tensors, {})
    return str(path)


def same(variables, tensors):
    ours = state_dict.to_torch(variables)
    return all(np.array_equal(ours[k], v) for k, v in tensors.items())


def refusal(call, *args, **kwargs):
    with pytest.raises(InputError) as e:
        call(*args, **kwargs)
    assert "\n" not in str(e.value)
    return str(e.value)


def load(path):
    return models.load_torch(path, MODEL)


@pytest.mark.parametrize("prefixes", PREFIXES, ids=str)
def test_two_networks_of_one_architecture_are_refused(tmp_path, prefixes):
    pairs = list(zip(prefixes, (STUDENT, TEACHER), strict=True))
    path = write(tmp_path / "both.pth", behind(*pairs))
    for way in (load, lambda path: teachers.from_file(path, network("resnet8"))):
        said = refusal(way, path)
        assert said.startswith(f"{path}: holds 2 networks, behind the prefixes ")
        assert all(repr(prefix) in said for prefix in prefixes) and "--prefix" in said and "both.pth#" in said
    for prefix, tensors in pairs:
        chosen = {f"{path}#{prefix}", f"{path}#{prefix.removesuffix('.')}"}
        for spelt in chosen:
            assert same(load(spelt), tensors), spelt
            assert same(teachers.from_file(spelt, network("resnet8")).load().variables, tensors)


def network(name, classes=5):
    return Network(name, models.create(name, classes), classes, (8, 8, 3), (0.5,) * 3, (0.5,) * 3)


def test_a_part_of_a_prefix_chooses_if_only_one_has_it(tmp_path):
    path = write(tmp_path / "both.pth", behind(("module.student.", STUDENT), ("module.teacher.net.", TEACHER)))
    for part, tensors in {"student": STUDENT, "teacher": TEACHER, "net": TEACHER, "teacher.net": TEACHER}.items():
        assert same(load(f"{path}#{part}"), tensors)
    assert "holds 2 networks" in refusal(load, f"{path}#module")
    with pytest.raises(InputError, match=r"47 missing, of 0 tensors behind the prefix 'tea'(.|\n)*begin with: module"):
        load(f"{path}#tea")


def test_state_dicts_side_by_side(monkeypatch, tmp_path):
    """As timm, torchvision and DeiT write an average beside the network."""
    (tmp_path / "file.pth").write_bytes(b"x")
    path, optimizer = str(tmp_path / "file.pth"), {"state": {0: {"momentum_buffer": np.zeros(3)}}, "param_groups": []}
    for keys, inner in ((("state_dict", "state_dict_ema"), ""), (("model", "model_ema"), "module.")):
        content = {"epoch": 3, keys[0]: behind((inner, STUDENT)), "optimizer": optimizer, "best": np.zeros(())}
        content[keys[1]] = behind((inner, TEACHER))
        monkeypatch.setattr(torch_read, "read", lambda path, content=content: content)
        said = refusal(load, path)
        assert all(repr(f"{key}.{inner}") in said for key in keys)
        assert same(load(f"{path}#{keys[0]}"), STUDENT) and same(load(f"{path}#{keys[1]}"), TEACHER)
        content[keys[1]] = content[keys[0]]
        assert same(load(path), STUDENT)


def test_other_architectures_are_told_apart_by_the_one_that_is_asked_for(tmp_path):
    """The names of resnet8 are among those of resnet14."""
    large = weights("resnet14", 2)
    path = write(tmp_path / "both.pth", behind(("student.", large), ("teacher.", STUDENT)))
    assert same(load(path), STUDENT) and same(models.load_torch(path, models.create("resnet14", 5)), large)
    like = network("resnet8")
    said = refusal(teachers.from_file, path, like)  # whose architecture nobody names
    assert "'student.' (resnet14, 5 classes), 'teacher.' (resnet8, 5 classes)" in said
    assert same(teachers.from_file(f"{path}#student", like).load().variables, large)
    with pytest.raises(InputError) as e:
        models.load_torch(path, models.create("vgg8", 5))
    assert "fits: resnet14 with 5 classes behind the prefix 'student.'" in str(e.value)
    assert "fits: resnet8 with 5 classes behind the prefix 'teacher.'" in str(e.value)


def test_one_network_needs_no_choice(tmp_path):
    path = tmp_path / "net.pth"
    others = {"module.extra.weight": np.ones((4, 4), np.float32), "criterion.embed.weight": np.ones((9, 9), np.float32)}
    for tensors in (
        behind(("student.", STUDENT)) | others,
        behind(("module.", STUDENT)),
        behind(("module.student.", STUDENT), ("module.backbone.", STUDENT)),  # equal ones
        behind(("", STUDENT), ("copy.", STUDENT)),
    ):
        assert same(load(write(path, tensors)), STUDENT)
        assert same(teachers.from_file(str(path), network("resnet8")).load().variables, STUDENT)


def test_partial_loading_chooses_nothing_silently_either(tmp_path):
    path = write(tmp_path / "both.pth", behind(("student.", STUDENT), ("teacher.", TEACHER)))
    wider = models.create("resnet8", 7)
    assert "'student.'" in refusal(state_dict.from_torch, state_dict.read(path), wider, partial=True)
    loaded = state_dict.from_torch(state_dict.read(path, "teacher"), wider, partial=True)
    np.testing.assert_array_equal(state_dict.to_torch(loaded)["conv1.weight"], TEACHER["conv1.weight"])


def test_a_file_whose_name_has_a_hash(tmp_path):
    path = write(tmp_path / "net#1.pth", STUDENT)
    assert same(load(path), STUDENT) and state_dict.read(path).prefix is None
    both = write(tmp_path / "a#b.pth", behind(("student.", STUDENT), ("teacher.", TEACHER)))
    assert same(load(f"{both}#teacher"), TEACHER)
    assert refusal(load, f"{tmp_path}/none.pth#teacher") == f"{tmp_path}/none.pth: no such file"


def test_an_import_takes_the_prefix(tmp_path):
    path = write(tmp_path / "both.pth", behind(("student.", STUDENT), ("teacher.", TEACHER)))
    how = {"model": "resnet8", "num_classes": 5, "out": str(tmp_path / "out")}
    assert "--prefix" in refusal(exchange.import_weights, path, **how)
    for chosen in ({"prefix": "teacher"}, {"prefix": "teacher."}):
        _, loaded = exchange.import_weights(path, **how, **chosen, overwrite=True)
        assert same(loaded.variables, TEACHER) and loaded.source["prefix"] == "teacher."
    _, loaded = exchange.import_weights(f"{path}#student", **how, overwrite=True)
    assert same(loaded.variables, STUDENT) and loaded.source["file"] == path


@pytest.mark.parametrize(("key", "value"), [
    ("teacher__weights", "FILE"), ("student__teacher", "weights:FILE"), ("student__init__student", "weights:FILE"),
])  # fmt: skip
def test_a_config_names_the_network(tmp_path, key, value):
    path = write(tmp_path / "both.pth", behind(("student.", STUDENT), ("teacher.", TEACHER)))
    phases = {"teacher__weights": ("teacher",), "student__teacher": ("student",)}.get(key, ("teacher", "student"))

    def trained(file):
        config_tree = tree(**{key: value.replace("FILE", file)}, phases=phases)
        return run.run(json.loads(json.dumps(config_tree)), str(tmp_path / "run"))["phases"]

    said = refusal(trained, path)
    assert said.startswith(f"config.{key.replace('__', '.')}: ") and "'student.'" in said and "'teacher.'" in said
    assert not (tmp_path / "run").exists()
    if key == "teacher__weights":
        source = trained(f"{path}#teacher")["teacher"]["weights"]
        assert (source["file"], source["prefix"]) == (path, "teacher.")


def test_values_are_compared_not_names(tmp_path):
    """One value that differs is another network."""
    other = {k: v.copy() for k, v in STUDENT.items()}
    other["fc.bias"][-1] += 1
    assert "holds 2" in refusal(load, write(tmp_path / "a.pth", behind(("a.", STUDENT), ("b.", other))))
    assert jax.tree.leaves(load(f"{tmp_path / 'a.pth'}#b"))


@pytest.mark.parametrize("about", [
    *[5, [], {"network": 5}, {"network": {"mean": 5}}, {"network": {"std": ["a"]}}, {"network": {"mean": [[1.0]]}}],
    *[{"network": {"mean": [float("nan")]}}, {"network": {"name": 5}}, {"network": {"num_classes": "5"}}],
], ids=str)  # fmt: skip
def test_a_description_that_is_none(monkeypatch, tmp_path, about):
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(torch_read, "read", lambda path: {"model": STUDENT, "kd_jax": about})
    assert "no description of a network" in refusal(state_dict.read, tmp_path / "file")
