"""Few labelled images: SKD, its parts and SoKD beside KD, tuned KD, DKD, DIST and feature methods alone.

python launch/sweep.py --sweep=configs/sweeps/evidence.py:resnet20,resnet8 --workdir=runs/few \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
The teacher has seen all labels, its students those of the subset; docs/evidence.md has the commands that make it.
"""

from configs.sweeps.skd import SKD, SYMMETRIC

CONFIG = "configs/kd.py"
SEEDS = 5
BASELINE = "KD, tuned"

TUNED = {"student.terms.ce.weight": 1.0, "student.terms.kd.weight": 2.0}  # best of eight on seed 100: docs/evidence.md
HEAVY = {"student.terms.dkd.weight": 6.0}  # what configs/skd.py had before these runs
LITERAL = {
    f"{SKD}.simplifier": "batch", f"{SKD}.bound": None, f"{SKD}.normalize": False, f"{SKD}.rate": 1.0, **SYMMETRIC
}  # fmt: skip


def short(epochs: int) -> dict:
    """Students of so many epochs, the rate along a cosine, tested at the end."""
    return {"student.epochs": epochs, "student.schedule.name": "cosine", "eval.every": epochs}


def ramp(epochs: int) -> dict:
    """DKD's, in proportion: 20 of 240 epochs."""
    return {"student.terms.dkd.warmup_epochs": epochs / 10}


def rows(epochs: int, tuned: dict):
    """Alone, losses on logits, SKD whole and in parts, feature methods alone and behind SoKD."""
    skd, skd_dkd, annealed = "configs/skd.py", "configs/compose.py:skd+dkd", "configs/skd_annealed.py"
    of_dkd, search = ramp(epochs), {"student.refine.dafa.search_epochs": epochs // 10}
    for row in (
        {"name": "alone", "student.terms.ce.weight": 1.0, "student.terms.kd.weight": 0.0},
        {"name": "KD"},
        {"name": "KD, tuned", **tuned},
        {"name": "DKD", "config": "configs/dkd.py", **of_dkd},
        {"name": "DIST", "config": "configs/dist.py"},
        {"name": "SKD", "config": skd},
        {"name": "SKD, softening alone", "config": skd, f"{SKD}.simplifier": "none"},
        {"name": "SKD, simplifier alone", "config": skd, f"{SKD}.temperature": 1.0},
        {"name": "SKD, annealed", "config": annealed},
        {"name": "SKD, annealed, simplifier", "config": annealed, f"{SKD}.simplifier": "classes"},
        {"name": "SKD, literal", "config": skd, **LITERAL},
        {"name": "SKD + DKD", "config": skd_dkd, **of_dkd},
        {"name": "SKD + DKD, weight 6", "config": skd_dkd, **of_dkd, **HEAVY},
        {"name": "FitNet", "config": "configs/compose.py:fitnet"},
        {"name": "SoKD + FitNet", "config": "configs/compose.py:sokd+fitnet", **search},
        {"name": "ReviewKD", "config": "configs/compose.py:reviewkd"},
        {"name": "SoKD + ReviewKD", "config": "configs/compose.py:sokd+reviewkd", **search},
    ):
        yield short(epochs) | row


def sweep():
    """Twenty epochs."""
    yield from rows(20, TUNED)
