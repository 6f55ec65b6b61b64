"""What a run is: it goes on after what only guards has changed, never with other data, and never from a log that is
behind."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError, data
from kd_jax.interop import exchange
from kd_jax.tasks import CLASSIFICATION
from kd_jax.train import run
from kd_jax.train.evaluate import saved
from kd_jax.train.results import Results
from tests.conftest import tree

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


def pictures(folder, count=9):
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / label / f"{i}.png")
    with (folder / "dog" / "0.png").open("ab") as file:
        file.write(b"more")  # behind the image, so that the two images called 0 differ in size


def of_folder(where, **changes):
    config_tree = tree(data__name="folder:pets", data__dir=str(where), teacher__steps=2, student__steps=4, **changes)
    return json.loads(json.dumps({**config_tree, "checkpoint": {**config_tree["checkpoint"], "every": 2}}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on a folder of images."""
    home = tmp_path_factory.mktemp("trained")
    pictures(home / "data" / "pets")
    return home, run.run(of_folder(home / "data"), str(home / "run"))


def again(trained, tmp_path, change=None, unfinish=False, **changes):
    """The same command on a copy whose data lies elsewhere, and is changed."""
    shutil.copytree(trained[0], tmp_path / "copy")
    home = tmp_path / "copy"
    if change:
        change(home / "data" / "pets")
    if unfinish:
        for name in ("summary.json", "student/DONE"):
            (home / "run" / name).unlink()
        shutil.rmtree(home / "run" / "student" / "checkpoints" / "4")
    return run.run(of_folder(home / "data", **changes), str(home / "run"))


def test_the_same_data_elsewhere(trained, tmp_path):
    assert again(trained, tmp_path) == trained[1]


def test_the_same_data_elsewhere_resumes_and_streams(trained, tmp_path):
    summary = again(trained, tmp_path, unfinish=True, data__stream=True, data__workers=0)
    for key in ("top1_last", "top1_best"):
        assert summary["phases"]["student"][key] == trained[1]["phases"]["student"][key]


def add(pets):
    shutil.copy(pets / "cat" / "1.png", pets / "cat" / "new.png")


def remove(pets):
    (pets / "dog" / "3.png").unlink()


def rename(pets):
    (pets / "cat").rename(pets / "cow")


def swap(pets):
    """Of two classes the images called 0, which differ in size."""
    (pets / "cat" / "0.png").rename(pets / "0.png")
    (pets / "dog" / "0.png").rename(pets / "cat" / "0.png")
    (pets / "0.png").rename(pets / "dog" / "0.png")


@pytest.mark.parametrize("unfinish", [False, True])
@pytest.mark.parametrize(("change", "message"), [
    (add, "14 training images there and 15 here"), (remove, "14 training images there and 13 here|test images there"),
    (rename, "a class is called cat there and cow here"), (swap, "as many images of these classes, but other ones"),
])  # fmt: skip
def test_other_data_is_refused(trained, tmp_path, change, message, unfinish):
    before = {path.relative_to(trained[0]) for path in (trained[0] / "run").rglob("*")}
    with pytest.raises(InputError, match=rf"trained on other data .*({message}).*--overwrite") as e:
        again(trained, tmp_path, change, unfinish)
    assert "\n" not in str(e.value) and not list((tmp_path / "copy" / "run").rglob("damaged"))
    assert unfinish or before == {
        path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy" / "run").rglob("*")
    }


def test_a_phase_of_another_network_is_refused(trained, tmp_path):
    (tmp_path / "teacher").symlink_to(trained[0] / "run" / "teacher")
    with pytest.raises(
        InputError, match="teacher/checkpoints/2: is of another network: its name is resnet8, this run's"
    ):
        run.run(of_folder(trained[0] / "data", teacher__model="resnet8x4"), str(tmp_path))


def test_arrays_have_an_identity():
    small = {"name": "synthetic", "synthetic": {"classes": 3, "size": 4, "channels": 3, "train": 12, "test": 6}}
    one, two = data.load(**small), data.load(**small)
    assert one.identity == two.identity and json.loads(json.dumps(one.identity)) == one.identity
    flipped = one.train.images.copy()
    flipped[0, 0, 0, 0] ^= 1
    changed = one._replace(train=data.Arrays(flipped, one.train.labels, 3))
    relabelled = one._replace(test=data.Arrays(one.test.images, (one.test.labels + 1) % 3, 3))
    half = data.load(**small, subset=0.5)
    assert len({each.identity["digest"] for each in (one, changed, relabelled, half)}) == 4


def cut(home, keep):
    log = home / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:keep]))


