"""Forms of SKD beside tuned KD and DKD, ten seeds on which nothing was chosen.

python launch/sweep.py --sweep=configs/sweeps/evidence_skd.py:resnet20,resnet8 --workdir=runs/forms \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors \\
  --config.student.epochs=20 --config.student.schedule.name=cosine --config.eval.every=20 --first_seed=200
Length and schedule are flags; docs/evidence.md has it at ten classes and on a task of a hundred.
"""

from configs.sweeps.evidence import CONFIG, RAMP, TUNED
from configs.sweeps.skd import DEGREE, SKD

__all__ = ["CONFIG", "sweep"]

SEEDS = 10
BASELINE = "KD, tuned"


def sweep():
    """Tuned KD, DKD, SKD's default, its softening alone, constant and annealed by schedule and by attention."""
    skd, annealed = "configs/skd.py", "configs/skd_annealed.py"
    yield {"name": "KD, tuned", **TUNED}
    yield {"name": "DKD", "config": "configs/dkd.py", **RAMP}
    yield {"name": "SKD", "config": skd}
    yield {"name": "SKD, softening alone", "config": skd, f"{SKD}.simplifier": "none"}
    yield {"name": "SKD, annealed", "config": annealed}
    yield {"name": "SKD, annealed by attention", "config": annealed, **DEGREE}
