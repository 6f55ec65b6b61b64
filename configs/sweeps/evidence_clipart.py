"""Few labelled drawings in colour: the rows of evidence.py on openclipart, forty epochs.

python launch/sweep.py --sweep=configs/sweeps/evidence_clipart.py:resnet20,resnet8 --workdir=runs/few_clipart \\
  --config.data.name=folder:data/clipart --config.data.subset=500 --config.teacher.weights=runs/clipart.safetensors
"""

from configs.sweeps import evidence
from configs.sweeps.evidence import BASELINE, CONFIG, SEEDS

__all__ = ["BASELINE", "CONFIG", "SEEDS", "sweep"]

TUNED = {"student.terms.ce.weight": 1.0, "student.terms.kd.weight": 8.0}  # best of eight on seeds 100 and 101


def sweep():
    """The rows of Fashion-MNIST, but for KD's weight."""
    yield from evidence.rows(40, TUNED)
