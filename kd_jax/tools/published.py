"""Top-1 on CIFAR-100 as others have published it: 240 epochs, batch 64; most sources do not say of which step.

Only what stands in a README or a paper that is named, under that recipe. Figures that we only remember are left out,
and so are those of methods with another recipe (480 epochs, Nesterov, stronger augmentation) or another loss.
"""

REPDISTILLER, MDISTILLER = "RepDistiller's README", "mdistiller's README"
DIST, LSKD = "DIST_KD's README", "logit-standardization-KD's README"
TTM, SDD = "TTM's paper", "SDD's paper"
LOGGED_LOWER = f"{SDD} (its repository's logs are lower for resnet8x4)"
PAIRS = (
    ("resnet56", "resnet20"), ("resnet110", "resnet32"), ("resnet32x4", "resnet8x4"), ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"), ("vgg13", "vgg8"), ("resnet32x4", "ShuffleV1"), ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"), ("vgg13", "MobileNetV2"), ("ResNet50", "MobileNetV2"), ("ResNet50", "vgg8"),
)  # fmt: skip
# recipe -> source, percent by pair
TOP1 = {
    "kd": (MDISTILLER, (70.66, 73.08, 73.33, 74.92, 73.54, 72.98, 74.07, 74.45, 74.83, 67.37, 67.35, 73.81)),
    "fitnet": (REPDISTILLER, (69.21, 71.06, 73.50, 73.58, 72.24, 71.02, 73.59, 73.54, 73.73, 64.14, 63.16, 70.69)),
    "at": (REPDISTILLER, (70.55, 72.31, 73.44, 74.08, 72.77, 71.43, 71.73, 72.73, 73.32, 59.40, 58.58, 71.84)),
    "sp": (REPDISTILLER, (69.67, 72.69, 72.94, 73.83, 72.43, 72.68, 73.48, 74.56, 74.52, 66.30, 68.08, 73.34)),
    "cc": (REPDISTILLER, (69.63, 71.48, 72.97, 73.56, 72.21, 70.71, 71.14, 71.29, 71.38, 64.86, 65.43, 70.25)),
    "vid": (REPDISTILLER, (70.38, 72.61, 73.09, 74.11, 73.30, 71.23, 73.38, 73.40, 73.61, 65.56, 67.57, 70.30)),
    "rkd": (REPDISTILLER, (69.61, 71.82, 71.90, 73.35, 72.22, 71.48, 72.28, 73.21, 72.21, 64.52, 64.43, 71.50)),
    "pkt": (REPDISTILLER, (70.34, 72.61, 73.64, 74.54, 73.45, 72.88, 74.10, 74.69, 73.89, 67.13, 66.52, 73.01)),
    "crd": (REPDISTILLER, (71.16, 73.48, 75.51, 75.48, 74.14, 73.94, 75.11, 75.65, 76.05, 69.73, 69.11, 74.30)),
    "dkd": (MDISTILLER, (71.97, 74.11, 76.32, 76.24, 74.81, 74.68, 76.45, 77.07, 76.70, 69.71, 70.35, None)),
    "dist": (DIST, (71.75, None, 76.31, None, 74.43, None, 76.34, 77.35, None, None, 68.66, None)),
    "lskd": (LSKD, (71.43, 74.17, 76.62, 76.11, 74.37, 74.36, None, 75.56, None, 68.61, 69.02, None)),
    "ttm": (TTM, (71.83, 73.97, 76.17, 76.23, 74.32, 74.33, 74.18, 76.57, 75.39, 68.98, 69.24, 74.87)),
    "wttm": (TTM, (71.92, 74.13, 76.06, 76.37, 74.58, 74.44, 74.37, 76.55, 75.42, 69.16, 69.59, 74.82)),
    "sdd_kd": (LOGGED_LOWER, (None, None, 76.63, None, None, None, 76.30, 76.67, 76.65, 68.79, 69.55, 74.89)),
    "sdd_dkd": (SDD, (None, None, None, None, None, None, 77.30, 78.05, 77.21, 70.25, 71.36, 75.86)),
}


def table() -> str:
    """All of them in Markdown."""
    head = ("recipe", *(f"{teacher} to {student}" for teacher, student in PAIRS), "source")
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * len(PAIRS)} --- |"]
    for name, (source, figures) in TOP1.items():
        cells = (name, *("" if figure is None else f"{figure:.2f}" for figure in figures), source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def published(config: dict, phase: str) -> tuple[float, str] | None:
    """The published figure of a run in percent, and its source; None where there is none for what was trained.

    Args:
      config: resolved configuration of the run.
      phase: of it.
    """
    section = config[phase]
    teacher = config.get(section["teacher"].removeprefix("phase:"), {})
    pair = (teacher.get("model", "").lower(), section["model"].lower())
    names = [tuple(name.lower() for name in each) for each in PAIRS]
    whole = config["data"]["name"] == "cifar100" and not config["data"]["subset"] and section["steps"] is None
    if config["name"] not in TOP1 or pair not in names or not whole:
        return None
    if (section["epochs"], section["batch_size"]) != (240, 64):
        return None
    source, figures = TOP1[config["name"]]
    figure = figures[names.index(pair)]
    return None if figure is None else (figure, source)
