"""The cases of golden/reference.npz: tiny outputs of two networks, and parameters that are functions of their paths.

numpy only, as the script has no kd_jax.
"""

from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

FILE = Path(__file__).parent / "golden" / "reference.npz"
BATCH, CLASSES = 4, 5
STEP, STEPS_PER_EPOCH = 10, 3  # the fourth epoch
EMBEDDING = 7  # CC's and CRD's width
TRAINING = np.arange(15) % CLASSES  # labels of a training set; every example has 12 others
INDEX = np.array([5, 13, 1, 9])  # the batch's positions in it
IMAGE, PEER = (8, 8, 3), (2, 2, 3, 3)  # DML's images and the widths of its peer, a resnet8
CAMS = {"student": (4, 4), "teacher": (3, 3)}


class Net(NamedTuple):
    """What one network returns; here all are independent of one another. strong: its logits for the more strongly
    augmented images."""

    stages: list[np.ndarray]
    preacts: list[np.ndarray]
    pooled: np.ndarray
    logits: np.ndarray
    cam: np.ndarray
    strong: np.ndarray


STAGES = {  # setting -> student's and teacher's (H, W, C), the stem first
    "even": ([(4, 4, 2), (4, 4, 2), (2, 2, 3), (2, 2, 4)], [(4, 4, 3), (4, 4, 3), (2, 2, 4), (2, 2, 6)]),
    "uneven": ([(4, 4, 2), (4, 4, 2), (4, 4, 3), (2, 2, 4)], [(4, 4, 3), (4, 4, 3), (2, 2, 4), (2, 2, 6)]),
    # equal widths; of three stages one needs no connector, one fits in by a window, one is half as large
    "alike": ([(4, 4, 3), (4, 4, 3), (3, 3, 4), (2, 2, 6)], [(4, 4, 3), (4, 4, 3), (2, 2, 4), (4, 4, 6)]),
}
STAGES["later"] = STAGES["even"]  # CRD's constants are set


def numbers(name: str, *shape: int) -> np.ndarray:
    """N(0, 1), a function of the name alone."""
    return np.random.RandomState(crc32(name.encode())).normal(size=shape)


def nets(setting: str) -> tuple[Net, Net]:
    """Student and teacher."""
    networks = []
    for who, shapes, scale in zip(("student", "teacher"), STAGES[setting], (1.0, 2.0), strict=True):
        maps = [[scale * numbers(f"{who}/{kind}/{i}", BATCH, *s) for i, s in enumerate(shapes)] for kind in "sp"]
        pooled = scale * numbers(f"{who}/pooled", BATCH, shapes[-1][-1])
        logits = scale * numbers(f"{who}/logits", BATCH, CLASSES)
        cam = scale * numbers(f"{who}/cam", BATCH, *CAMS[who], CLASSES)
        strong = scale * numbers(f"{who}/strong", BATCH, CLASSES)
        networks.append(Net([np.maximum(x, 0) for x in maps[0]], maps[1], pooled, logits, cam, strong))
    return tuple(networks)


def images() -> np.ndarray:
    return numbers("images", BATCH, *IMAGE)


def bank(seat: str) -> np.ndarray:
    """CRD's of a network; its rows are not of length 1, as they are not when training starts."""
    return 0.7 * numbers(f"bank/{seat}", len(TRAINING), EMBEDDING)


def scales(setting: str) -> dict[str, np.ndarray]:
    """CRD's constants; 0 is unset, in the first step."""
    values = (35.0, 20.0) if setting == "later" else (0.0, 0.0)
    return dict(zip(("student", "teacher"), map(np.asarray, values), strict=True))


def encoder(setting: str) -> tuple[dict, dict]:
    """Parameters and BatchNorm statistics, layer -> name -> array, of a paraphraser's encoder that was trained on the
    teacher; in the setting "alike" it has BatchNorm."""
    width, params, stats = STAGES[setting][1][-1][-1], {}, {}
    for i, (before, after) in enumerate(((width, width), (width, width // 2), (width // 2, width // 2))):
        shapes = {"kernel": (3, 3, before, after), "bias": (after,)}
        params[f"conv{i}"] = {name: parameter(f"given/conv{i}/{name}", shape) for name, shape in shapes.items()}
        if setting == "alike":
            params[f"bn{i}"] = {name: parameter(f"given/bn{i}/{name}", (after,)) for name in ("scale", "bias")}
            mean, spread = (numbers(f"given/bn{i}/{name}", after) for name in ("mean", "var"))
            stats[f"bn{i}"] = {"mean": mean, "var": 0.5 + spread**2}
    return params, stats


def norm(stage: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of the teacher's BatchNorm before a stage's ReLU, in the even setting."""
    width = STAGES["even"][1][stage][-1]
    return numbers(f"teacher/scale/{stage}", width), numbers(f"teacher/bias/{stage}", width)


def labels() -> np.ndarray:
    return np.arange(BATCH) * 3 % CLASSES


def parameter(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """BatchNorm's scales around 1, kernels divided by the root of their fan-in, others around 0."""
    value = numbers(path, *shape)
    if path.endswith("scale"):
        return 1 + 0.3 * value
    return value / np.prod(shape[:-1]) ** 0.5 if len(shape) > 1 else 0.5 * value