@pytest.mark.parametrize("keep", [0, 3])
def test_a_log_that_lost_rows(trained, tmp_path, capsys, keep):
    """Power loss: the checkpoints are on the disk, the log is not, nor is the word that the phase is done."""
    shutil.copytree(trained[0], tmp_path / "copy")
    home = tmp_path / "copy"
    best = {}
    for name in trained[1]["phases"]:
        rows = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
        best[name] = [r["top1"] for r in rows if (r["phase"], r["split"]) == (name, "test")]
    cut(home / "run", keep)
    for name in ("summary.json", "student/DONE"):
        (home / "run" / name).unlink()
    summary = run.run(of_folder(home / "data"), str(home / "run"))
    for name, phase in summary["phases"].items():
        assert {k: v for k, v in phase.items() if k != "wall_seconds"} == {
            k: v for k, v in trained[1]["phases"][name].items() if k != "wall_seconds"
        }
        assert (phase["top1_last"], phase["top1_best"]) == (best[name][-1], max(best[name]))
    said = capsys.readouterr().out
    assert said.count("student: metrics.jsonl has lost ") == 1
    assert saved(str(home / "run"), best=True)[2] in (2, 4)  # no row of the log is needed


def test_a_workdir_that_reads_as_a_pattern(tmp_path, capsys):
    home = tmp_path / "abl[T=4]"
    config_tree = tree(teacher__steps=2, student__steps=2)
    summary = run.run(config_tree, str(home))
    (home / "student" / "DONE").unlink()
    again = run.run(config_tree, str(home))
    assert "student: resumed at step 2 of 2" in capsys.readouterr().out and not list(home.rglob("damaged"))
    for key in ("top1_last", "top1_best", "teacher"):
        assert again["phases"]["student"][key] == summary["phases"]["student"][key]


def test_results_of_several_networks():
    results = Results()
    for step, (student, peer) in enumerate([(0.5, 0.1), (0.7, 0.3), (0.6, 0.2)]):
        networks = {"dml/top1": peer, "dml/top5": 0.9, "dml/loss": 1.0}
        results.add({"step": step, "top1": student, "top5": 0.8, "networks": networks}, CLASSIFICATION)
    student, peer = results.summary(CLASSIFICATION), results.summary(CLASSIFICATION, "dml")
    assert student == {"top1_last": 0.6, "top1_best": 0.7, "top5_last": 0.8, "agreement_last": None}
    assert peer == {"top1_last": 0.2, "top1_best": 0.3, "top5_last": 0.9, "agreement_last": None}
    assert results.at(2)["top1"] == 0.6 and results.at(1) == {}


def test_the_flag_that_an_error_advises_is_accepted(tmp_path):
    config_tree = tree(teacher_check=True)
    with pytest.raises(InputError, match="near chance .*--config.teacher_check=False insists"):
        run.run(config_tree, str(tmp_path))
    summary = run.run({**config_tree, "teacher_check": False, "skip_nonfinite": 3}, str(tmp_path))
    assert summary["phases"]["student"]["steps"] == 2


@pytest.mark.parametrize(("name", "text", "message"), [
    ("summary.json", "", "not readable JSON"), ("summary.json", "{}", "is no summary of a run"),
    ("summary.json", '{"phases": {}}', "is no summary of a run"),
    ("student/DONE", "{}", "does not say how many steps there were"),
])  # fmt: skip
def test_a_damaged_document_is_said_and_written_anew_once_deleted(trained, tmp_path, name, text, message):
    shutil.copytree(trained[0] / "run", tmp_path / "run")
    written = tmp_path / "run" / name
    written.write_text(text)
    with pytest.raises(InputError, match=f"^{written}: {message}.*; restore it, or delete it, and the "):
        run.run(of_folder(trained[0] / "data"), str(tmp_path / "run"))
    written.unlink()
    summary = run.run(of_folder(trained[0] / "data"), str(tmp_path / "run"))
    assert summary["phases"]["student"]["top1_last"] == trained[1]["phases"]["student"]["top1_last"]
    if name == "summary.json":  # nothing is trained again
        assert summary["phases"] == trained[1]["phases"]


def files_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("origin", ["checkpoint:{0}/run/teacher", "weights:{0}/teacher.safetensors"])
def test_a_finished_run_does_not_need_what_taught_it(trained, tmp_path, monkeypatch, origin):
    shutil.copytree(trained[0], tmp_path / "from")
    network, variables, _ = saved(str(tmp_path / "from" / "run"), phase="teacher")
    exchange.export(network, variables, format="safetensors", out=str(tmp_path / "from" / "teacher.safetensors"))
    student = of_folder(trained[0] / "data", student__teacher=origin.format(tmp_path / "from"))
    student["phases"] = ["student"]
    summary = run.run(student, str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "from")
    before = files_of(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(run, "build", None)  # nothing is planned again
        assert run.run(student, str(tmp_path / "run")) == summary
    assert files_of(tmp_path / "run") == before
    (tmp_path / "run" / "student" / "DONE").unlink()
    with pytest.raises(InputError, match=r"config\.student\.teacher: "):
        run.run(student, str(tmp_path / "run"))
