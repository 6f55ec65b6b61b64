"""Runs whose teacher is read from a cache: bit for bit those of a teacher that runs, and nothing wrong is ever read."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError
from kd_jax.storage.logit_rows import headers
from kd_jax.tools import cache_teacher
from kd_jax.train import cache_size, run
from kd_jax.train.dry_run import dry_run
from kd_jax.train.inputs import StepInputs
from tests.conftest import tree
from tests.train.cached import STEPS, assert_same_student, distinct, stopped, student, trained
from tests.train.resuming import last_state

pytestmark = pytest.mark.usefixtures("tiny_resnet8")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Two teachers that are trained already."""
    home = tmp_path_factory.mktemp("teachers")
    for name, seed in (("one", 0), ("two", 1)):
        run.run(tree(phases=("teacher",), seed=seed, teacher_check=False), str(home / name))
    return [f"checkpoint:{home / name / 'teacher'}" for name in ("one", "two")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Shared by the tests of this module, as by the runs of a study."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def live(teachers, tmp_path_factory):
    """method -> folder of a student whose teacher runs."""
    homes = {}

    def home(method):
        if method not in homes:
            homes[method] = tmp_path_factory.mktemp(method)
            assert trained(homes[method], teachers[0], method) is None
        return homes[method]

    return home


def test_students_are_those_of_a_teacher_that_runs(teachers, live, cache, tmp_path):
    """Filled by a run that is stopped and resumed; then read by another method with the same data, and with other data
    order. The teacher sees each view once."""
    stopped(tmp_path / "cold", 6, teachers[0], "kd", cache)
    counts = trained(tmp_path / "cold", teachers[0], "kd", cache)
    assert_same_student(live("kd"), tmp_path / "cold")
    asked = STEPS * 8 + 2 * 13  # the test set twice: by each of the two processes
    assert counts["hits"] + counts["misses"] == asked and counts["dir"] == str(cache)
    views = distinct(teachers)
    assert views - 8 <= counts["misses"] - 13 <= views  # of what was computed ahead, the second process has hits
    for method in ("dkd", "skd"):
        counts = trained(tmp_path / method, teachers[0], method, cache)
        assert_same_student(live(method), tmp_path / method)
        assert counts == {**counts, "hits": STEPS * 8 + 13, "misses": 0}
    assert counts["bytes"] > 0 and len(headers(cache)) == 1
    other = trained(tmp_path / "other order", teachers[0], "kd", cache, data__seed=6)
    assert 0 < other["misses"] < distinct(teachers, 6)


def test_two_teachers_have_a_store_each(teachers, cache, tmp_path, monkeypatch):
    both = ",".join(teachers)
    assert trained(tmp_path / "live", both) is None
    stopped(tmp_path / "cached", 9, both, cache=cache)
    trained(tmp_path / "cached", both, cache=cache)
    assert_same_student(tmp_path / "live", tmp_path / "cached")
    assert len({header["teacher"]["digest"] for header in headers(cache).values()}) == 2


def test_the_strong_view_stays_live(teachers, live, cache, tmp_path):
    counts = trained(tmp_path / "cached", teachers[0], "mlld", cache)
    assert_same_student(live("mlld"), tmp_path / "cached")
    assert counts["hits"] + counts["misses"] == STEPS * 8 + 13


@pytest.mark.full  # a stream's batches are those of a set in memory: test_stream_runs.py
def test_a_stream_reads_what_a_set_in_memory_has_filled(teachers, live, tmp_path):
    """And the other way round: the rows are the same."""
    first = trained(tmp_path / "streamed", teachers[0], cache=tmp_path / "cache", data__stream=True)
    assert_same_student(live("kd"), tmp_path / "streamed")
    second = trained(tmp_path / "here", teachers[0], cache=tmp_path / "cache")
    assert_same_student(live("kd"), tmp_path / "here")
    assert first["misses"] == distinct(teachers) + 13 and second["misses"] == 0


def test_two_runs_that_fill_a_cache_at_once_end_identical(teachers, live, tmp_path, host_patch):
    """A second run trains as a whole while the first one is on its way."""
    whole, step = StepInputs.train, 7

    def train(self, now, state):
        if now == step and not (tmp_path / "second").exists():
            trained(tmp_path / "second", teachers[0], cache=tmp_path / "cache")
        return whole(self, now, state)

    host_patch.setattr(StepInputs, "train", train)
    counts = trained(tmp_path / "first", teachers[0], cache=tmp_path / "cache")
    for name in ("first", "second"):
        assert_same_student(live("kd"), tmp_path / name)
    assert counts["misses"] <= (step + 2) * 8 + 13  # the rest was there


def test_a_wrong_byte_is_never_read(teachers, live, tmp_path):
    """It costs the one row it is in, which is then whole again."""
    where = tmp_path / "cache"
    trained(tmp_path / "cold", teachers[0], cache=where)
    (store,) = headers(where)
    content = bytearray((store / "train").read_bytes())
    places = np.flatnonzero(np.frombuffer(content, np.uint8))
    content[places[len(places) // 2]] ^= 0x10
    (store / "train").write_bytes(content)
    (store / "header.json").write_text("{")  # on which no row depends
    assert trained(tmp_path / "warm", teachers[0], cache=where)["misses"] == 1
    assert_same_student(live("kd"), tmp_path / "warm")
    assert trained(tmp_path / "again", teachers[0], cache=where)["misses"] == 0


CHANGES = {
    "teacher": {},
    "transform": {"data__augment": "crop"},
    "data": {"data__synthetic__train": 41},
    "part of the data": {"data__subset": 30.0},
    "precision": {"precision": "bfloat16"},
    "batch": {"student__batch_size": 4},
    "type": {"teacher_cache_dtype": "float16"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_another_run_would_have_is_never_read(teachers, cache, tmp_path, what, capsys):
    """It has another store; and put in the place of this one's, its rows are not there."""
    cache_teacher.fill(student(teachers[0], cache=cache), "", epochs=1)
    first = run.prepare(student(teachers[0]), "/nowhere").plans[0].teachers[0].load().digest
    others = {path.name: path for path, header in headers(cache).items() if header["teacher"]["digest"] == first}
    changed = student(teachers[what == "teacher"], cache=tmp_path, **CHANGES[what])
    cache_teacher.fill(changed, "", epochs=1)
    (store,) = headers(tmp_path)
    assert " 0 were there" in capsys.readouterr().out and store.name not in others
    for other in others.values():
        for name in ("train", "test"):
            shutil.copy(other / name, store / name)
        assert re.search(r"train: 0 of .* damaged.*\n.*test: 0 of .* damaged", _info(tmp_path, capsys))


def test_another_draw_of_a_part_of_a_folder_has_another_store(teachers, tmp_path):
    """The files of both are the same, and so is the identity of the data."""
    for i in range(60):
        path = tmp_path / "set" / f"class{i % 5}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    drawn = {"data__name": f"folder:{tmp_path / 'set'}", "data__subset": 20.0, "cache": tmp_path / "cache"}
    for seed in (0, 1):
        cache_teacher.fill(student(teachers[0], **drawn, data__seed=seed), "", epochs=1)
    assert len(headers(tmp_path / "cache")) == 2


def _info(folder, capsys):
    cache_teacher.info({"teacher_cache": str(folder)})
    return capsys.readouterr().out


@pytest.mark.full  # exact rows: the rest of this file
def test_half_precision_is_another_run_and_says_so(teachers, tmp_path, capsys):
    """What is computed is rounded as what is read."""
    changes = {"cache": tmp_path / "cache", "teacher_cache_dtype": "float16"}
    trained(tmp_path / "cold", teachers[0], **changes)
    assert "float16 (not exact)" in capsys.readouterr().out
    assert trained(tmp_path / "warm", teachers[0], **changes)["misses"] == 0
    assert_same_student(tmp_path / "cold", tmp_path / "warm")
    for other in ({}, {"cache": tmp_path / "cache"}):
        with pytest.raises(InputError, match="teacher_cache_dtype is 'float16' there and 'float32' here"):
            trained(tmp_path / "cold", teachers[0], **other)
    with pytest.raises(InputError, match="teacher_cache_dtype: must be float32 where config.teacher_cache is empty"):
        trained(tmp_path / "new", teachers[0], teacher_cache_dtype="float16")


def test_a_run_may_go_on_with_a_cache_and_without(teachers, live, cache, tmp_path):
    stopped(tmp_path / "run", 6, teachers[0])
    stopped(tmp_path / "run", 5, teachers[0], cache=cache)
    assert trained(tmp_path / "run", teachers[0]) is None
    assert_same_student(live("kd"), tmp_path / "run")


REFUSED = {
    "features": (
        {"student__terms": {"ce": {"kind": "ce"}, "hint": {"kind": "fitnet"}}},
        r"config\.student\.terms\.hint reads more of its teacher than logits \(teacher\.stages\)",
    ),
    "a teacher that moves": (
        {"student__teacher": "ema", "student__ema": 0.9}, r"config\.student\.teacher=ema changes at every step"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_cached_is_refused_by_name(teachers, tmp_path, what):
    changes, message = REFUSED[what]
    with pytest.raises(
        InputError,
        match=rf"^config\.teacher_cache: {tmp_path}, but {message}.*; accepted: empty, or ",
    ):
        run.prepare(student(teachers[0], cache=tmp_path, **changes), str(tmp_path / "run"))
    assert run.prepare(student(teachers[0], **changes), str(tmp_path / "run")).plans[-1].why_not_cached


def test_a_table_of_logits_has_nothing_to_gain(teachers, tmp_path):
    """It is refused by itself, and beside another teacher left alone."""
    np.savez(tmp_path / "table.npz", logits=np.zeros((40, 5)))
    table = f"logits:{tmp_path / 'table.npz'}"
    with pytest.raises(InputError, match=rf"but config\.student\.teacher={table} is a table of logits already; acc"):
        run.prepare(student(table, cache=tmp_path), str(tmp_path / "run"))
    (plan,) = run.prepare(student(f"{table},{teachers[0]}", cache=tmp_path), str(tmp_path / "run")).plans
    assert plan.cacheable_teachers == (1,)


def test_a_disk_that_is_too_small_is_refused_before_anything_trains(tmp_path, host_patch):
    host_patch.setattr(cache_size, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=1000)))
    message = r"cache: needs up to 0.02 MB, of which 0.00 MB are there, and 0.00 MB are free; accepted: a folder on"
    with pytest.raises(InputError, match=message):
        run.run(tree(teacher_cache=str(tmp_path / "cache"), student__steps=10), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "teacher").exists()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "of another teacher").write_bytes(bytes(10**5))  # known when the teachers are
    with pytest.raises(InputError, match=r"needs up to 0.02 MB, of which 0.00 MB are there, and 0.00 MB are free"):
        run.run(tree(teacher_cache=str(tmp_path / "cache"), student__steps=10), str(tmp_path / "run"))
    assert (tmp_path / "run" / "teacher" / "DONE").exists() and not (tmp_path / "run" / "student" / "DONE").exists()
    with pytest.raises(InputError, match="^config.teacher_cache: .*/of another teacher is not a folder; accepted: "):
        file = tmp_path / "cache" / "of another teacher"
        run.prepare(tree(teacher_cache=str(file / "cache"), student__steps=10), str(tmp_path / "run"))
    with pytest.raises(InputError, match="must be a folder of this machine"):
        run.prepare(tree(teacher_cache="gs://bucket"), str(tmp_path / "run"))


def test_what_it_takes_and_what_it_would_save_is_said_once(teachers, tmp_path, capsys):
    many = {"student__steps": None, "student__epochs": 240, "data__augment": "crop_flip"}
    dry_run(student(teachers[0], **many), str(tmp_path / "run"))
    line = "note: student: with --config.teacher_cache=DIR (up to 0.02 MB) teachers would run on 7% of the images"
    assert capsys.readouterr().out.count(line) == 1  # 18 views in 240 epochs
    dry_run(student(teachers[0], cache=tmp_path / "cache", **many), str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert f"teacher cache {tmp_path / 'cache'}: up to 0.02 MB for the teacher: 40 images in 18 views" in said
    assert "note:" not in said and not (tmp_path / "cache").exists()
    dry_run(student(teachers[0]), str(tmp_path / "run"))
    assert "teacher_cache" not in capsys.readouterr().out  # nothing to gain in two epochs


def test_seeds_share_the_rows(teachers, cache, tmp_path):
    for folder, where in (("live", ""), ("cached", cache)):
        trained(tmp_path / folder, teachers[0], cache=where, seeds=2, student__steps=6)
    assert (tmp_path / "live" / "metrics.jsonl").read_bytes() == (tmp_path / "cached" / "metrics.jsonl").read_bytes()
    one, two = (last_state(tmp_path / folder, "student") for folder in ("live", "cached"))
    assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def test_fill_verify_info_prune(teachers, tmp_path, capsys, monkeypatch):
    where, message = tmp_path / "cache", "is not trained; --workdir=DIR names a run that has trained it"
    config_tree = student(teachers[0], cache=where)
    cache_teacher.fill(config_tree, "")
    assert f"{distinct(teachers) + 13} rows computed" in capsys.readouterr().out
    assert trained(tmp_path / "run", teachers[0], cache=where)["misses"] == 0
    assert cache_teacher.verify(config_tree, "", sample=20)
    assert "20 of 20 rows are the same" in capsys.readouterr().out
    (store,) = headers(where)
    printed = _info(where, capsys)
    assert f"train: {distinct(teachers)} of 720 rows" in printed and "test: 13 of 13 rows" in printed
    with monkeypatch.context() as patch:
        from kd_jax.train.compiled import Teachers

        true = Teachers.of
        patch.setattr(Teachers, "of", lambda *args: true(*args)._replace(logits=true(*args).logits + 1))
        assert not cache_teacher.verify(config_tree, "", sample=20)
    cache_teacher.fill(student(teachers[1], cache=where), "", epochs=1)
    cache_teacher.prune(config_tree, "")
    assert list(headers(where)) == [store]
    with pytest.raises(InputError, match=message):
        cache_teacher.fill(tree(teacher_cache=str(where)), "")
    with pytest.raises(InputError, match="no phase of the recipe has a teacher that can be cached"):
        cache_teacher.fill(tree(teacher_cache=str(where), phases=("teacher",)), "")
