"""What the papers choose by pair of networks, in one place. Of the ImageNet pairs, with what every method has there (in
its own config), published are: KD, DKD, AT, CRD, ReviewKD, OFD, DOT (mdistiller's configs), DIST, MLLD, CAT-KD and
LSKD's KD (their authors' configs), all for convolutional networks. Our choice: whatever a method has in no such
config, and everything for vision transformers. kd_jax.recipes has the phases' recipes."""


def of(table: dict, pair: tuple, otherwise):
    """What a table says of (teacher, student, ...), letter case aside; `otherwise` for a pair that is not listed."""
    lowered = {(a.lower(), b.lower()): value for (a, b), value in table.items()}
    return lowered.get((pair[0].lower(), pair[1].lower()), otherwise)


def batch(pair, size: int) -> dict:
    """Changes of the student's phase for methods with smaller batches on ImageNet, the learning rate in proportion as
    published: 256 with 0.1 (CRD, ReviewKD, DIST), 128 with 0.05 (OFD). Nothing for other pairs or transformers."""
    if not pair.large or pair.tokens:
        return {}
    return {"batch_size": size, "optim.lr": 0.2 * size / 512}


# DKD's beta (mdistiller's configs; 110 to 20 from RLD's repository, wrn_40_2 to MobileNetV2 from SDD's paper); for any
# pair not listed 8, on ImageNet 0.5
DKD_BETA = {
    ("imagenet_ResNet34", "imagenet_ResNet18"): 0.5,
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): 2.0,
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet110", "resnet20"): 2.0,
    ("resnet32x4", "resnet8x4"): 8.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("wrn_40_2", "MobileNetV2"): 6.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "MobileNetV2"): 6.0,
}


def dkd(pair) -> dict:
    """What DKD's recipe sets: beta by pair, the ramp; on ImageNet T = 1 too."""
    ramp = {"warmup_epochs": 1, "temperature": 1.0} if pair.large else {"warmup_epochs": 20}
    return {"beta": of(DKD_BETA, pair, 0.5 if pair.large else 8.0), **ramp}


# TTM's gamma and weight, and WTTM's weight at the same gamma (its paper's tables); for any pair not listed those of
# resnet32x4 and resnet8x4, on ImageNet those of ResNet34 and ResNet18. Of ImageNet only WTTM's are published
TTM = {
    ("wrn_40_2", "wrn_16_2"): (0.1, 101.0, 4.0),
    ("wrn_40_2", "wrn_40_1"): (0.1, 76.0, 3.0),
    ("resnet56", "resnet20"): (0.3, 7.0, 1.5),
    ("resnet110", "resnet20"): (0.2, 8.0, 2.0),
    ("resnet110", "resnet32"): (0.1, 33.0, 1.5),
    ("resnet32x4", "resnet8x4"): (0.1, 100.0, 3.0),
    ("vgg13", "vgg8"): (0.1, 45.0, 2.25),
    ("vgg13", "MobileNetV2"): (0.2, 16.0, 3.0),
    ("ResNet50", "MobileNetV2"): (0.2, 20.0, 5.0),
    ("ResNet50", "vgg8"): (0.1, 70.0, 2.0),
    ("resnet32x4", "ShuffleV1"): (0.2, 12.0, 1.4),
    ("resnet32x4", "ShuffleV2"): (0.4, 40.0, 16.0),
    ("wrn_40_2", "ShuffleV1"): (0.3, 8.0, 3.0),
    ("imagenet_ResNet34", "imagenet_ResNet18"): (0.8, 1.6, 1.6),
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): (0.7, 3.5, 3.5),
}


def ttm(pair) -> tuple[float, float, float]:
    """gamma, TTM's weight, WTTM's weight."""
    return of(TTM, pair, (0.8, 1.6, 1.6) if pair.large else (0.1, 100.0, 3.0))


