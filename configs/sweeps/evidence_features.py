"""Few labelled images, feature methods alone and behind SoKD: rows for the folder of configs/sweeps/evidence.py.

python launch/sweep.py --sweep=configs/sweeps/evidence_features.py:resnet20,resnet8 --workdir=runs/few \\
  --config.data.name=fashion_mnist --config.data.subset=2000 --config.teacher.weights=runs/standard.safetensors
"""

from configs.sweeps.evidence import CONFIG, SEEDS, SHORT

__all__ = ["CONFIG", "SEEDS", "sweep"]

# 20 of 240 epochs, in proportion
SEARCH = {"student.refine.dafa.search_epochs": 2}
REVIEW_RAMP = {"student.terms.reviewkd.warmup_epochs": 2.0}


def sweep():
    """FitNet and ReviewKD, alone and with SoKD's refined features."""
    for host, name, ramp in (("fitnet", "FitNet", {}), ("reviewkd", "ReviewKD", REVIEW_RAMP)):
        yield SHORT | {"name": name, "config": f"configs/compose.py:{host}", **ramp}
        yield SHORT | {"name": f"SoKD + {name}", "config": f"configs/compose.py:sokd+{host}", **ramp, **SEARCH}
