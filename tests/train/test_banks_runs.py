"""CRD's banks, strong views, DOT's buffers and averages in one run: what it keeps, and that it resumes bit for bit."""

import json

import numpy as np
import pytest
from etils import epath

from configs import compose, crd
from kd_jax import InputError
from kd_jax.data.resident import train_index
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.train import run
from kd_jax.train.dry_run import dry_run
from tests.conftest import shrunk
from tests.train.resuming import assert_resumes, last_state, plain

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

SMALL = {"student__terms__crd__negatives": 10, "student__terms__crd__dim": 8}
LONG = {"student__steps": 8, "checkpoint__every": 3, "checkpoint__keep": 9, "log__every": 4}
BANKS = {f"['method']['stats']['crd']['bank']['{seat}']" for seat in ("student", "teacher")}
SCALES = {f"['method']['stats']['crd']['scale']['{seat}']" for seat in ("student", "teacher")}


def tree(**changes):
    """CRD and MLLD under DOT; the student keeps an average, and learns from it too."""
    teachers = {"student__ema": 0.9, "student__teacher": "phase:teacher,ema"}
    return plain(
        shrunk(compose.get_config("crd+mlld+kd+dot,resnet8,resnet8,smoke"), **{**SMALL, **teachers, **changes})
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("banks")
    return folder, run.run(tree(**LONG), str(folder))


def saved_at(folder, step):
    reader = Checkpoints(epath.Path(folder / "student"), read_only=True)
    return {key: np.asarray(leaf) for key, leaf in reader.read("training", step=step)[0]["training"].items()}


def written(*steps):
    """Positions of the examples of these steps."""
    return np.unique(np.concatenate([train_index(0, step, n=40, batch_size=8)[1] for step in steps]))


def test_a_step_writes_the_rows_of_its_batch_and_no_other(home):
    start, middle = (saved_at(home[0], step) for step in (3, 6))
    fresh, moved = np.setdiff1d(np.arange(40), written(0, 1, 2)), written(3, 4, 5)
    still = np.setdiff1d(np.arange(40), moved)
    assert len(fresh) == 16 and 0 < len(still) < 24
    for name in BANKS:
        before, after = start[name], middle[name]
        assert before.shape == (40, 8)
        np.testing.assert_array_equal(before[still], after[still])
        assert all(np.any(before[moved] != after[moved], axis=1))
        np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)  # all are written by then
        assert np.abs(before[fresh]).max() <= (3 / 8) ** 0.5 and np.std(np.linalg.norm(before[fresh], axis=1)) > 0.01


def test_constants_are_set_once_and_the_table_stays(home):
    states = [saved_at(home[0], step) for step in (3, 6, 8)]
    table = [key for key in states[0] if key.startswith("['method']['stats']['crd']['negatives']")]
    assert table and all(states[0][key].dtype.kind in "iu" for key in table)
    for key in (*SCALES, *table):
        for state in states[1:]:
            np.testing.assert_array_equal(states[0][key], state[key], err_msg=key)
    assert all(states[0][key] > 0 for key in SCALES)


def test_it_resumes_bit_for_bit(home, tmp_path):
    """Stopped in the middle of an epoch, between two rows and two saves, and killed after that."""
    (state,) = assert_resumes(tree(**LONG), home[0], tmp_path, [(7, False), (3, True)], ["student"]).values()
    parts = ("['ema']['params']", "['ema']['stats']", *BANKS, *SCALES, "['extra']")
    assert all(any(part in key for key in state) for part in parts)
    assert len([key for key in state if "trace" in key and "['student']['conv1']" in key]) == 2  # DOT's two buffers


def test_what_the_run_says(home):
    rows = [json.loads(line) for line in (home[0] / "metrics.jsonl").read_text().splitlines()]
    terms = [row["terms"] for row in rows if row["phase"] == "student" and row["split"] == "train"]
    assert all(set(row) == {"ce", "crd", "kd", "mlld", "mlld/ce"} for row in terms) and len(terms) == 2
    assert all(np.isfinite(value) for row in terms for value in row.values())
    student = home[1]["phases"]["student"]
    assert student["method_params"] == 2 * (8 * 8 + 8) and set(student["networks"]) == {"ema"}
    assert student["teacher"]["origin"] == "phase:teacher,ema" and student["teacher"]["digest"].endswith(",ema")


