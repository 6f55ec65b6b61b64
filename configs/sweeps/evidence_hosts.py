"""Few labelled images, SKD in front of LSKD, DKD and ReviewKD: rows for the folder of configs/sweeps/evidence.py.

python launch/sweep.py --sweep=configs/sweeps/evidence_hosts.py:resnet20,resnet8 --workdir=runs/few \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
DKD alone and behind SKD are rows of that file, ReviewKD alone is one of evidence_features.py. LSKD standardises the
logits, so of SKD only the simplifier is left in front of it. ReviewKD does not read logits: SKD brings its KD along,
and the row to compare with has tuned KD beside it.
"""

from configs.sweeps.evidence import CONFIG, RAMP, SEEDS, SHORT, TUNED
from configs.sweeps.evidence_features import REVIEW_RAMP

__all__ = ["CONFIG", "SEEDS", "sweep"]


def sweep():
    """LSKD alone and behind SKD, DKD behind annealed softening, ReviewKD with tuned KD and with both forms of SKD."""
    compose = "configs/compose.py"
    yield SHORT | {"name": "LSKD", "config": "configs/lskd.py"}
    yield SHORT | {"name": "SKD + LSKD", "config": f"{compose}:skd+lskd"}
    yield SHORT | {"name": "SKD, annealed + DKD", "config": f"{compose}:skd_annealed+dkd", **RAMP}
    yield SHORT | {"name": "KD, tuned + ReviewKD", "config": f"{compose}:kd+reviewkd", **TUNED, **REVIEW_RAMP}
    yield SHORT | {"name": "SKD + ReviewKD", "config": f"{compose}:skd+reviewkd", **REVIEW_RAMP}
    yield SHORT | {"name": "SKD, annealed + ReviewKD", "config": f"{compose}:skd_annealed+reviewkd", **REVIEW_RAMP}
