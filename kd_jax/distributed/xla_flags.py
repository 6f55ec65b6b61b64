"""What XLA_FLAGS says. XLA reads the variable once, when the first device is asked for."""

import os

VARIABLE = "XLA_FLAGS"
CPU_KERNELS = "xla_cpu_experimental_ynn_fusion_type"  # which operations of a CPU go to YNNPACK
EIGEN = "REDUCE"  # a value of it: YNNPACK computes reductions alone. Any that leaves convolutions out would do
DETERMINISTIC = "xla_gpu_deterministic_ops"


def value(name: str) -> str | None:
    """The value of a flag, "true" where it stands without one; None where the variable does not name it. The last one
    counts."""
    last = None
    for flag in os.environ.get(VARIABLE, "").split():
        key, given, text = flag.lstrip("-").partition("=")
        if key == name:
            last = text if given else "true"
    return last


def add(name: str, text: str) -> None:
    """Give a flag a value, in place of an earlier one."""
    os.environ[VARIABLE] = f"{os.environ.get(VARIABLE, '')} --{name}={text}".strip()
