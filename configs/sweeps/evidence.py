"""Few labelled images: SKD and its parts beside KD, tuned KD, DKD and DIST.

python launch/sweep.py --sweep=configs/sweeps/evidence.py:resnet20,resnet8 --workdir=runs/few \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
The teacher has seen all labels, its students those of the subset; docs/evidence.md has the commands that make it.
"""

from configs.sweeps.skd import SKD, SYMMETRIC

CONFIG = "configs/kd.py"
SEEDS = 5
BASELINE = "KD, tuned"

SHORT = {"student.epochs": 20, "student.schedule.name": "cosine", "eval.every": 20}
TUNED = {"student.terms.ce.weight": 1.0, "student.terms.kd.weight": 2.0}  # best of eight on seed 100: docs/evidence.md
HEAVY = {"student.terms.dkd.weight": 6.0}  # what configs/skd.py had before these runs
RAMP = {"student.terms.dkd.warmup_epochs": 2.0}  # 20 of 240 epochs, in proportion
LITERAL = {
    f"{SKD}.simplifier": "batch", f"{SKD}.bound": None, f"{SKD}.normalize": False, f"{SKD}.rate": 1.0, **SYMMETRIC
}  # fmt: skip


def sweep():
    """Alone, losses on logits, SKD whole and in parts."""
    skd, skd_dkd, annealed = "configs/skd.py", "configs/compose.py:skd+dkd", "configs/skd_annealed.py"
    yield SHORT | {"name": "alone", "student.terms.ce.weight": 1.0, "student.terms.kd.weight": 0.0}
    yield SHORT | {"name": "KD"}
    yield SHORT | {"name": "KD, tuned", **TUNED}
    yield SHORT | {"name": "DKD", "config": "configs/dkd.py", **RAMP}
    yield SHORT | {"name": "DIST", "config": "configs/dist.py"}
    yield SHORT | {"name": "SKD", "config": skd}
    yield SHORT | {"name": "SKD, softening alone", "config": skd, f"{SKD}.simplifier": "none"}
    yield SHORT | {"name": "SKD, simplifier alone", "config": skd, f"{SKD}.temperature": 1.0}
    yield SHORT | {"name": "SKD, annealed", "config": annealed}
    yield SHORT | {"name": "SKD, annealed, simplifier", "config": annealed, f"{SKD}.simplifier": "classes"}
    yield SHORT | {"name": "SKD, literal", "config": skd, **LITERAL}
    yield SHORT | {"name": "SKD + DKD", "config": skd_dkd, **RAMP}
    yield SHORT | {"name": "SKD + DKD, weight 6", "config": skd_dkd, **RAMP, **HEAVY}
