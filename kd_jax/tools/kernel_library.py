"""Which library computes convolutions on a CPU.

XLA hands them to YNNPACK unless a flag says otherwise. On x86 CPUs with AVX2 Eigen's are faster: of the time of a step
of KD (resnet32x4 to resnet8x4, batch 64) they take 0.4 with jax 0.10 and 0.65 with jax 0.12 without AVX-512, and 0.75
with AVX-512 and jax 0.10; a MobileNetV2 student (vgg13 as its teacher) is level there, as far as four rounds can say.
So the rule asks the CPU and not a clock: results depend on the library in their last bits, and a measurement on a busy
machine would choose now one and now the other.
"""

import os
import platform
from importlib import metadata

from kd_jax.distributed import xla_flags
from kd_jax.distributed.cpu import cpu_info

# jaxlib's versions that have the flag: an unknown one in XLA_FLAGS ends the process
OLDEST, NEWEST = (0, 10), (0, 12)


def choose() -> None:
    """Leave convolutions to Eigen where that is faster, by XLA_FLAGS; before a device is asked for.

    Nothing changes where the user has chosen, where JAX_PLATFORMS asks for something else than a CPU first, for a
    jaxlib that may not know the flag, and for CPUs on which nobody has measured.
    """
    chosen = xla_flags.value(xla_flags.CPU_KERNELS) is not None
    wanted = os.environ.get("JAX_PLATFORMS", "").partition(",")[0] in ("", "cpu")
    if wanted and not chosen and _has_flag() and _has_avx2():
        xla_flags.add(xla_flags.CPU_KERNELS, xla_flags.EIGEN)


def _has_flag() -> bool:
    version = metadata.version("jaxlib").split(".")
    return OLDEST <= tuple(map(int, version[:2])) <= NEWEST


def _has_avx2() -> bool:
    """Whether this is an x86 CPU with AVX2; False where the system does not say."""
    features = cpu_info().get("flags", "").split()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and "avx2" in features
