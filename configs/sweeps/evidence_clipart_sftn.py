"""Few labelled drawings in colour, an SFTN teacher: rows for the folder of configs/sweeps/evidence_clipart.py.

python launch/sweep.py --sweep=configs/sweeps/evidence_clipart_sftn.py:resnet20,resnet8 --workdir=runs/few_clipart \\
  --config.data.name=folder:data/clipart --config.data.subset=500 --config.teacher.weights=runs/clipart_sftn.safetensors
"""

from configs.sweeps import evidence_sftn
from configs.sweeps.evidence_clipart import CONFIG, SEEDS, TUNED

__all__ = ["CONFIG", "SEEDS", "sweep"]


def sweep():
    """The rows of Fashion-MNIST, but for KD's weight."""
    yield from evidence_sftn.rows(40, TUNED)
