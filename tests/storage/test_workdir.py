"""One folder, one configuration."""

import fcntl
import json
import os
import shutil

import pytest
from etils import epath

from kd_jax import InputError
from kd_jax.storage.workdir import Workdir, difference, resolve_path
from kd_jax.tools import sweep_jobs


def test_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(resolve_path("runs/a")) == str(tmp_path / "runs" / "a")
    assert str(resolve_path("gs://bucket/a")) == "gs://bucket/a"


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\udcff"])
def test_a_path_where_checkpoints_cannot_be_read_back_is_refused(name):
    with pytest.raises(InputError, match="no checkpoint can be kept there") as e:
        resolve_path(f"/tmp/{name}")
    assert "\n" not in str(e.value)


def test_difference():
    old = {"a": {"b": (1, 2), "c": None}, "parallel": {"mesh": (), "scope": "global"}, "log": {"every": 5}}
    assert difference(old, {**old, "a": {"b": [1, 2], "c": None}}) is None
    assert difference(old, {**old, "log": {"every": 6}, "parallel": {"mesh": (4,), "scope": "global"}}) is None
    assert difference(old, {**old, "a": {"b": (1,), "c": None}}) == "a.b is [1, 2] there and [1] here"
    assert difference(old, {**old, "new": 3}) == "new is None there and 3 here"
    assert "parallel.scope" in difference(old, {**old, "parallel": {"mesh": (), "scope": "device"}})


def two_phases(**student):
    phases = {"teacher": {"model": "a", "weights": ""}, "student": {"model": "b", "teacher": "phase:teacher"}}
    phases["student"] |= student
    return {"seed": 0, "phases": ("teacher", "student"), "data": {"dir": ""}, **phases}


@pytest.fixture
def trained(tmp_path):
    """The folder of a run with two phases, and beside them what is none."""
    home = tmp_path / "run"
    for name in ("teacher", "student", "imported"):
        (home / name / "checkpoints").mkdir(parents=True)
        (home / name / "a.pth").write_text("")
    (home / "config.json").write_text(json.dumps(two_phases()))
    (home / "metrics.jsonl").write_text("")
    return home


def start(home, tree, *, overwrite=False):
    """What a run does with its folder first; the names that are there then."""
    run = Workdir(str(home), tree)
    run.check(overwrite=overwrite)
    with run.opened(overwrite=overwrite):
        return {file.name for file in home.iterdir()} - {".lock"}


@pytest.mark.parametrize(("key", "value"), [
    ("student.teacher", "phase:other, checkpoint:{}/teacher"), ("student.init.student", "weights:{}/teacher/a.pth#x"),
    ("student.init.method", "checkpoint:{}/student"), ("student.teacher", "logits:{}/student/more/a.npz"),
    ("student.weights", "{}/teacher/a.pth"), ("data.dir", "{}/student/checkpoints"),
])  # fmt: skip
@pytest.mark.parametrize("alias", [False, True])
def test_overwriting_deletes_nothing_that_the_run_reads(trained, tmp_path, key, value, alias):
    (tmp_path / "alias").symlink_to(trained)
    tree = {**two_phases(), "phases": ("student",)}
    section, *inner = key.split(".")
    for name in reversed(inner):
        value = {name: value.format(tmp_path / "alias" if alias else trained) if isinstance(value, str) else value}
    tree[section] = {**tree[section], **value}
    before = set(trained.rglob("*"))
    with pytest.raises(InputError, match=rf"^config\.{key}: .* lies in .*, which --overwrite deletes") as e:
        start(trained, tree, overwrite=True)
    assert "\n" not in str(e.value) and set(trained.rglob("*")) == before


def test_overwriting_deletes_phases_and_nothing_else(trained):
    other = two_phases(teacher=f"checkpoint:{trained}/imported")
    assert start(trained, {**other, "phases": ("student",)}, overwrite=True) == {"config.json", "imported"}


def test_results_without_a_configuration_are_not_taken(trained, tmp_path):
    (trained / "config.json").unlink()
    with pytest.raises(InputError, match=r"holds results of a run but no config.json; .* or add --overwrite$"):
        start(trained, two_phases())
    brought = {"linked": os.symlink, "copied": shutil.copytree}  # by a sweep, by a user
    for name, bring in brought.items():
        (tmp_path / name).mkdir()
        bring(trained / "teacher", tmp_path / name / "teacher")
        assert start(tmp_path / name, two_phases()) == {"config.json", "teacher"}
    assert start(trained, two_phases(), overwrite=True) == {"config.json", "imported"}


def test_another_run_that_came_before_the_lock(trained):
    run = Workdir(str(trained), two_phases())
    run.check(overwrite=False)
    (trained / "config.json").write_text(json.dumps({**two_phases(), "seed": 8}))
    with pytest.raises(InputError, match="holds another run: config.seed is 8 there and 0 here"):
        run.opened(overwrite=False).__enter__()


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Workdir(str(tmp_path), {}).opened(overwrite=False):
        assert (tmp_path / "config.json").exists()
    assert "note: " in (said := capsys.readouterr().out) and "no locks (Function not implemented); see to it" in said
    assert not sweep_jobs.is_held(tmp_path)


def test_a_kill_while_files_are_deleted_leaves_whose_they_are(trained, monkeypatch):
    run, path_type = Workdir(str(trained), {**two_phases(), "seed": 8}), type(epath.Path(trained))
    unlink = path_type.unlink

    def first_only(path, *args):
        if path.name == "metrics.jsonl":
            raise KeyboardInterrupt
        unlink(path, *args)

    monkeypatch.setattr(path_type, "unlink", first_only)
    with pytest.raises(KeyboardInterrupt):
        run.opened(overwrite=True).__enter__()
    assert json.loads((trained / "config.json").read_text())["seed"] == 0
