"""One folder, one configuration."""

from kd_jax.storage.workdir import difference, resolve_path


def test_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(resolve_path("runs/a")) == str(tmp_path / "runs" / "a")
    assert str(resolve_path("gs://bucket/a")) == "gs://bucket/a"


def test_difference():
    old = {"a": {"b": (1, 2), "c": None}, "parallel": {"mesh": (), "scope": "global"}, "log": {"every": 5}}
    assert difference(old, {**old, "a": {"b": [1, 2], "c": None}}) is None
    assert difference(old, {**old, "log": {"every": 6}, "parallel": {"mesh": (4,), "scope": "global"}}) is None
    assert difference(old, {**old, "a": {"b": (1,), "c": None}}) == "a.b is [1, 2] there and [1] here"
    assert difference(old, {**old, "new": 3}) == "new is None there and 3 here"
    assert "parallel.scope" in difference(old, {**old, "parallel": {"mesh": (), "scope": "device"}})
