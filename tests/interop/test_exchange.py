"""Teachers from files, and trained networks for others: in phases, by import_weights, by export."""

import json
import os

import jax
import numpy as np
import pytest

from kd_jax import InputError, models
from kd_jax.interop import exchange, state_dict, torch_read, torch_write
from kd_jax.models.network import normalize
from kd_jax.train import run
from kd_jax.train.evaluate import evaluate, saved
from tests.commands import launch
from tests.conftest import tree

pytestmark = pytest.mark.usefixtures("shared_programs")

SHORT = {"teacher__steps": 40, "data__augment": "none"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run whose teacher has learned, and that teacher as a torch file."""
    folder = tmp_path_factory.mktemp("run")
    summary = run.run(json.loads(json.dumps(tree(**SHORT))), str(folder))
    network, variables, _ = saved(str(folder), phase="teacher")
    exchange.export(network, variables, format="torch", out=str(folder / "teacher.pth"))
    return folder, summary


def mdistillers(home, path, prefix="module."):
    """The teacher's file as others write it: no word on normalisation, names behind a prefix."""
    tensors = torch_read.read(home / "teacher.pth")["model"]
    torch_write.write_torch(path, {prefix + k: v for k, v in tensors.items()}, {})
    return str(path)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tuple(a), tuple(b))))


def test_a_phase_takes_weights_in_place_of_training(home, tmp_path):
    folder, trained = home
    file = mdistillers(folder, tmp_path / "other.pth")
    config_tree = json.loads(json.dumps(tree(**SHORT, teacher__weights=file)))
    summary = run.run(config_tree, str(tmp_path / "run"))
    teacher, before = summary["phases"]["teacher"], trained["phases"]["teacher"]
    assert (teacher["steps"], teacher["top1_last"]) == (0, before["top1_last"]) and before["top1_last"] > 0.5
    assert teacher["weights"] == {
        "file": file, "sha256": state_dict.read(file).digest, "prefix": "module.", "dtype": "float32",
    }  # fmt: skip
    assert same(saved(str(tmp_path / "run"), phase="teacher")[1], saved(str(folder), phase="teacher")[1])
    # what the student does with it is what it does with the trained one, bit for bit
    rows = [[json.loads(x) for x in (f / "metrics.jsonl").read_text().splitlines()] for f in (folder, tmp_path / "run")]
    assert [r for r in rows[0] if r["phase"] == "student"] == [r for r in rows[1] if r["phase"] == "student"]
    assert summary["phases"]["student"]["teacher"]["digest"] == trained["phases"]["student"]["teacher"]["digest"]

    (tmp_path / "other.pth").unlink()  # the run has its content: it is finished, measured and resumed without
    assert run.run(config_tree, str(tmp_path / "run")) == summary
    assert evaluate(str(tmp_path / "run"), phase="teacher")["top1"] == teacher["top1_last"]
    for name in ("DONE", "checkpoints"):
        path = tmp_path / "run" / "student" / name
        path.unlink() if path.is_file() else __import__("shutil").rmtree(path)
    again = run.run(config_tree, str(tmp_path / "run"))
    assert again["phases"]["student"]["top1_last"] == summary["phases"]["student"]["top1_last"]


