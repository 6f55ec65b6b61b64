"""What the environment says is input: one line that names the variable, exit 2."""

import os

import pytest

from kd_jax import InputError
from kd_jax.tools import environment
from tests.commands import launch_fresh
from tests.tools.test_cli import SKD, SMALL

WRONG = {
    "an unknown flag of XLA": ({"XLA_FLAGS": "--xla_nonsense=1"}, "XLA_FLAGS=--xla_nonsense=1: ", "xla_nonsense"),
    "a wrong value for XLA": (
        {"XLA_FLAGS": "--xla_backend_optimization_level=low"},
        "XLA_FLAGS=--xla_backend_optimization_level=low: ",
        "xla_backend_optimization_level",
    ),
    "no GPU": ({"JAX_PLATFORMS": "cuda"}, "JAX_PLATFORMS=cuda: cannot use such a device here", ""),
    "an unknown platform": ({"JAX_PLATFORMS": "abacus"}, "JAX_PLATFORMS=abacus: cannot use", "abacus"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_command_blames_the_variable(case, tmp_path):
    variables, start, reason = WRONG[case]
    done = launch_fresh("train", SKD, f"--workdir={tmp_path / 'run'}", *SMALL, **variables)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {start}") and done.stderr.count("\n") == 1
    assert reason in done.stderr.removeprefix(f"error: {start}")
    assert not (tmp_path / "run").exists()


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "cache")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
    with pytest.raises(InputError, match=f"^JAX_COMPILATION_CACHE_DIR={folder}: cannot write in {folder}"):
        environment.use_compilation_cache()
    for accepted in ("", "gs://bucket/cache", str(tmp_path / "new" / "cache")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", accepted)
        environment.use_compilation_cache()
    assert os.listdir(tmp_path / "new" / "cache") == []


def test_a_home_that_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"^HOME={tmp_path / 'file'}: cannot write in .*JAX_COMPILATION_CACHE_DIR"):
        environment.use_compilation_cache()
    monkeypatch.setenv("HOME", "")
    with pytest.raises(InputError, match="^HOME: is empty; set it, or JAX_COMPILATION_CACHE_DIR"):
        environment.use_compilation_cache()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the user is in no list of users
    with pytest.raises(InputError, match="^HOME: is not set; "):
        environment.use_compilation_cache()


def test_flags_of_xla_that_are_right_pass(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    environment.check_xla_flags()


def test_devices_that_are_there_are_blamed_for_nothing(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert environment.without_devices() is None
    monkeypatch.delenv("JAX_PLATFORMS")
    assert environment.without_devices() is None
