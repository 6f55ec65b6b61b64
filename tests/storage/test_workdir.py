"""One folder, one configuration."""

import pytest

from kd_jax import InputError
from kd_jax.storage.workdir import difference, resolve_path


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