def test_killed_between_the_checkpoint_and_DONE(home, tmp_path):
    file = mdistillers(home[0], tmp_path / "other.pth")
    config_tree = json.loads(json.dumps(tree(**SHORT, teacher__weights=file, phases=("teacher",))))
    summary = run.run(config_tree, str(tmp_path / "run"))
    (tmp_path / "run" / "teacher" / "DONE").unlink()
    again = run.run(config_tree, str(tmp_path / "run"))["phases"]["teacher"]
    assert again["weights"] == summary["phases"]["teacher"]["weights"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_a_teacher_from_a_file_is_the_phases(home, tmp_path, kind):
    folder, trained = home
    file = str(folder / "teacher.pth")
    if kind == "checkpoint":
        exchange.import_weights(file, model="RESNET8", num_classes=5, image_size=8, out=str(tmp_path / "imported"))
    where = {"weights": file, "checkpoint": tmp_path / "imported"}[kind]
    config_tree = tree(**SHORT, phases=("student",), student__teacher=f"{kind}:{where}")
    summary = run.run(json.loads(json.dumps(config_tree)), str(tmp_path / "run"))["phases"]["student"]
    assert summary["teacher"] == trained["phases"]["student"]["teacher"] | {"origin": f"{kind}:{where}"}
    assert summary["top1_last"] == trained["phases"]["student"]["top1_last"]


def test_the_teachers_own_normalisation_travels(home, tmp_path):
    network, variables, _ = saved(str(home[0]), phase="teacher")
    other = network._replace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    exchange.export(other, variables, format="safetensors", out=str(tmp_path / "net.safetensors"))
    config_tree = tree(**SHORT, teacher__weights=str(tmp_path / "net.safetensors"), teacher_check=False)
    run.run(json.loads(json.dumps(config_tree)), str(tmp_path / "run"))
    assert saved(str(tmp_path / "run"), phase="teacher")[0].mean == (0.1, 0.2, 0.3)
    teacher = json.loads((tmp_path / "run" / "summary.json").read_text())["phases"]["student"]["teacher"]
    assert teacher["top1"] == evaluate(str(tmp_path / "run"), phase="teacher")["top1"]
    imported, _ = exchange.import_weights(
        str(tmp_path / "net.safetensors"), model="resnet8", num_classes=5, out=str(tmp_path / "a"), mean=(0, 0, 0)
    )
    assert (imported.mean, imported.std) == ((0, 0, 0), (0.5, 0.6, 0.7))


@pytest.mark.parametrize(("changes", "message"), [
    ({"teacher__weights": "/nowhere.pth"}, "config.teacher.weights: /nowhere.pth: "),
    ({"teacher__weights": "FILE", "teacher__model": "resnet14"}, r"config.teacher.weights: .*does not fit resnet14"),
    ({"teacher__weights": "FILE", "data__synthetic__classes": 4}, r"fit resnet8 with 4 classes(.|\n)*it fits: resnet8"),
    ({"student__teacher": "weights:/nowhere.pth"}, "config.student.teacher: /nowhere.pth: "),
    ({"student__teacher": "weights:FILE", "data__synthetic__classes": 4}, "its classes is 5, the data's is 4"),
    ({"student__teacher": "weights:"}, "student.teacher: must be phase:NAME, checkpoint:DIR, weights:FILE, "),
])  # fmt: skip
def test_wrong_weights_are_named_before_anything_trains(home, tmp_path, changes, message):
    file = mdistillers(home[0], tmp_path / "other.pth")
    config_tree = tree(**{k: v.replace("FILE", file) if isinstance(v, str) else v for k, v in changes.items()})
    with pytest.raises(InputError, match=message):
        run.run(json.loads(json.dumps(config_tree)), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_another_file_under_the_same_name_is_another_teacher(home, tmp_path):
    file = mdistillers(home[0], tmp_path / "other.pth")
    config_tree = tree(**SHORT, phases=("student",), student__teacher=f"weights:{file}", student__steps=4)
    run.run(json.loads(json.dumps(config_tree)), str(tmp_path / "run"))
    (tmp_path / "run" / "student" / "DONE").unlink()
    content = torch_read.read(file)["model"]
    torch_write.write_torch(file, content | {"module.fc.bias": content["module.fc.bias"] + 1}, {})
    with pytest.raises(InputError, match="was trained with another teacher"):
        run.run(json.loads(json.dumps(config_tree)), str(tmp_path / "run"))


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"model": "resnet9"}, "unknown model 'resnet9'"),
    ({"num_classes": 7}, r"does not fit resnet8 with 7 classes"),
    ({"mean": (0.5,)}, r"--mean: \(0.5,\); one number a channel is needed, 3 in all"),
    ({"std": (0.5, 0, 1)}, r"--std: .* a std above 0"),
    ({"prefix": "teacher."}, "47 missing, of 0 tensors behind the prefix 'teacher.'"),
])  # fmt: skip
def test_wrong_imports(home, tmp_path, kwargs, message):
    how = {"model": "resnet8", "num_classes": 5, "out": str(tmp_path / "imported")} | kwargs
    with pytest.raises(InputError, match=message):
        exchange.import_weights(str(home[0] / "teacher.pth"), **how)
    assert not (tmp_path / "imported").exists()


