"""Which library computes convolutions on a CPU: a rule, and what it never overrules."""

import os
import platform

import pytest

from kd_jax.distributed import cpu, xla_flags
from kd_jax.tools import environment, kernel_library

AVX2, AVX512, OLD = "fpu sse avx avx2 fma", "fpu sse avx avx2 fma avx512f avx512vl", "fpu sse avx"
EIGEN = f"--{xla_flags.CPU_KERNELS}=REDUCE"

CASES = {
    "AVX2 alone": ({}, EIGEN),
    "AVX-512 too": ({"features": AVX512}, EIGEN),
    "nobody measured an older CPU": ({"features": OLD}, ""),
    "nobody measured another kind of CPU": ({"machine": "aarch64"}, ""),
    "the system does not say": ({"features": None}, ""),
    "the newest jaxlib that has the flag": ({"version": "0.12.0.1"}, EIGEN),
    "a newer jaxlib": ({"version": "0.13.0"}, ""),
    "an older jaxlib": ({"version": "0.9.2"}, ""),
    "another platform first": ({"JAX_PLATFORMS": "cuda,cpu"}, ""),
    "the CPU": ({"JAX_PLATFORMS": "cpu"}, EIGEN),
    "the user's other flags": ({"XLA_FLAGS": "--xla_a=1"}, f"--xla_a=1 {EIGEN}"),
    "the user's choice": ({"XLA_FLAGS": f"--{xla_flags.CPU_KERNELS}=DOT"}, f"--{xla_flags.CPU_KERNELS}=DOT"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_choice(case, tmp_path, monkeypatch):
    given, flags = CASES[case]
    given = {"features": AVX2, "machine": "x86_64", "version": "0.10.2", "JAX_PLATFORMS": "", "XLA_FLAGS": "", **given}
    info = tmp_path / "cpuinfo"
    if given["features"]:
        info.write_text(f"processor\t: 0\nflags\t\t: {given['features']}\n\nprocessor\t: 1\nflags\t\t: none\n")
    monkeypatch.setattr(cpu, "CPU_INFO", info)
    monkeypatch.setattr(platform, "machine", lambda: given["machine"])
    monkeypatch.setattr(kernel_library.metadata, "version", lambda name: given["version"])
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
        monkeypatch.setenv(name, given[name])
    kernel_library.choose()
    assert os.environ["XLA_FLAGS"] == flags


def test_this_jaxlib_takes_the_flag(monkeypatch):
    """An unknown one would end every command on such a CPU."""
    if kernel_library._has_flag():
        monkeypatch.setenv("XLA_FLAGS", EIGEN)
        environment.check_xla_flags()


def test_values_of_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_b --xla_a=2 --xla_ab=3")
    assert [xla_flags.value(name) for name in ("xla_a", "xla_b", "xla_ab", "xla")] == ["2", "true", "3", None]


def test_deterministic_operations_are_asked_for_once(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    for _ in range(2):
        environment.use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"
    environment.check_xla_flags()  # this jaxlib takes it
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    environment.use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=false"
