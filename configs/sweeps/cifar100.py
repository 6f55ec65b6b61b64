"""CIFAR-100 as published: ten pairs, the classics and the three papers, 240 epochs, three seeds.

python launch/sweep.py --sweep=configs/sweeps/cifar100.py --workdir=runs/cifar100 \\
  --config.data.dir=DIR --teacher_seed=0 --dry_run
"""

CONFIG = "configs/kd.py"
SEEDS = 3
PAIRS = (
    "resnet56,resnet20", "resnet110,resnet32", "resnet32x4,resnet8x4", "wrn_40_2,wrn_16_2", "wrn_40_2,wrn_40_1",
    "vgg13,vgg8", "vgg13,MobileNetV2", "resnet32x4,ShuffleV1", "resnet32x4,ShuffleV2", "wrn_40_2,ShuffleV1",
)  # fmt: skip
METHODS = ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "crd", "ofd", "reviewkd", "dkd", "dist", "skd")
OURS = ("sftn", "sokd_fitnet", "skd_dkd")


def sweep():
    """Every method for every pair."""
    for pair in PAIRS:
        for method in (*METHODS, *OURS):
            yield {"name": f"{pair.replace(',', ' to ')}, {method}", "config": f"configs/{method}.py:{pair}"}