def test_an_import_does_not_replace_another_unasked(home, tmp_path):
    how = {"model": "resnet8", "num_classes": 5, "out": str(tmp_path / "imported")}
    exchange.import_weights(str(home[0] / "teacher.pth"), **how)
    with pytest.raises(InputError, match="holds a checkpoint already; name another folder or add --overwrite"):
        exchange.import_weights(str(home[0] / "teacher.pth"), **how)
    exchange.import_weights(str(home[0] / "teacher.pth"), overwrite=True, **how)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"):
        exchange.import_weights(str(home[0] / "teacher.pth"), **{**how, "out": str(tmp_path / "file")})


@pytest.mark.parametrize("name", ["resnet8", *(pytest.param(n, marks=pytest.mark.full) for n in ("ShuffleV2", "vgg8"))])
def test_stablehlo_gives_the_same_logits_for_any_batch(home, tmp_path, name):
    network, variables, _ = saved(str(home[0]), phase="student")
    if name != "resnet8":
        model = models.create(name, 5)
        image = np.zeros((1, 8, 8, 3), np.float32)
        network = network._replace(name=name, model=model)
        variables = jax.jit(models.init, static_argnums=0)(model, jax.random.key(0), image)
    said = exchange.export(network, variables, format="stablehlo", out=str(tmp_path / "net.bin"))
    assert "batches of 1 and 3 agree" in said
    again = jax.export.deserialize(bytearray((tmp_path / "net.bin").read_bytes()))
    assert set(again.platforms) == {"cpu", "cuda", "tpu"}
    image = np.random.default_rng(0).uniform(size=(5, 8, 8, 3)).astype("f")
    image_in = normalize(image, network.mean, network.std)
    ours = jax.jit(models.apply, static_argnums=0)(network.model, variables, image_in)[0].logits
    np.testing.assert_allclose(again.call(image), ours, rtol=1e-4, atol=1e-4)


def test_wrong_exports(home, tmp_path):
    network, variables, _ = saved(str(home[0]))
    with pytest.raises(InputError, match="--format=onnx: known: safetensors, torch, stablehlo"):
        exchange.export(network, variables, format="onnx", out=str(tmp_path / "x"))
    with pytest.raises(InputError, match="is a folder; name a file"):
        exchange.export(network, variables, format="torch", out=str(tmp_path))


def test_an_export_replaces_no_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is no plain file; name a file"):
        exchange.export(None, None, format="torch", out=str(tmp_path / "pipe"))


def test_the_commands(home, tmp_path):
    folder, file = home[0], tmp_path / "student.safetensors"
    done = launch("export", f"--workdir={folder}", "--phase=student", "--format=safetensors", f"--out={file}")
    assert done.returncode == 0 and "bit for bit the same" in done.stdout, done.stderr
    done = launch(
        "import_weights", f"--source={file}", "--model=resnet8", "--num_classes=5", f"--out={tmp_path / 'in'}",
        "--mean=0.5,0.5,0.5",
    )  # fmt: skip
    assert done.returncode == 0 and f"sha256 {state_dict.read(file).digest}" in done.stdout, done.stderr
    assert "mean (0.5, 0.5, 0.5)" in done.stdout
    done = launch("export", f"--workdir={tmp_path / 'in'}", "--format=torch", f"--out={tmp_path / 'again.pth'}")
    assert done.returncode == 0, done.stderr
    first, last = state_dict.read(file).tensors, state_dict.read(tmp_path / "again.pth").tensors
    assert first.keys() == last.keys() and all(np.array_equal(first[k], last[k]) for k in first)
    for args in (
        ("import_weights", f"--source={file}", "--model=resnet8"),
        ("export", f"--workdir={tmp_path}", "--out=x"),
    ):
        done = launch(*args)
        assert done.returncode == 2 and done.stderr.startswith("error: --") and done.stderr.count("\n") == 1
    done = launch("import_weights", f"--source={file}", "--model=resnet8", "--num_classes=5", "--out=x", "--mean=a,b")
    assert done.returncode == 2 and "--mean=a,b: numbers separated by commas are needed" in done.stderr


def test_torch_loads_what_we_export(home, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed: its loading of our files is not checked")
    network, variables, _ = saved(str(home[0]))
    exchange.export(network, variables, format="torch", out=str(tmp_path / "net.pth"))
    loaded = torch.load(tmp_path / "net.pth", weights_only=True)["model"]
    ours = state_dict.to_torch(variables)
    assert loaded.keys() == ours.keys() and all(np.array_equal(loaded[k].numpy(), ours[k]) for k in ours)
