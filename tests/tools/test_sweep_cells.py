"""The cells of a sweep: which there are, what they share, what is refused before anything trains."""

import pytest

from kd_jax import InputError, data
from kd_jax.tools import sweep, sweep_cells, sweep_values
from kd_jax.tools.sweep_shared import jobs_of
from tests.commands import launch
from tests.conftest import ROOT
from tests.tools.sweeps import SKD, cells


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("text", "values"), [
    ("1,2", ["1", "2"]), (" 0.5 , None ", ["0.5", "None"]), ("(1, 2),(3,)", ["(1, 2)", "(3,)"]),
    ("'a,b',c", ["a,b", "c"]), ('"a" , \'\'', ["a", ""]), ("'a' + 'b'", ["'a' + 'b'"]),
    ("[1,(2,3)],4", ["[1,(2,3)]", "4"]), ("", []), (",", []),
])  # fmt: skip
def test_values_of_a_grid(text, values):
    assert sweep_values.split(text) == values


def test_every_combination_times_seeds():
    there = cells(["student.refine.skd.temperature=1,4", "config.student.terms.kd.weight=2,20"], seeds=3)
    assert len(there) == 12 and len({cell.folder for cell in there}) == 12
    cell = there[-1]
    assert cell.folder == "student.refine.skd.temperature=4,student.terms.kd.weight=20/seed=2"
    assert cell.tree["student"]["refine"]["skd"]["temperature"] == 4.0 and cell.tree["seed"] == 2
    assert cell.tree["student"]["terms"]["kd"]["weight"] == 20.0


@pytest.mark.parametrize(("changes", "cached"), [
    ((), True), (("--config.student.epochs=3",), True), (("--config.teacher_cache=",), False),
    (("--config.teacher_cache=elsewhere",), False), (("--config.steps_per_call=50",), False),
])  # fmt: skip
def test_a_teacher_cache_for_all(tmp_path, changes, cached):
    there = sweep.with_cache(changes, str(tmp_path))
    assert (f"--config.teacher_cache={tmp_path / 'teacher_cache'}" in there) == cached and set(changes) <= set(there)
    (cell,) = cells([], changes=there)  # a configuration that can be
    assert not cell.tree["teacher_cache"] or cell.tree["teacher_cache_optional"]  # methods that read features run too


def test_a_cache_that_cells_must_use_is_the_users_word():
    (cell,) = cells(
        [], changes=sweep.with_cache(("--config.teacher_cache=x", "--config.teacher_cache_optional=False"), "")
    )
    assert cell.tree["teacher_cache"] == "x" and not cell.tree["teacher_cache_optional"]


def test_seeds_alone():
    there = cells([], seeds=2)
    assert [cell.folder for cell in there] == ["skd/seed=0", "skd/seed=1"]
    later = sweep_cells.cells_of(sweep_cells.of_grids(SKD, []), (), 2, first=5)
    assert [(cell.folder, cell.tree["seed"]) for cell in later] == [("skd/seed=5", 5), ("skd/seed=6", 6)]
    (run,) = sweep_cells.cells_of(sweep_cells.of_grids(SKD, []), (), 2, first=5, together=True)
    assert run.folder == "skd/seeds=5-6"


def test_a_sweep_as_data(tmp_path):
    file = tmp_path / "parts.py"
    file.write_text(
        'CONFIG, SEEDS, BASELINE = "configs/skd.py", 4, "all"\n'
        "def sweep():\n"
        '    yield {"name": "all"}\n'
        '    yield {"name": "no simplifier", "student.refine.skd.simplifier": "none"}\n'
        '    yield {"config": "configs/compose.py:skd+dkd", "student.epochs": 3}\n'
    )
    variants, more = sweep_cells.of_file(f"{file}:resnet8,resnet8,smoke")
    assert more == {"seeds": 4, "baseline": "all"}
    assert [v.name for v in variants] == ["all", "no simplifier", "student.epochs=3"]
    assert variants[2].config == "configs/compose.py:skd+dkd,resnet8,resnet8,smoke"
    there = sweep_cells.cells_of(variants, (), 1)
    assert there[1].tree["student"]["refine"]["skd"]["simplifier"] == "none"
    assert set(there[2].tree["student"]["terms"]) == {"ce", "dkd"}
    wrong = [*variants, sweep_cells.Variant("odd", {"student.epoch": "3"}, variants[2].config)]
    with pytest.raises(InputError, match="^odd: config.student.epoch: unknown key"):
        sweep_cells.cells_of(wrong, (), 1)
    file.write_text("CONFIG = 1 / 0\n")
    with pytest.raises(InputError, match="line 1: ZeroDivisionError"):
        sweep_cells.of_file(str(file))


