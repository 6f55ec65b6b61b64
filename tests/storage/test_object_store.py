"""A run's own files on an object store: whole files only, no append, no rename, no lock, no empty folders.

The store is one in memory in the place of gs://. Orbax's files are kept beside it: tensorstore talks to stores by
itself.
"""

import json

import pytest
from etils import epath
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

from kd_jax import InputError
from kd_jax.distributed import processes
from kd_jax.storage import checkpoints, files, metrics_log, workdir
from kd_jax.train import run
from tests.conftest import tree

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "shared_programs")


class Bucket(MemoryFileSystem):
    """Refuses what an object store cannot do."""

    protocol, cachable = "gs", False

    def __init__(self):
        super().__init__()
        self.store, self.pseudo_dirs = {}, []

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")

    def mkdir(self, path, create_parents=True, **kwargs):
        pass

    makedirs = mkdir

    def rename(self, *args, **kwargs):
        raise NotImplementedError("rename")

    mv = rename

    def _open(self, path, mode="rb", **kwargs):
        if mode not in ("rb", "wb"):
            raise NotImplementedError(mode)
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    store = Bucket()
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: store)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    plain = checkpoints.Checkpoints.__init__

    def beside(self, folder, **kwargs):
        plain(self, epath.Path(tmp_path) / folder.name, **kwargs)

    monkeypatch.setattr(checkpoints.Checkpoints, "__init__", beside)
    return store


def test_a_run(bucket, capsys):
    ours, home = tree(), epath.Path("gs://bucket/run")
    run.run(ours, str(home))
    wanted = {"config.json", "metrics.jsonl", "summary.json", "report.md", "curves.png", "teacher", "student"}
    assert {file.name for file in home.iterdir()} == wanted
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert len({(r["phase"], r["split"], r["step"]) for r in rows}) == len(rows) >= 4
    assert json.loads((home / "summary.json").read_text())["phases"].keys() == {"teacher", "student"}
    before = {path: bytes(file.getbuffer()) for path, file in bucket.store.items()}
    run.run(ours, str(home))  # done: nothing changes
    assert before == {path: bytes(file.getbuffer()) for path, file in bucket.store.items()}
    (home / "student" / "DONE").unlink()
    run.run(ours, str(home))
    assert "student: resumed at step 2 of 2" in capsys.readouterr().out
    assert [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()] == rows
    with pytest.raises(InputError, match="holds another run: config.seed is 0 there and 7 here"):
        run.run(ours | {"seed": 7}, str(home))


def test_rows_wait_for_a_flush(bucket):
    log = metrics_log.MetricsLog(epath.Path("gs://bucket/metrics.jsonl"))
    row = {"phase": "a", "split": "train", "step": 1}
    log.add(row)
    log.add({**row, "step": 2})
    assert len(bucket.cat("gs://bucket/metrics.jsonl").splitlines()) == 1  # the second within a moment
    log.flush()
    assert metrics_log.MetricsLog(epath.Path("gs://bucket/metrics.jsonl")).rows == [row, {**row, "step": 2}]


def test_a_folder_moves(bucket):
    bucket.pipe({"gs://b/run/3/a": b"1", "gs://b/run/3/deep/c": b"2"})
    files.move(epath.Path("gs://b/run/3"), epath.Path("gs://b/run/damaged/3"))
    assert {p: bytes(f.getbuffer()) for p, f in bucket.store.items()} == {
        "/b/run/damaged/3/a": b"1", "/b/run/damaged/3/deep/c": b"2",
    }  # fmt: skip


def test_stores_that_are_not_there(monkeypatch):
    with pytest.raises(InputError, match=r"^nfs://x/y: unknown kind of folder; .* gs, s3, az://"):
        workdir.resolve_path("nfs://x/y")

    def missing(error):
        def fs(path):
            raise error

        monkeypatch.setattr(backend.fsspec_backend, "fs", fs)
        monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)

    missing(ImportError("no gcsfs"))
    home = workdir.Workdir("gs://b/run", {})
    with pytest.raises(
        InputError, match=r"^--workdir=gs://b/run: needs a package .* not installed; pip install gcsfs$"
    ):
        home.check(overwrite=False)
    missing(OSError("no credentials\nmore"))
    with pytest.raises(InputError, match=r"^--workdir=gs://b/run: cannot be reached \(no credentials\)$"):
        home.check(overwrite=False)


def test_a_folder_that_is_not_shared(tmp_path, monkeypatch):
    """Process 1 of two, whose disk does not hold what process 0 wrote."""
    monkeypatch.setattr(workdir, "SEEN", 0.01)
    for name, value in {"count": 2, "index": 1, "is_main": False}.items():
        monkeypatch.setattr(processes, name, lambda value=value: value)
    monkeypatch.setattr(processes, "all_max", lambda *numbers: numbers)
    home = workdir.Workdir(str(tmp_path / "run"), {})
    with pytest.raises(InputError, match="process 1 does not see what process 0 writes there"):
        home.opened(overwrite=False).__enter__()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with home.opened(overwrite=False):
        pass
