"""Which weight of SKD's loss suits my data: five weights on a fifth of it, two seeds; the report names the highest.

python launch/sweep.py --sweep=configs/sweeps/weights_for_my_data.py:resnet20,resnet8 --workdir=runs/weights \\
  --config.data.name=fashion_mnist
"""

CONFIG = "configs/skd.py"
SEEDS = 2
BASELINE = "weight 20"


def sweep():
    """Weights on a stratified fifth of the training set, a quarter of the epochs, the rate along a cosine."""
    for weight in (1.0, 5.0, 20.0, 50.0, 100.0):
        yield {
            "name": f"weight {weight:g}", "student.terms.kd.weight": weight, "data.subset": 0.2,
            "data.synthetic.classes": 10,  # under smoke: a fifth of 64 images has no more
            "teacher.epochs": 60, "student.epochs": 60,
            "teacher.schedule.name": "cosine", "student.schedule.name": "cosine",
        }  # fmt: skip