@pytest.mark.parametrize(("text", "message"), [
    *((f"SEEDS = {value}", "SEEDS must be a whole number from 1 on, got") for value in
      ("0", "-1", "[0, 1]", "'3'", "2.5", "None", "True")),
    ("BASELINE = 3", "BASELINE must be the name of a cell, got 3"),
    ("CONFIG = 3", "the config of a cell must be a text, got 3"),
    ("def sweep(): yield {'name': 4}", "the name of a cell must be a text, got 4"),
])  # fmt: skip
def test_what_a_sweep_as_data_may_not_say(tmp_path, text, message):
    file = tmp_path / "wrong.py"
    file.write_text(f"CONFIG = 'configs/skd.py'\ndef sweep(): yield {{}}\n{text}\n")
    with pytest.raises(InputError, match=f"--sweep: {file}: {message}"):
        sweep_cells.of_file(str(file))


def test_values_of_numpy_and_paths(tmp_path):
    file = tmp_path / "numbers.py"
    file.write_text(
        "from pathlib import Path\nimport numpy as np\nCONFIG = Path('configs/skd.py')\n"
        "def sweep(): yield {'a': np.float64(1e-3), 'b': (np.int64(2), 3), 'c': Path('d'), 'e': np.array([1, 2])}\n"
    )
    ((variant,), _) = sweep_cells.of_file(f"{file}:smoke")
    assert variant.config == "configs/skd.py:smoke"
    assert variant.settings == {"a": "0.001", "b": "(2, 3)", "c": "d", "e": "[1, 2]"}


@pytest.mark.parametrize("name", ["KD 50%", "a/b & c"])
def test_a_baseline_in_the_users_spelling(name):
    there = sweep_cells.cells_of([sweep_cells.Variant(name, {}, SKD)], (), 1)
    assert sweep_cells.find(there, name) == sweep_cells.find(there, there[0].name) == there[0].name != name
    with pytest.raises(InputError, match=f"--baseline=x: no cell is named so; known: {name}$"):
        sweep_cells.find(there, "x")


@pytest.mark.parametrize(("flags", "message"), [
    (["--config.seed=5"], "--config.seed: every run of a sweep has its own; --seeds=N and --first_seed=S set them"),
    (["--config.seed", "5"], "--config.seed: every run"),
    (["--config.student.epochs=2"], "--config.student.epochs: has a grid already"),
])  # fmt: skip
def test_flags_that_would_change_nothing(flags, message):
    variants = sweep_cells.of_grids(SKD, ["config.student.epochs=1"])
    with pytest.raises(InputError, match=message):
        sweep_cells.check_changes(flags, variants)
    assert sweep_cells.check_changes(["--config.student.optim.lr=1"], variants) == []


def test_a_flag_that_some_cells_set_themselves_is_said():
    short, long = sweep_cells.Variant("short", {"student.epochs": "2"}, SKD), sweep_cells.Variant("long", {}, SKD)
    said = sweep_cells.check_changes(["--config.student.epochs=3", "--config.student.optim.lr=1"], [short, long])
    assert said == ["note: --config.student.epochs does not reach the cells that set it themselves: short"]
    with pytest.raises(InputError, match="--config.student.epochs: has a grid already, or every cell sets it"):
        sweep_cells.check_changes(["--config.student.epochs=3"], [short])


@pytest.mark.parametrize(("grids", "message"), [
    (["student.refine.skd.temperatur=1"], "config.student.refine.skd.temperatur: unknown key"),
    (["student.epochs=many"], "config.student.epochs=many: must be int"),
    (["student.refine.skd.temperature="], "must be KEY=V1,V2,... with one value at least"),
    (["student.epochs"], "must be KEY=V1,V2,..."),
    (["phases=teacher"], "config.phases: cannot differ between cells; a sweep has the phases of its config"),
    (["phases[0]=teacher"], r"config.phases\[0\]: cannot differ"),
    (["seed=1,2"], "config.seed: cannot differ between cells; --seeds=N"),
    (["student.epochs=1,1"], "two cells are named student.epochs=1"),
    (["student.optim.lr=1,1.0"], "the cells student.optim.lr=1 and student.optim.lr=1.0 are the same run"),
    (["student.epochs=1", "config.student.epochs=2"], "student.epochs has a grid already"),
    (["student.optim.lr=-1"], "config.student.optim.lr: must be"),
    (["log.every=1,2"], "are the same run"),
    (["data.dir=" + "x" * 300], "no name of a cell"),
])  # fmt: skip
def test_what_is_refused(grids, message):
    with pytest.raises(InputError, match=message) as e:
        cells(grids)
    assert "\n" not in str(e.value)


def test_names_that_a_file_system_would_misread():
    (cell,) = cells(["data.dir=/a/b*?[c]"])
    assert cell.name == "data.dir=%2Fa%2Fb%2A%3F[c]"


