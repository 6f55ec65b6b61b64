"""What the papers choose by pair of networks, in one place."""

# DKD's beta (mdistiller's configs); 8 for any pair not listed
DKD_BETA = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("resnet32x4", "resnet8x4"): 8.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
}


def dkd_beta(teacher: str, student: str) -> float:
    """DKD's beta for a pair, letter case aside; 8, the most frequent one, where none was published."""
    return DKD_BETA.get((teacher.lower(), student.lower()), 8.0)
