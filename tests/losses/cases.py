"""The cases of golden/published.npz: which losses, on which tensors. numpy only, as the script has no kd_jax.

Tensors are functions of a case's name, so that the file holds two numbers a case.
"""

from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

FILE = Path(__file__).parent / "golden" / "published.npz"


class Case(NamedTuple):
    """A call of a loss.

    students, teachers: one shape for every stage compared, (B, H, W, C) or (B, D); of one stage mostly.
    options: what the loss is told beside tensors. scale: of the student's values; the teacher's are N(0, 2).
    rectified: maps as they are behind a ReLU.
    """

    students: tuple[tuple[int, ...], ...]
    teachers: tuple[tuple[int, ...], ...]
    options: dict = {}
    scale: float = 1.0
    rectified: bool = False


class Inputs(NamedTuple):
    """What a case is run on; all float64 but labels.

    along: like students, the direction of the derivative. labels: (B,), of the classes in a student's last axis.
    channels: N(0, 1), one (C,) for every teacher's stage, whatever a loss may make of it.
    """

    students: list[np.ndarray]
    teachers: list[np.ndarray]
    along: list[np.ndarray]
    labels: np.ndarray
    channels: list[np.ndarray]


def make(name: str) -> Inputs:
    """The tensors of a case."""
    case, random = CASES[name], np.random.RandomState(crc32(name.encode()))  # its streams are frozen
    students = [random.normal(0, case.scale, shape) for shape in case.students]
    teachers = [random.normal(0, 2, shape) for shape in case.teachers]
    along = [random.normal(size=shape) for shape in case.students]
    labels = random.randint(0, case.students[0][-1], case.students[0][0])
    channels = [random.normal(size=shape[-1]) for shape in case.teachers]
    if case.rectified:
        students, teachers = ([np.maximum(x, 0) for x in maps] for maps in (students, teachers))
    return Inputs(students, teachers, along, labels, channels)


def variance(channels: np.ndarray) -> np.ndarray:
    """Above 0, from N(0, 1): softplus and 1e-5, as VID makes it."""
    return np.log1p(np.exp(channels)) + 1e-5


def margin(channels: np.ndarray) -> np.ndarray:
    """Below 0, from N(0, 1), as OFD's are."""
    return -np.abs(channels)


def norms() -> np.ndarray:
    """(2, 60): scales and biases of a BatchNorm, from whose Gaussians OFD's margins come; some of them far above 0."""
    random = np.random.RandomState(0)
    return np.stack([random.normal(size=60), random.normal(0, 2, 60)])


def one(student, teacher=None, **kwargs) -> Case:
    return Case((student,), (teacher or student,), **kwargs)


def several(*pairs, **kwargs) -> Case:
    return Case(*zip(*pairs, strict=True), **kwargs)


LOGITS = [(4, 3), (7, 10), (16, 37), (64, 100)]
VECTORS = [((4, 5), (4, 5)), ((7, 3), (7, 11)), ((16, 8), (16, 8)), ((64, 16), (64, 24))]