# NormKD in front of DKD: scale, alpha and beta (its authors' configs); for any pair not listed those of resnet32x4 and
# resnet8x4, on ImageNet those of ResNet34 and ResNet18
NORMKD = {
    ("resnet32x4", "resnet8x4"): (2.0, 4.0, 5.0),
    ("wrn_40_2", "wrn_16_2"): (2.0, 4.0, 5.0),
    ("resnet32x4", "ShuffleV2"): (2.0, 4.0, 5.0),
    ("wrn_40_2", "ShuffleV1"): (2.0, 4.0, 5.0),
    ("vgg13", "MobileNetV2"): (2.0, 3.0, 6.0),
    ("wrn_40_2", "wrn_40_1"): (2.0, 3.0, 6.0),
    ("vgg13", "vgg8"): (2.0, 2.0, 7.0),
    ("ResNet50", "MobileNetV2"): (2.0, 2.0, 7.0),
    ("resnet56", "resnet20"): (2.0, 7.0, 2.0),
    ("resnet110", "resnet32"): (2.0, 5.0, 4.0),
    ("resnet32x4", "ShuffleV1"): (2.0, 0.5, 8.5),
    ("imagenet_ResNet34", "imagenet_ResNet18"): (0.5, 1.0, 1.0),
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): (0.75, 1.0, 1.0),
}


def normkd(pair) -> tuple[float, float, float]:
    """Scale, alpha, beta beside DKD."""
    return of(NORMKD, pair, (0.5, 1.0, 1.0) if pair.large else (2.0, 4.0, 5.0))


# WKD-F's weight, ratio and grid (its README); for any pair not listed those of the first one, on ImageNet of the third
WKD_F = {
    ("resnet32x4", "resnet8x4"): (0.08, 4.0, 1),
    ("wrn_40_2", "ShuffleV1"): (0.3, 3.0, 4),
    ("imagenet_ResNet34", "imagenet_ResNet18"): (0.02, 2.0, 4),
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): (0.005, 2.0, 4),
}

# WKD-L's gamma, T and sharpness (its README); likewise
WKD_L = {
    ("resnet32x4", "resnet8x4"): (600.0, 8.0, 1.0),
    ("wrn_40_2", "ShuffleV1"): (200.0, 6.0, 1.0),
    ("imagenet_ResNet34", "imagenet_ResNet18"): (30.0, 2.0, 1.0),
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): (25.0, 2.0, 2.0),
}

# FCFD's T and the weight of its maps where they are not 4 and 5 (its authors' configs); on ImageNet those of ResNet34
# and ResNet18 for any pair not listed
FCFD = {
    ("resnet32x4", "ShuffleV1"): (8.0, 5.0),
    ("resnet32x4", "ShuffleV2"): (8.0, 5.0),
    ("ResNet50", "MobileNetV2"): (8.0, 5.0),
    ("resnet56", "resnet20"): (4.0, 0.02),
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): (1.0, 5.0),
}


def sdd_scales(pair) -> tuple[int, ...]:
    """SDD's grids: 1 and 2 cells a side where teacher and student are of one kind, 4 too where not (its paper)."""
    kinds = {name.lower().removeprefix("imagenet_").rstrip("0123456789x_") for name in pair[:2]}
    return (1, 2) if len({kind.partition("_")[0] for kind in kinds}) == 1 else (1, 2, 4)


# DeepKD's delta beside KD (its authors' configs); 0.075 for any pair not listed
DEEPKD = {
    ("wrn_40_2", "ShuffleV1"): 0.085,
    ("wrn_40_2", "wrn_16_2"): 0.085,
    ("wrn_40_2", "wrn_40_1"): 0.05,
    ("resnet110", "resnet32"): 0.05,
    ("vgg13", "vgg8"): 0.05,
    ("resnet56", "resnet20"): 0.025,
    ("ResNet50", "MobileNetV2"): 0.025,
    ("vgg13", "MobileNetV2"): 0.095,
}

# RLD's settings where its repository's README has them, and beta on ImageNet (its authors' configs); for any pair not
# listed 0.5
RLD = {("vgg13", "vgg8"): {"beta": 8.0, "confidence_temperature": None}}
RLD_LARGE = {("imagenet_ResNet50", "imagenet_MobileNetV1"): 2.0}

