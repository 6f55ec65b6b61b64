"""How large a cache becomes, and where it may lie."""

import os
from types import SimpleNamespace

import pytest

from kd_jax import InputError
from kd_jax.train import cache_size


def test_the_size_of_cifar100():
    source = SimpleNamespace(num_views=162, sizes={"train": 50_000, "test": 10_000})
    size = {
        dtype: cache_size.store_size(SimpleNamespace(teacher_cache_dtype=dtype), source, 100, 240)
        for dtype in ("float32", "float16")
    }
    assert 3.2e9 < size["float32"] < 3.3e9 and 1.6e9 < size["float16"] < 1.7e9
    assert cache_size.distinct_views(162, 240) / 240 == pytest.approx(0.522, abs=0.001)
    assert cache_size.distinct_views(1, 30) == 1


@pytest.mark.parametrize(("place", "message"), [
    ("file", "file is not a folder"), ("file/a/b", "file is not a folder"), ("link/a", "link is not a folder"),
    ("locked/a", "locked may not be written"), ("new/a", None), ("", None),
])  # fmt: skip
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch, place, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "locked")
    recipe = SimpleNamespace(teacher_cache=str(tmp_path / place) if place else "")
    reads, alone = SimpleNamespace(cacheable_teachers=(0,)), SimpleNamespace(cacheable_teachers=())
    cache_size.check_writable(recipe, [alone])
    if message is None:
        cache_size.check_writable(recipe, [alone, reads])
        return
    with pytest.raises(InputError, match=rf"^config.teacher_cache: .*{place}: .*{message}; accepted: ") as e:
        cache_size.check_writable(recipe, [alone, reads])
    assert "\n" not in str(e.value)


def test_a_file_that_is_renamed_as_it_is_counted(tmp_path):
    (tmp_path / "rows").write_bytes(b"1")
    (tmp_path / "renamed").symlink_to(tmp_path / "gone")
    assert cache_size.taken_by(tmp_path) == (tmp_path / "rows").stat().st_blocks * 512