def test_a_dry_run_says_what_the_banks_take(tmp_path, capsys):
    config_tree = plain(shrunk(crd.get_config("resnet8,resnet8,smoke"), student__terms__crd__negatives=10))
    config_tree["data"]["synthetic"]["train"] = 2000
    dry_run(config_tree, str(tmp_path / "run"))
    student = capsys.readouterr().out.split("\nstudent: ")[1]
    # two banks of 2000 rows of 128, and order and class of the examples
    assert "memory that its method keeps beside parameters: 2.1 MB\n" in student
    assert "2 steps taken: loss " in student and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"data__synthetic__classes": 1},
     "config.student.terms.crd: negatives: all 40 examples are of class 0; two classes at least wanted"),
    ({"student__terms__crd__negatives": 0}, "config.student.terms.crd: crd: negatives must be from 1 to"),
    ({"student__terms__crd__temperature": 0.0}, "config.student.terms.crd: crd: temperature must be a finite number"),
    ({"student__terms__crd__dim": 0}, "config.student.terms.crd: crd: dim must be at least 1, got 0"),
    ({"student__terms__mlld__temperatures": (4.0, 0.0)}, "config.student.terms.mlld: mlld: temperatures must be "),
    ({"student__terms__mlld__teacher": 1}, "config.student.terms.mlld.teacher: teacher 1: .* reads all teachers"),
    ({"data__strong__ops": -1}, "config.data.strong.ops: must be a number of operations, at least 0, got -1"),
    ({"data__strong__magnitude": 11.0}, "config.data.strong.magnitude: must be 0 to 10, got 11.0"),
    ({"student__optim__delta": 0.1}, r"config.student.optim.delta: must be at least 0 and below 0.1 \(of momentum 0.9"),
    ({"student__ema": None}, "config.student.teacher: must be another one unless student.ema, its decay, is given"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as e:
        run.run(tree(**changes), str(tmp_path / "run"))
    assert "\n" not in str(e.value) and not (tmp_path / "run").exists()


def warm(teacher, method, **student):
    """CRD alone; a second student starts with the banks, the scales, the negatives and the projections of the first."""
    config_tree = plain(shrunk(crd.get_config("resnet8,resnet8,smoke"), **SMALL))
    second = {
        **config_tree["student"],
        **student,
        "teacher": teacher,
        "init": {**config_tree["student"]["init"], "method": method},
    }
    return {**config_tree, "phases": ["teacher", "student", "again"], "again": second}


@pytest.mark.full
def test_a_warm_start_of_crd(tmp_path):
    """From an earlier phase, and from its checkpoint: the tables, tuples in the method, come back as what they were."""
    still = {"steps": 2, "optim": {**warm("", "")["student"]["optim"], "lr": 1e-30, "weight_decay": 0.0}}
    config_tree = warm("phase:teacher", "phase:student", **still)
    run.run(config_tree, str(tmp_path / "run"))
    there = {name: f"checkpoint:{tmp_path / 'run' / name}" for name in ("teacher", "student")}
    elsewhere = {**warm(there["teacher"], there["student"], **still), "phases": ["again"]}
    run.run(elsewhere, str(tmp_path / "elsewhere"))
    first = last_state(tmp_path / "run", "student")
    ends = [last_state(tmp_path / name, "again") for name in ("run", "elsewhere")]
    projections = [name for name in first if "['method']['params']['crd']" in name]
    tables = [name for name in first if "['crd']" in name and "negatives" in name]
    assert len(tables) > 1 and projections
    for name in first:
        np.testing.assert_array_equal(ends[0][name], ends[1][name], err_msg=name)
    for name in projections:
        np.testing.assert_allclose(ends[0][name], first[name], atol=1e-25, err_msg=name)
    for name in tables:
        np.testing.assert_array_equal(ends[0][name], first[name], err_msg=name)
