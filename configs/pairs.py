"""What the papers choose by pair of networks, in one place."""

# DKD's beta (mdistiller's configs); 8 for any pair not listed
DKD_BETA = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet32x4", "resnet8x4"): 8.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "mobilenetv2"): 6.0,
}


def dkd_beta(teacher: str, student: str) -> float:
    """DKD's beta for a pair, letter case aside; 8, the most frequent one, where none was published."""
    return DKD_BETA.get((teacher.lower(), student.lower()), 8.0)


# the pairs of the papers' CIFAR tables and, for SFTN, where the branches of the student leave the teacher and
# enter the student, by index in `Outputs.stages`; all but the stem and the last stage, from the output side.
# The paper's own cuts are not available: this reading is ours.
_THREE, _FOUR = "1:1,2:2", "1:1,2:2,3:3"
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
    ("resnet32x4", "MobileNetV2"): "1:2,2:3",
    ("wrn_40_2", "ShuffleV1"): _THREE,
    ("wrn_40_2", "ShuffleV2"): _THREE,
}
PAIRS = tuple(SFTN_STAGES)


def sftn_stages(teacher: str, student: str) -> str:
    """The branches of a pair, letter case aside; "" (paired from the output side) for one not listed."""
    known = {(a.lower(), b.lower()): stages for (a, b), stages in SFTN_STAGES.items()}
    return known.get((teacher.lower(), student.lower()), "")