# SoKD's epochs of search (a public working copy of its code); 20 for any pair not listed, on ImageNet 5
SOKD_SEARCH = {("resnet32x4", "resnet8x4"): 50, ("vgg13", "vgg8"): 10}

# ReviewKD's weight (its authors' script; of the last three we have it from memory); 1 for any pair not listed
REVIEWKD_WEIGHT = {
    ("imagenet_ResNet34", "imagenet_ResNet18"): 1.0,  # these two: mdistiller's configs
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): 8.0,
    ("resnet56", "resnet20"): 0.6,
    ("resnet110", "resnet32"): 1.0,
    ("resnet32x4", "resnet8x4"): 5.0,
    ("resnet32x4", "ShuffleV1"): 5.0,
    ("resnet32x4", "ShuffleV2"): 8.0,
    ("wrn_40_2", "wrn_16_2"): 5.0,
    ("wrn_40_2", "wrn_40_1"): 5.0,
    ("wrn_40_2", "ShuffleV1"): 5.0,
    ("vgg13", "vgg8"): 5.0,
    ("vgg13", "MobileNetV2"): 8.0,
    ("ResNet50", "MobileNetV2"): 8.0,
}

# ReviewKD's largest width where it is not 512 (mdistiller's configs)
REVIEWKD_WIDTH = {("imagenet_ResNet50", "imagenet_MobileNetV1"): 256}

# LSKD's base temperature and KD weight (its authors' log names); 2 and 9 for any pair not listed
LSKD_KD = {
    ("resnet110", "resnet20"): (4.0, 12.0),
    ("resnet32x4", "wrn_16_2"): (3.0, 9.0),
    ("resnet32x4", "wrn_40_2"): (3.0, 9.0),
    ("wrn_40_2", "MobileNetV2"): (3.0, 9.0),
    ("vgg13", "vgg8"): (3.0, 9.0),
    ("vgg13", "MobileNetV2"): (3.0, 9.0),
    ("ResNet50", "MobileNetV2"): (3.0, 1.0),
}
# the same in front of DKD, whose alpha and beta are both times the weight, and beta before that; 2, 9 and
# DKD's own beta for any pair not listed
LSKD_DKD = {
    ("resnet56", "resnet20"): (3.0, 18.0, 2.0),
    ("resnet110", "resnet32"): (2.0, 15.0, 2.0),
    ("resnet110", "resnet20"): (2.0, 15.0, 2.0),
    ("resnet32x4", "wrn_16_2"): (2.0, 9.0, 2.0),
    ("resnet32x4", "wrn_40_2"): (2.0, 9.0, 8.0),
    ("wrn_40_2", "wrn_16_2"): (2.0, 12.0, 2.0),
    ("wrn_40_2", "wrn_40_1"): (2.0, 12.0, 2.0),
    ("wrn_40_2", "resnet8x4"): (2.0, 18.0, 2.0),
    ("wrn_40_2", "MobileNetV2"): (2.0, 15.0, 2.0),
    ("vgg13", "vgg8"): (2.0, 15.0, 2.0),
    ("vgg13", "MobileNetV2"): (3.0, 9.0, 2.0),
    ("ResNet50", "MobileNetV2"): (2.0, 15.0, 2.0),
}

