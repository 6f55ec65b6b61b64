"""SKD: softening, simplifier, temperature, and in front of other losses.

python launch/sweep.py --sweep=configs/sweeps/skd.py:resnet20,resnet8 --workdir=runs/sweep_skd \\
  --config.data.name=fashion_mnist
"""

CONFIG = "configs/skd.py"
SEEDS = 3
BASELINE = "KD"

SKD = "student.refine.skd"
DEGREE = {f"{SKD}.simplifier": "degree", f"{SKD}.rate": 1.0}
SYMMETRIC = {
    f"{SKD}.student_temperature": None, "student.terms.ce.weight": 0.1, "student.terms.kd.weight": 0.9
}  # fmt: skip


def sweep():
    """KD, the default and its parts, temperatures, SKD in front of DKD, ReviewKD and CRD beside each alone."""
    yield {"name": "KD", "config": "configs/kd.py"}
    yield {"name": "SKD"}
    for simplifier in ("none", "batch"):
        yield {"name": f"SKD, simplifier {simplifier}", f"{SKD}.simplifier": simplifier}
    yield {"name": "SKD, both sides softened", **SYMMETRIC}
    annealed = "configs/skd_annealed.py"
    yield {"name": "SKD, annealed 8 to 1", "config": annealed}
    yield {"name": "SKD, annealed by attention", "config": annealed, **DEGREE}
    for temperature in (2.0, 8.0):
        yield {"name": f"SKD, T = {temperature:g}", f"{SKD}.temperature": temperature}
    for host in ("dkd", "reviewkd", "crd"):
        yield {"name": host, "config": f"configs/compose.py:{host}"}
        yield {"name": f"SKD + {host}", "config": f"configs/compose.py:skd+{host}"}
