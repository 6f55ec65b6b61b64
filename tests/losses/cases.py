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
    options: what the loss is given beside tensors. scale: of the student's values; the teacher's are N(0, 2).
    rectified: maps as they are behind a ReLU. blank: "students" or "teachers", whose first example is all zeros.
    """

    students: tuple[tuple[int, ...], ...]
    teachers: tuple[tuple[int, ...], ...]
    options: dict = {}
    scale: float = 1.0
    rectified: bool = False
    blank: str = ""


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
    inputs = Inputs(students, teachers, along, labels, channels)
    for x in getattr(inputs, case.blank, []):
        x[0] = 0
    return inputs


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


class Contrast(NamedTuple):
    """What CRD is given beside one batch of embeddings, or of features before the heads.

    banks: (2, N, D), the student's first, of no special length. index: (calls, B), each row's different. negatives:
    (calls, B, M), any rows. before: (2, B, *), student's and teacher's of the batch of the first of two calls.
    """

    banks: np.ndarray
    index: np.ndarray
    negatives: np.ndarray
    before: np.ndarray


def contrast(batch: int, width: int, rows: int, negatives: int, given: int = 0) -> Contrast:
    """`given`: width of `before` where it is not that of the banks."""
    random = np.random.RandomState(batch + rows)
    banks = random.uniform(-1, 1, (2, rows, width))
    index = np.stack([random.permutation(rows)[:batch] for _ in range(2)])
    others = random.randint(0, rows, (2, batch, negatives))
    return Contrast(banks, index, others, random.normal(size=(2, batch, given or width)))


STEPS = {"batch": 5, "width": 4, "rows": 13, "negatives": 6, "given": 3}  # of CRD with its heads; 3 features
MOMENTUM = 0.3  # of these steps


def heads() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """CRD's linear heads: seat -> kernel (features, width) and bias (width,)."""
    random, width, given = np.random.RandomState(2), STEPS["width"], STEPS["given"]
    return {seat: (random.normal(size=(given, width)), random.normal(size=width)) for seat in ("student", "teacher")}


def one(student, teacher=None, **kwargs) -> Case:
    return Case((student,), (teacher or student,), **kwargs)


def several(*pairs, **kwargs) -> Case:
    return Case(*zip(*pairs, strict=True), **kwargs)


LOGITS = [(4, 3), (7, 10), (16, 37), (64, 100)]
VECTORS = [((4, 5), (4, 5)), ((7, 3), (7, 11)), ((16, 8), (16, 8)), ((64, 16), (64, 24))]
UNIT = {"margin": 1.0}

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
    # calls: 1, the first one, which sets the constants; 2, the second one, after a call on `Contrast.before`
    "crd": [
        one((4, 5), options={"calls": 1, "rows": 12, "negatives": 7, "temperature": 0.07, "momentum": 0.5}),
        one((7, 8), options={"calls": 2, "rows": 9, "negatives": 50, "temperature": 0.1, "momentum": 0.9}),
        one((16, 16), options={"calls": 2, "rows": 200, "negatives": 64, "temperature": 0.07, "momentum": 0.5}),
        one((1, 3), options={"calls": 1, "rows": 4, "negatives": 2, "temperature": 1.0, "momentum": 0.0}),
    ],
    "mlld": [  # of two views, the weak one first
        several(*[(s, s)] * 2, options={"temperature": t, "lskd": stand}, **more)
        for s, t, stand, more in (
            ((4, 3), 4.0, False, {"blank": "students"}), ((7, 10), 2.5, False, {}), ((16, 37), 2.0, True, {}),
            ((1, 6), 4.0, False, {"blank": "teachers"}),
        )
    ],
    "ab": [
        several(((4, 8, 8, 3), (4, 8, 8, 3)), ((4, 4, 4, 5), (4, 4, 4, 5)), ((4, 2, 2, 6), (4, 2, 2, 6)), options=UNIT),
        several(((7, 7, 5, 4), (7, 7, 5, 4)), options={"margin": 0.3}, scale=0.3),
        several(((4, 5, 3, 4), (4, 5, 3, 4)), ((4, 1, 1, 2), (4, 1, 1, 2)), options=UNIT, rectified=True),
        several(((4, 3, 3, 2), (4, 3, 3, 2)), options={"margin": 0.0}, blank="teachers"),
    ],
    "fsp": [
        several(((4, 8, 8, 3), (4, 6, 6, 3)), ((4, 8, 8, 5), (4, 6, 6, 5)), ((4, 4, 4, 2), (4, 3, 3, 2))),
        several(((7, 13, 13, 4), (7, 7, 7, 4)), ((7, 5, 5, 3), (7, 5, 5, 3)), rectified=True),
        several(
            ((4, 3, 3, 2), (4, 1, 1, 2)), ((4, 7, 7, 3), (4, 4, 4, 3)), ((4, 7, 7, 2), (4, 5, 5, 2)),
            blank="students",
        ),
        several(((3, 5, 3, 2), (3, 5, 4, 2)), ((3, 5, 3, 4), (3, 5, 4, 4)), blank="teachers"),
    ],
    "ft": [
        one((4, 8, 8, 3), (4, 4, 4, 5), options={"p1": 2, "p2": 1}),
        one((7, 5, 5, 4), (7, 13, 13, 2), options={"p1": 2, "p2": 2}, rectified=True),
        one((4, 7, 5, 4), (4, 7, 5, 3), options={"p1": 1, "p2": 4}),
        one((4, 4, 4, 3), (4, 7, 7, 3), options={"p1": 3, "p2": 1}, blank="teachers"),
        one((4, 6, 6, 2), (4, 4, 4, 2), options={"p1": 2, "p2": 1}, blank="students"),
    ],
}  # fmt: skip
CASES = {f"{loss}/{i}": case for loss, cases in TABLE.items() for i, case in enumerate(cases)}
