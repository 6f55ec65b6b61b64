"""ImageNet as published: ResNet34 to ResNet18 and ResNet50 to MobileNetV1, 100 epochs, one seed.

python launch/sweep.py --sweep=configs/sweeps/imagenet.py --workdir=runs/imagenet --config.data.dir=DIR --dry_run
"""

CONFIG = "configs/kd.py"
SEEDS = 1
PAIRS = ("imagenet_ResNet34,imagenet_ResNet18", "imagenet_ResNet50,imagenet_MobileNetV1")


def sweep():
    """Every method for both pairs."""
    for pair in PAIRS:
        for method in ("kd", "at", "ofd", "crd", "reviewkd", "dkd", "dist", "skd", "sftn", "sokd_fitnet"):
            yield {"name": f"{pair.replace(',', ' to ')}, {method}", "config": f"configs/{method}.py:{pair}"}