def test_phases_are_shared_where_they_are_the_same():
    """By cells of one seed that differ behind them; a chain is shared as far as it is the same."""
    shared, last = jobs_of(cells(["student.terms.kd.weight=1,2"], seeds=2))
    assert [job.phases for job in shared] == [("teacher",)] * 2 and len(last) == 4
    assert all(job.phases == ("student",) and set(job.links) == {"teacher"} for job in last)
    assert last[0].links == last[2].links != last[1].links == last[3].links
    assert jobs_of(cells(["teacher.epochs=1,2"]))[0] == []  # nothing is the same
    ft = cells(["student.terms.ft.weight=1,2"], "configs/ft.py:resnet8x4,resnet8,smoke")
    shared, last = jobs_of(ft)
    assert [job.phases for job in shared] == [("teacher",), ("paraphrase",)]
    assert shared[1].links == {"teacher": shared[0].folder} and set(last[0].links) == {"teacher", "paraphrase"}
    assert "--config.phases=teacher,paraphrase" in shared[1].flags
    ft = cells(["paraphrase.epochs=2,3"], "configs/ft.py:resnet8x4,resnet8,smoke")
    assert [job.phases for job in jobs_of(ft)[0]] == [("teacher",)]
    alone = cells(["skd.refine.skd.temperature=1,2"], "configs/quickstart.py")
    assert {job.phases[0] for job in jobs_of(alone)[0]} == {"teacher", "alone", "kd"}
    assert jobs_of(cells(["student.epochs=7"]))[0] == []  # a single cell shares nothing


def test_seeds_together():
    """One run for all seeds of a cell, one teacher for all cells."""
    variants = sweep_cells.of_grids(SKD, ["student.terms.kd.weight=1,2"])
    there = sweep_cells.cells_of(variants, (), 3, together=True)
    assert [cell.folder for cell in there] == [f"student.terms.kd.weight={w}/seeds=0-2" for w in (1, 2)]
    assert all(cell.tree["seeds"] == 3 and list(cell.seeds) == [0, 1, 2] for cell in there)
    shared, last = jobs_of(there)
    assert [job.phases for job in shared] == [("teacher",)] and shared[0].flags[-1] == "--config.seeds=1"
    assert jobs_of(cells(["student.terms.kd.weight=1,2"]))[0][0].folder == shared[0].folder  # also if alone
    with pytest.raises(InputError, match="config.seeds: must be 1 in a sweep, got 2"):
        cells([], changes=("--config.seeds=2",))


def test_recipes_of_other_names_share_too():
    files = ("configs/skd.py:resnet8,resnet8,smoke", "configs/kd.py:resnet8,resnet8,smoke")
    variants = [sweep_cells.Variant(name, {}, name) for name in files]
    shared, last = jobs_of(sweep_cells.cells_of(variants, (), 1))
    assert len(shared) == 1 and last[0].links == last[1].links


def test_one_teacher_for_all_seeds():
    there = cells(["student.terms.ft.weight=1,2"], "configs/ft.py:resnet8x4,resnet8,smoke", seeds=2)
    shared, last = jobs_of(there, teacher_seed=7)
    teachers = [job for job in shared if job.phases == ("teacher",)]
    assert len(teachers) == 1 and "--config.seed=7" in teachers[0].flags and len({*last[0].links}) == 2
    assert len([job for job in shared if job.phases == ("paraphrase",)]) == 2  # which has the seed of its run


SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweeps").glob("[a-z]*.py"))
PAIR = {"cifar100": "", "imagenet": ""}  # these have pairs of their own
FEWEST = {"evidence_features": 4}  # cells; of others 5


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n == "cifar100" else n for n in SWEEPS])
def test_every_sweep_as_data(name):
    """All cells are configurations that can be, in full and under smoke; its baseline is one of them."""
    pair = PAIR.get(name, "resnet20,resnet8")
    for size in ("", "smoke"):
        argument = ",".join(word for word in (pair, size) if word)
        variants, more = sweep_cells.of_file(f"configs/sweeps/{name}.py" + (f":{argument}" if argument else ""))
        there = sweep_cells.cells_of(variants, (), 1)
        assert len(there) >= FEWEST.get(name, 5)
        if "baseline" in more:
            sweep_cells.find(there, more["baseline"])
        shared, _ = jobs_of(there)
        assert shared  # a teacher at least
    for cell in there:  # under smoke: their examples can be drawn
        drawn = cell.tree["data"]
        data.load(drawn["name"], subset=drawn["subset"], seed=0, synthetic=drawn["synthetic"])


def test_sweeps_are_listed():
    done = launch("sweep", "--list")
    assert done.returncode == 0 and all(f"configs/sweeps/{name}.py  " in done.stdout for name in SWEEPS)
    assert "SKD" in done.stdout.splitlines()[SWEEPS.index("skd")]
