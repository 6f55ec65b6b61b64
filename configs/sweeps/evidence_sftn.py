"""Few labelled images, an SFTN teacher: rows for the folder of configs/sweeps/evidence.py.

python launch/sweep.py --sweep=configs/sweeps/evidence_sftn.py:resnet20,resnet8 --workdir=runs/few \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/sftn.safetensors
"""

from configs.sweeps.evidence import CONFIG, HEAVY, RAMP, SEEDS, SHORT, TUNED

__all__ = ["CONFIG", "SEEDS", "sweep"]


def sweep():
    """KD, tuned KD, DKD and SKD from a teacher that was trained with branches of the student."""
    yield SHORT | {"name": "SFTN + KD"}
    yield SHORT | {"name": "SFTN + KD, tuned", **TUNED}
    yield SHORT | {"name": "SFTN + DKD", "config": "configs/dkd.py", **RAMP}
    yield SHORT | {"name": "SFTN + SKD", "config": "configs/skd.py"}
    yield SHORT | {"name": "SFTN + SKD + DKD", "config": "configs/compose.py:skd+dkd", **RAMP}
    yield SHORT | {"name": "SFTN + SKD + DKD, weight 6", "config": "configs/compose.py:skd+dkd", **RAMP, **HEAVY}
