"""Tables of logits: what is read, what is refused in one line."""

import numpy as np
import pytest

from kd_jax import InputError
from kd_jax.data import Share
from kd_jax.interop import logits_file

TRAIN, TEST = np.arange(30, dtype=np.float32).reshape(6, 5), -np.ones((4, 5), np.float32)


def read(path, share=None, **sizes):
    return logits_file.read(str(path), num_classes=5, sizes={"train": 6, "test": 4, **sizes}, share=share)


@pytest.mark.parametrize(("dtype", "stored"), [(np.float16, np.float16), (np.float32,) * 2, (np.float64, np.float32)])
def test_tables(tmp_path, dtype, stored):
    np.savez_compressed(tmp_path / "a.npz", logits=TRAIN.astype(dtype), test_logits=TEST.astype(dtype), more=["text"])
    loaded = read(tmp_path / "a.npz")
    assert loaded.variables.params == {} and list(loaded.variables.stats) == ["train", "test"]
    for split, table in (("train", TRAIN), ("test", TEST)):
        np.testing.assert_array_equal(loaded.variables.stats[split], table)
        assert loaded.variables.stats[split].dtype == stored


def test_the_digest_is_of_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = []
    for train, more in ((TRAIN, {}), (TRAIN, {"labels": TEST}), (TRAIN, {"test_logits": TEST}), (TRAIN + 1, {})):
        np.savez("a.npz", logits=train, **more)
        digests.append(read("a.npz").digest)
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_table_of_the_whole_set_serves_a_part_of_it(tmp_path):
    np.savez(tmp_path / "a.npz", logits=TRAIN, test_logits=TEST)
    np.savez(tmp_path / "part.npz", logits=TRAIN[[1, 2, 5]], test_logits=TEST)
    share = Share(np.array([1, 2, 5]), 6)
    whole, part = (read(tmp_path / name, train=3, share=share) for name in ("a.npz", "part.npz"))
    np.testing.assert_array_equal(whole.variables.stats["train"], TRAIN[[1, 2, 5]])
    assert whole.digest == part.digest
    for array in (TRAIN[:4], np.float32(1)):
        np.savez(tmp_path / "wrong.npz", logits=array)
        accepted = r"accepted: \(3, 5\), a row for each train image .*; or \(6, 5\), for the whole set"
        with pytest.raises(InputError, match=accepted):
            read(tmp_path / "wrong.npz", train=3, share=share)


def damaged(path):
    np.savez(path, logits=TRAIN)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    np.savez(path, logits=TRAIN)
    path.write_bytes(path.read_bytes()[:-30])


def single(path):
    with path.open("wb") as file:
        np.save(file, TRAIN)


def saved(**arrays):
    return lambda path: np.savez(path, **arrays)


HOLED = np.where(np.arange(30).reshape(6, 5) == 17, np.nan, TRAIN)
WRONG = {
    "no file": (lambda path: None, "there is no such file$"),
    "a folder": (lambda path: path.mkdir(), "there is no such file$"),
    "text": (lambda path: path.write_text("logits"), "cannot be read as an .npz file of plain numbers"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as an .npz file of plain numbers"),
    "cut": (cut, "cannot be read as an .npz file of plain numbers"),
    "damaged": (damaged, "cannot be read as an .npz file of plain numbers .*CRC"),
    "single": (single, "no array 'logits' in it; there are: none$"),
    "no logits": (saved(test_logits=TEST, labels=TEST), "no array 'logits' in it; there are: 'test_logits', 'labels'$"),
    "nothing": (saved(), "no array 'logits' in it; there are: none$"),
    "rows": (
        saved(logits=TRAIN[1:]),
        r"logits has shape \(5, 5\); accepted: \(6, 5\), a row for each train image",
    ),
    "classes": (saved(logits=TRAIN[:, 1:]), r"logits has shape \(6, 4\); accepted: \(6, 5\)"),
    "tests": (
        saved(logits=TRAIN, test_logits=TRAIN),
        r"test_logits has shape .*\(4, 5\), a row for each test image",
    ),
    "integers": (saved(logits=TRAIN.astype(int)), "logits has type int64; accepted: float16, float32 or float64$"),
    "objects": (
        saved(logits=TRAIN.astype(object)),
        "cannot be read as .*Object arrays cannot",
    ),
    "not a number": (saved(logits=HOLED), "logits: 1 rows are not finite, the first is row 3$"),
    "infinite": (
        saved(logits=TRAIN, test_logits=TEST * np.inf),
        "test_logits: 4 rows are not finite, the first",
    ),
    "too large": (saved(logits=TRAIN.astype(np.float64) * 1e300), "logits: 6 rows are not finite, the first is row 0$"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line(tmp_path, wrong):
    make, message = WRONG[wrong]
    make(tmp_path / "a.npz")
    with pytest.raises(InputError, match=f"^logits:{tmp_path}/a.npz: {message}") as e:
        read(tmp_path / "a.npz")
    assert "\n" not in str(e.value)
