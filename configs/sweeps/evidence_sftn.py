"""Few labelled images, an SFTN teacher: rows for the folder of configs/sweeps/evidence.py.

python launch/sweep.py --sweep=configs/sweeps/evidence_sftn.py:resnet20,resnet8 --workdir=runs/few \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/sftn.safetensors
"""

from configs.sweeps.evidence import CONFIG, HEAVY, SEEDS, TUNED, ramp, short

__all__ = ["CONFIG", "SEEDS", "sweep"]


def rows(epochs: int, tuned: dict):
    """KD, tuned KD, DKD and SKD from a teacher that was trained with branches of the student."""
    for row in (
        {"name": "SFTN + KD"},
        {"name": "SFTN + KD, tuned", **tuned},
        {"name": "SFTN + DKD", "config": "configs/dkd.py", **ramp(epochs)},
        {"name": "SFTN + SKD", "config": "configs/skd.py"},
        {"name": "SFTN + SKD + DKD", "config": "configs/compose.py:skd+dkd", **ramp(epochs)},
        {"name": "SFTN + SKD + DKD, weight 6", "config": "configs/compose.py:skd+dkd", **ramp(epochs), **HEAVY},
    ):
        yield short(epochs) | row


def sweep():
    """Twenty epochs."""
    yield from rows(20, TUNED)
