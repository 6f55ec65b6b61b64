"""SFTN: weight and temperature of the branches' losses, their capacity, and fine-tuning of a trained teacher.

python launch/sweep.py --sweep=configs/sweeps/sftn.py:resnet20,resnet8 --workdir=runs/sweep_sftn \\
  --config.data.name=fashion_mnist
"""

CONFIG = "configs/sftn.py"
SEEDS = 3
BASELINE = "standard teacher"

BRANCHES = "teacher.terms.sftn_branches"


def sweep():
    """A standard teacher; the recipe; its lambdas and temperature; branches of other students; 60 epochs of tuning."""
    yield {"name": "standard teacher", "config": "configs/kd.py"}
    yield {"name": "SFTN"}
    for weight in (1.0, 6.0):
        yield {"name": f"SFTN, KL of the branches x {weight:g}", f"{BRANCHES}.lambda_kl": weight}
    for temperature in (2.0, 4.0):
        yield {"name": f"SFTN, T of the branches {temperature:g}", f"{BRANCHES}.temperature": temperature}
    yield {"name": "SFTN, branches of resnet20", f"{BRANCHES}.student": "resnet20"}
    yield {"name": "SFTN, fine-tuned", "config": "configs/sftn_finetune.py"}
