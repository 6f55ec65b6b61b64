"""What lies in a folder of class folders: names of every kind, links, leftovers, parts without labels."""

import errno
import io
import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from kd_jax import data
from kd_jax.data.names import shown
from kd_jax.data.streaming import Stream, TrainPlan
from kd_jax.train import run
from tests.conftest import tree
from tests.data.test_folder import fill, picture, refusal

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "shared_programs")

STRANGE = [b"caf\xe9", b"new\nline", b"tab\there", "été".encode(), b"'quote\"", b"b" * 250, "\u202eright".encode()]


def notes(root):
    return data.load(f"folder:{root}").notes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("new\nline\ttab\r", r"new\nline\ttab\r"),
        ("été 猫", "été 猫"),
        ("\u2028\u202e", r"\u2028\u202e"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_names_are_shown_on_one_line(name, expected):
    assert shown(name) == expected and shown(name).encode() and shown(name).isprintable()


def strange_set(root, rng):
    """A class of every strange name, with two images of every strange name."""
    encoded = io.BytesIO()
    picture(rng).save(encoded, "PNG")
    for label in STRANGE:
        folder = os.path.join(os.fsencode(root), label)
        os.makedirs(folder)
        for name in STRANGE:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(encoded.getvalue())
    return root


def test_names_of_every_kind_are_read(tmp_path, rng):
    root = strange_set(tmp_path / os.fsdecode(b"set\xff"), rng)
    whole = data.load(f"folder:{root}")
    streamed = data.load(f"folder:{root}", stream=True)
    assert whole.train.num_classes == len(STRANGE) and len(whole.train) + len(whole.test) == len(STRANGE) ** 2
    assert whole.source == rf"{len(STRANGE)} class folders in {tmp_path}/set\xff" == streamed.source
    with Stream(streamed.train, TrainPlan(0, len(streamed.train), 5), steps=range(7), workers=1) as stream:
        assert all((batch["label"] == whole.train.labels[batch["index"]]).all() for batch in stream)
    assert json.loads(json.dumps(whole.identity)) == streamed.identity


def test_files_of_any_name_are_refused_in_one_printable_line(tmp_path, rng):
    root = strange_set(tmp_path / "set", rng)
    for label in STRANGE:
        broken = os.path.join(os.fsencode(root), label, STRANGE[1])
        with open(broken, "rb+") as file:
            content = file.read()
            file.truncate(60)
        message = refusal(root)
        assert message.startswith(f"{shown(broken)}: a truncated or damaged image") and message.isprintable()
        with open(broken, "wb") as file:
            file.write(content)
        empty = os.path.join(os.fsencode(root), label + b"x"[: 255 - len(label)])
        os.mkdir(empty)
        assert refusal(root).startswith(f"{shown(empty)}: an empty class folder") and refusal(root).isprintable()
        os.rmdir(empty)


def test_a_run_prints_names_that_are_not_utf8_and_notes_once(tmp_path, rng, capsys):
    counts, home = dict.fromkeys((os.fsdecode(b"\xe9"), "A", "a", "b", "c"), 5), tmp_path / "run"
    root = fill(tmp_path / os.fsdecode(b"set\xff"), rng, counts, height=7, width=9)
    summary = run.run(tree(data__name=f"folder:{root}", data__size=8), str(home))
    assert [phase["steps"] for phase in summary["phases"].values()] == [2, 2]
    printed = capsys.readouterr().out
    assert r"set\xff, 20 training" in printed and r"set\xff" in (home / "report.md").read_text()
    assert printed.count("note: classes A and a differ by letter case only") == 1


def test_leftovers_are_passed_over(tmp_path, rng):
    fill(tmp_path / "set", rng, {"a": 2, "b": 3})
    expected = data.load(f"folder:{tmp_path / 'set'}")
    for folder in (tmp_path / "set", tmp_path / "set" / "a"):
        for name in (".DS_Store", "Thumbs.db", "thumbs.db", "Desktop.ini", ".hidden"):
            (folder / name).write_text("")
        for name in ("__MACOSX", "@eaDir", ".git"):
            (folder / name).mkdir()
    dataset = data.load(f"folder:{tmp_path / 'set'}")
    np.testing.assert_array_equal(dataset.train.images, expected.train.images)
    assert dataset.train.num_classes == 2 and dataset.notes == expected.notes == ()


def test_files_beside_class_folders_are_reported(tmp_path, rng):
    fill(tmp_path / "plain", rng, {"a": 2, "b": 2})
    for name in ("b.png", "README"):
        (tmp_path / "plain" / name).write_text("")
    said = f"{tmp_path}/plain: files beside class folders are not read: 2, README first"
    assert notes(tmp_path / "plain") == (said,)
    for part in ("train", "test"):
        fill(tmp_path / "set" / part, rng, {"a": 2, "b": 2})
        (tmp_path / "set" / part / "list.txt").write_text("")
    assert [note.partition(":")[0] for note in notes(tmp_path / "set")] == [
        f"{tmp_path}/set/{part}" for part in ("train", "test")
    ]


@pytest.mark.parametrize("where", ["", "train", "test", "train/a"])
def test_links_that_lead_nowhere(tmp_path, rng, where):
    for part in ("train", "test"):
        fill(tmp_path / part, rng, {"a": 2, "b": 2})
    link = tmp_path / where / "c"
    for target in (tmp_path / "gone", "c"):  # nowhere, and to itself
        link.symlink_to(target)
        assert refusal(tmp_path) == f"{link}: a link to {target}, which leads nowhere; mend or remove it"
        link.unlink()
    os.mkfifo(link)
    assert refusal(tmp_path) == f"{link}: neither a file nor a folder that can be read; remove it"


def test_links_that_lead_somewhere(tmp_path, rng):
    fill(tmp_path / "elsewhere", rng, {"a": 2, "b": 2})
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "a" / "2.png").symlink_to(tmp_path / "elsewhere" / "b" / "0.png")
    assert len(data.load(f"folder:{tmp_path / 'set'}").train) == 3
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert refusal(tmp_path / "set").startswith(f"{tmp_path}/set/loop/a: a folder within a class folder")


