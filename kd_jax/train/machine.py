"""What a run computes on: what decides the last bits of its results beside its configuration."""

import hashlib
import json
import os
import platform
from importlib import metadata

import jax

from kd_jax import config
from kd_jax.distributed import xla_flags
from kd_jax.distributed.cpu import cpu_info
from kd_jax.distributed.mesh import Layout
from kd_jax.typing import InputError


def describe_device() -> dict:
    """platform, kind and count of the devices; cpu_kernels, the value of XLA's flag for a CPU's kernels, and
    deterministic, whether a GPU's operations are. Both are None where the platform has no such choice."""
    device, value = jax.devices()[0], xla_flags.value
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "cpu_kernels": (value(xla_flags.CPU_KERNELS) or "default") if device.platform == "cpu" else None,
        "deterministic": is_deterministic() if device.platform == "gpu" else None,
    }


def is_deterministic() -> bool:
    """Whether XLA_FLAGS asks for deterministic operations on a GPU."""
    return (xla_flags.value(xla_flags.DETERMINISTIC) or "").lower() in ("true", "1")


def kernels_line() -> str | None:
    """One line on what computes a CPU's convolutions, where that is not XLA's own choice."""
    if jax.default_backend() != "cpu" or xla_flags.value(xla_flags.CPU_KERNELS) != xla_flags.EIGEN:
        return None
    flag = f"--{xla_flags.CPU_KERNELS}={xla_flags.EIGEN}"
    return f"CPU kernels: convolutions by Eigen, in place of YNNPACK (XLA_FLAGS={flag})"


def check_deterministic(recipe: config.Recipe) -> None:
    """Refuse `deterministic` on a GPU where XLA was not told in time.

    Raises:
      InputError: it says what to do.
    """
    if recipe.deterministic and jax.default_backend() == "gpu" and not is_deterministic():
        flag = f"--{xla_flags.DETERMINISTIC}=true"
        raise InputError(f"config.deterministic: True, but XLA_FLAGS does not say {flag}; start the process with it")


def fingerprint(layout: Layout, steps_per_call: int) -> dict:
    """What a checkpoint says of the machine that it was saved by; equal ones give equal bits.

    Args:
      layout: of the devices in use.
      steps_per_call: how many steps the phase takes in one program.
    """
    versions = {"jaxlib": metadata.version("jaxlib")}
    return {**describe_device(), "count": layout.count, **versions, "steps_per_call": steps_per_call}


def compiler() -> dict:
    """What compiles a program, by which options, for what: where all of it is equal, so are the bits that a program
    computes. The number of cores changes none (measured with one and two)."""
    device = jax.devices()[0]
    target = {"jaxlib": metadata.version("jaxlib"), "platform": device.platform, "device": device.device_kind}
    options = {"xla_flags": os.environ.get(xla_flags.VARIABLE, ""), "matmul": jax.config.jax_default_matmul_precision}
    return target | options | ({"cpu": _cpu()} if device.platform == "cpu" else {})


def _cpu() -> str:
    """A digest of what the processor can do: the compiler chooses instructions by that."""
    fields = cpu_info()
    if not fields:  # a system that says it elsewhere
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return hashlib.sha256(json.dumps({name: fields.get(name) for name in names}).encode()).hexdigest()


def difference(before: dict, now: dict) -> str | None:
    """What differs between two fingerprints, as a phrase; None where nothing does, or where one says nothing."""
    changed = [key for key in now if key in before and before[key] != now[key]]
    return "; ".join(f"{key} was {before[key]} and is {now[key]}" for key in changed) or None
