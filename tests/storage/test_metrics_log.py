"""metrics.jsonl as a run finds it: what is not whole is dropped, what is no file is refused."""

import json

import pytest
from etils import epath

from kd_jax import InputError
from kd_jax.storage.metrics_log import MetricsLog

ROWS = [{"phase": "student", "split": "train", "step": step} for step in (1, 2, 3)]
LINES = [json.dumps(row).encode() + b"\n" for row in ROWS]


@pytest.mark.parametrize(
    "line", [b"\xff\xfe\n", LINES[1][:9] + b"\x80" + LINES[1][10:], LINES[1][:9], b"\x00\n", b"3\n"]
)
def test_rows_from_a_damaged_line_on_are_dropped(tmp_path, line):
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_bytes(LINES[0] + line + LINES[2])
    log = MetricsLog(path)
    assert log.rows == ROWS[:1]
    log.rewind("student", 1)
    log.add(ROWS[1])
    assert path.read_bytes() == b"".join(LINES[:2])


def test_a_folder_in_its_place_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match="metrics.jsonl: cannot be read .Is a directory.; move it away$"):
        MetricsLog(epath.Path(tmp_path / "metrics.jsonl"))


def test_rows_of_phases_that_the_run_has_not_go(tmp_path):
    log = MetricsLog(epath.Path(tmp_path / "metrics.jsonl"))
    log.add(*ROWS, {"phase": "left", "split": "train", "step": 1}, {"phase": "teacher", "split": "train", "step": 1})
    log.in_order(["teacher", "student"])
    assert log.rows == [{"phase": "teacher", "split": "train", "step": 1}, *ROWS]