TABLE = {
    "kd": [one(s, options={"temperature": t}) for s, t in zip(LOGITS, (1.0, 4.0, 2.5, 4.0), strict=True)],
    "dkd": [
        one(s, options={"alpha": a, "beta": b, "temperature": t})
        for s, a, b, t in zip(LOGITS, (1.0, 0.5, 1.0, 2.0), (8.0, 2.0, 0.3, 6.0), (4.0, 1.0, 2.5, 4.0), strict=True)
    ],
    "dist": [
        one(s, options={"beta": b, "gamma": g})
        for s, b, g in zip(LOGITS, (1.0, 2.0, 0.0, 2.0), (1.0, 2.0, 0.7, 2.0), strict=True)
    ],
    "standardize": [one(s, scale=c) for s, c in zip(LOGITS, (1.0, 5.0, 0.2, 3.0), strict=True)],
    "lskd": [one(s, options={"temperature": t}) for s, t in zip(LOGITS, (1.0, 2.0, 3.0, 4.0), strict=True)],
    "fitnet": [one((4, 8, 8, 3)), one((7, 7, 7, 5)), one((16, 5, 3, 4))],
    "at": [
        several(((4, 8, 8, 3), (4, 8, 8, 6)), ((4, 4, 4, 5), (4, 8, 8, 5)), options={"p": 2}),
        several(((7, 13, 13, 4), (7, 7, 7, 3)), options={"p": 2}),
        several(((16, 5, 3, 4), (16, 5, 3, 2)), ((16, 7, 7, 4), (16, 7, 7, 8)), options={"p": 4}),
        several(((4, 5, 5, 4), (4, 8, 8, 2)), options={"p": 1}),
    ],
    "sp": [
        one((4, 8, 8, 3), (4, 4, 4, 5)),
        one((7, 7, 7, 2)),
        one((16, 5, 3, 4), (16, 1, 7, 2), rectified=True),
        one((64, 2, 2, 4), (64, 1, 1, 9)),
    ],
    "vid": [one((4, 8, 8, 3)), one((7, 7, 7, 5)), one((16, 5, 3, 4))],
    "rkd": [one(*pair, options={"distance_weight": 25.0, "angle_weight": 50.0}) for pair in VECTORS]
    + [one((7, 6), options={"distance_weight": 1.0, "angle_weight": 0.0}, scale=0.01)],
    "pkt": [one(*pair) for pair in VECTORS],
    "cc": [one((b, d)) for b, d in ((4, 5), (7, 3), (16, 8), (64, 16))],
    "nst": [
        several(((4, 8, 8, 3), (4, 8, 8, 6)), ((4, 4, 4, 5), (4, 8, 8, 5))),
        several(((7, 13, 13, 4), (7, 7, 7, 3))),
        several(((16, 5, 3, 4), (16, 5, 3, 2)), rectified=True),
    ],
    "kdsvd": [
        several(((4, 8, 8, 5), (4, 8, 8, 3)), ((4, 4, 4, 6), (4, 4, 4, 9)), options={"k": 1}, rectified=True),
        several(
            ((7, 7, 7, 3), (7, 7, 7, 5)), ((7, 5, 5, 6), (7, 5, 5, 4)), ((7, 5, 5, 6), (7, 5, 5, 8)),
            options={"k": 1}, rectified=True,
        ),
        several(((4, 6, 6, 5), (4, 6, 6, 3)), ((4, 5, 6, 5), (4, 5, 6, 4)), options={"k": 2}),
    ],
    "ofd": [
        several(((4, 8, 8, 3), (4, 8, 8, 3)), ((4, 4, 4, 6), (4, 8, 8, 6))),
        several(((7, 7, 7, 4), (7, 13, 13, 4))),
        several(((16, 5, 3, 2), (16, 7, 6, 2)), ((16, 5, 3, 4), (16, 5, 3, 4)), ((16, 1, 1, 3), (16, 2, 2, 3))),
    ],
    "hcl": [
        several(((4, 8, 8, 3), (4, 8, 8, 3)), ((4, 1, 1, 7), (4, 1, 1, 7))),
        several(((7, 7, 7, 4), (7, 7, 7, 4)), ((7, 4, 4, 5), (7, 4, 4, 5)), ((7, 2, 2, 5), (7, 2, 2, 5))),
        several(((16, 13, 13, 2), (16, 13, 13, 2)), ((16, 5, 9, 3), (16, 5, 9, 3))),
    ],
    "cat_kd": [
        one((4, 8, 8, 5), options={"resolution": 2, "normalize": False}),
        one((7, 7, 7, 10), (7, 4, 4, 10), options={"resolution": 2, "normalize": True}),
        one((16, 13, 13, 3), (16, 5, 7, 3), options={"resolution": 4, "normalize": True}),
        one((4, 7, 7, 6), (4, 5, 5, 6), options={"resolution": 3, "normalize": False}),
    ],
}  # fmt: skip
CASES = {f"{loss}/{i}": case for loss, cases in TABLE.items() for i, case in enumerate(cases)}