# MLLD's learning rate and epochs (its authors' configs); 0.025 and 240 for any pair not listed
MLLD = {
    ("vgg13", "MobileNetV2"): (0.01, 480),
    ("ResNet50", "MobileNetV2"): (0.01, 480),
    ("wrn_40_2", "ShuffleV1"): (0.01, 480),
    ("resnet32x4", "ShuffleV1"): (0.01, 960),
    ("resnet32x4", "ShuffleV2"): (0.01, 960),
}
# MLLD's learning rate on ImageNet (its authors' configs)
MLLD_LARGE = {("imagenet_ResNet34", "imagenet_ResNet18"): 0.1, ("imagenet_ResNet50", "imagenet_MobileNetV1"): 0.2}
# behind LSKD: learning rate, epochs and weight (LSKD's configs and log names); 0.025, 480 and 9 for any not listed
LSKD_MLLD = {
    ("vgg13", "vgg8"): (0.01, 480, 6.0),
    ("vgg13", "MobileNetV2"): (0.01, 480, 6.0),
    ("ResNet50", "MobileNetV2"): (0.01, 480, 9.0),
    ("resnet32x4", "MobileNetV2"): (0.01, 480, 9.0),
    ("wrn_40_2", "MobileNetV2"): (0.005, 480, 9.0),
    ("wrn_40_2", "ShuffleV1"): (0.01, 480, 9.0),
    ("resnet32x4", "ShuffleV1"): (0.01, 960, 9.0),
    ("resnet32x4", "ShuffleV2"): (0.01, 960, 6.0),
}

# CAT-KD's settings (its authors' configs); the method's defaults for any pair not listed
CAT_KD = {
    ("imagenet_ResNet34", "imagenet_ResNet18"): {"weight": 0.5, "resolution": 4, "normalize": False},
    # its file is called r50_mv2, its paper's pair this one
    ("imagenet_ResNet50", "imagenet_MobileNetV1"): {"weight": 10.0, "resolution": 2, "normalize": True},
    ("resnet56", "resnet20"): {"weight": 0.7, "resolution": 2, "normalize": False},
    ("resnet110", "resnet32"): {"weight": 1.8, "resolution": 2, "normalize": False},
    ("resnet32x4", "resnet8x4"): {"weight": 15.0, "resolution": 2, "normalize": False},
    ("resnet32x4", "ShuffleV1"): {"weight": 600.0, "resolution": 4, "normalize": True},
    ("resnet32x4", "ShuffleV2"): {"weight": 600.0, "resolution": 4, "normalize": True},
    ("wrn_40_2", "wrn_16_2"): {"weight": 12.0, "resolution": 2, "normalize": False},
    ("wrn_40_2", "wrn_40_1"): {"weight": 1.5, "resolution": 2, "normalize": False},
    ("wrn_40_2", "ShuffleV1"): {"weight": 80.0, "resolution": 4, "normalize": True},
    ("vgg13", "vgg8"): {"weight": 4.5, "resolution": 2, "normalize": False},
    ("vgg13", "MobileNetV2"): {"weight": 15.0, "resolution": 2, "normalize": True},
    ("ResNet50", "MobileNetV2"): {"weight": 40.0, "resolution": 2, "normalize": True},
}

# the pairs of the papers' CIFAR tables and, for SFTN, where the branches of the student leave the teacher and
# enter the student, by index in `Outputs.stages`; all but the stem and the last stage, from the output side.
# The paper's own cuts are not available: this reading is ours.
_THREE, _FOUR = ("1:1", "2:2"), ("1:1", "2:2", "3:3")
SFTN_STAGES = {
    ("resnet56", "resnet20"): _THREE,
    ("resnet110", "resnet20"): _THREE,
    ("resnet110", "resnet32"): _THREE,
    ("resnet32x4", "resnet8x4"): _THREE,
    ("wrn_40_2", "wrn_16_2"): _THREE,
    ("wrn_40_2", "wrn_40_1"): _THREE,
    ("vgg13", "vgg8"): _FOUR,
    ("vgg13", "MobileNetV2"): _FOUR,
    ("ResNet50", "MobileNetV2"): _FOUR,
    ("ResNet50", "vgg8"): _FOUR,
    ("resnet32x4", "ShuffleV1"): _THREE,
    ("resnet32x4", "ShuffleV2"): _THREE,
    ("resnet32x4", "MobileNetV2"): ("1:2", "2:3"),
    ("wrn_40_2", "ShuffleV1"): _THREE,
    ("wrn_40_2", "ShuffleV2"): _THREE,
}
PAIRS = tuple(SFTN_STAGES)