@pytest.mark.parametrize("where", ["", "a"])
def test_folders_that_cannot_be_read(tmp_path, rng, monkeypatch, where):
    fill(tmp_path, rng, {"a": 2, "b": 2})
    closed, listdir = tmp_path / where, os.listdir

    def guarded(path):
        if os.fspath(path) == os.fspath(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", guarded)
    assert refusal(tmp_path) == f"{closed}: cannot be read (Permission denied)"


def test_a_file_that_cannot_be_read(tmp_path, rng, monkeypatch):
    fill(tmp_path, rng, {"a": 2, "b": 2})
    opened = io.open

    def guarded(path, *args, **kwargs):
        if os.fspath(path).endswith("b/1.png"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return opened(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    assert refusal(tmp_path) == f"{tmp_path}/b/1.png: cannot be read (Permission denied)"


def unlabelled(root, rng, below=""):
    """Images as Kaggle and ImageNet deliver those without labels."""
    (root / below).mkdir(parents=True)
    for i in range(3):
        picture(rng).save(root / below / f"{i}.png")


@pytest.mark.parametrize("below", ["", "unknown"])
@pytest.mark.parametrize("labelled", ["val", "validation"])
def test_an_unlabelled_test_folder_does_not_hide_a_labelled_one(tmp_path, rng, below, labelled):
    fill(tmp_path / "train", rng, {"a": 3, "b": 3})
    fill(tmp_path / labelled, rng, {"a": 1, "b": 2})
    unlabelled(tmp_path / "test", rng, below)
    whole, streamed = (data.load(f"folder:{tmp_path}", stream=stream) for stream in (False, True))
    assert whole.test.labels.tolist() == streamed.test.labels.tolist() == [0, 1, 1] and len(whole.train) == 6
    said = f"{tmp_path}/test has no class folders of {tmp_path}/train; the test set is {tmp_path}/{labelled}"
    assert whole.notes == streamed.notes == (said,)


def test_a_labelled_test_folder_comes_first(tmp_path, rng):
    for part, n in (("train", 3), ("test", 1), ("val", 2)):
        fill(tmp_path / part, rng, {"a": n, "b": n})
    dataset = data.load(f"folder:{tmp_path}")
    assert len(dataset.test) == 2 and dataset.notes == ()


def test_no_part_with_labels(tmp_path, rng):
    fill(tmp_path / "train", rng, {"a": 3, "b": 3})
    unlabelled(tmp_path / "test", rng)
    hint = f"or folder:{tmp_path}/train holds a part of every class out"
    accepted = f"without class folders; accepted: {tmp_path}/test/CLASS/*.png; {hint}"
    assert refusal(tmp_path) == f"{tmp_path}: test beside train {accepted}"
    (tmp_path / "val").mkdir()
    assert refusal(tmp_path) == f"{tmp_path}: test and val beside train {accepted}"
    unlabelled(tmp_path / "val" / "unknown", rng)
    assert refusal(tmp_path).startswith(f"{tmp_path}/val: no class folder a, b, which {tmp_path}/train has; both")


def test_parts_without_labels_are_no_classes(tmp_path, rng):
    unlabelled(tmp_path / "train", rng)
    accepted = f"without class folders; accepted: {tmp_path}/{{}}/CLASS/*.png, or config.data.labels=False"
    assert refusal(tmp_path) == f"{tmp_path}: train {accepted.format('train')}"
    unlabelled(tmp_path / "test", rng)
    assert refusal(tmp_path) == f"{tmp_path}: test and train {accepted.format('test')}"
    unlabelled(tmp_path / "other", rng)  # then all are classes
    assert data.load(f"folder:{tmp_path}").train.num_classes == 3


def test_classes_are_compared_by_name(tmp_path, rng):
    fill(tmp_path / "train", rng, dict.fromkeys("abcdefgh", 1))
    fill(tmp_path / "test", rng, {"a": 1, "z": 1})
    here, there = tmp_path / "train", tmp_path / "test"
    assert refusal(tmp_path) == (
        f"{there}: no class folder b, c, d, e, f, ..., which {here} has; both must have the same classes"
    )
    for name, other in (("Cat", "cat"), (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é"))):
        root = tmp_path / f"set{len(name)}"
        fill(root / "train", rng, {"a": 1, name: 1})
        fill(root / "test", rng, {"a": 1, other: 1})
        hint = f"(it has {other}: names must be equal to the letter); both"
        assert refusal(root).startswith(f"{root}/test: no class folder {name}, which {root}/train has {hint}")


def test_classes_that_differ_by_letter_case_are_reported(tmp_path, rng):
    fill(tmp_path, rng, {"A": 2, "a": 2, "b": 2})
    dataset = data.load(f"folder:{tmp_path}")
    assert dataset.train.num_classes == 3
    assert dataset.notes == ("classes A and a differ by letter case only; each is a class",)


def test_tiny_imagenet_with_names_of_every_kind(tmp_path, rng):
    strange = [name for name in STRANGE if b"\n" not in name and b"\t" not in name and name.isascii() is False]
    encoded = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(encoded, "PNG")
    lines, root = [], os.fsencode(tmp_path)
    for label in strange:
        for folder in (os.path.join(root, b"train", label, b"images"), os.path.join(root, b"val", b"images")):
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, label), "wb") as file:
                file.write(encoded.getvalue())
        lines.append(label + b"\t" + label + b"\t0\t0\n")
    (tmp_path / "val" / "val_annotations.txt").write_bytes(b"".join(lines))
    dataset = data.load(f"folder:{tmp_path}")
    assert sorted(dataset.test.labels.tolist()) == list(range(len(strange))) and len(strange) > 2
    (tmp_path / "val" / "val_annotations.txt").write_bytes(b"x\t\xff\n")
    assert r"class '\xff' has no folder" in refusal(tmp_path)
