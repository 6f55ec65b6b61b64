"""What criteria on feature maps share: which stages are compared, and in which areas."""

import jax.numpy as jnp

from kd_jax.losses.common import windows
from kd_jax.typing import Array, Facts, View

NEEDS = frozenset({"teacher.stages"})


def last_stages(view: View) -> tuple[list[Array], list[Array]]:
    """Student's and teacher's stages behind the stem. Of the network that has more, the last ones: networks with
    different numbers of stages are aligned from the output side."""
    return _aligned(view.student.stages, view.teachers[0].stages)


def last_preacts(name: str, view: View, student: str = "preacts") -> tuple[list[Array], list[Array]]:
    """`last_stages` of the teacher's pre-activation features and the student's, or the student's "stages".

    Raises:
      ValueError: naming the method and the network that has none.
    """
    own, theirs = getattr(view.student, student), view.teachers[0].preacts
    for seat, maps in (("student", own), ("teacher", theirs)):
        if maps is None:
            raise ValueError(f"{name}: needs pre-activation features, which the {seat} has not")
    return _aligned(own, theirs)


def _aligned(own: tuple[Array, ...], theirs: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
    """Both without the stem, and of the longer one the last ones."""
    last = min(len(own), len(theirs)) - 1
    return tuple([*maps[len(maps) - last :]] for maps in (own, theirs))


def require_stages(name: str, facts: Facts, stage: int = 1, seats: tuple[str, ...] = ("student", "teacher")) -> None:
    """Refuse a network in one of the seats that has no such stage; by default, none behind the stem.

    Raises:
      ValueError: naming the method and what the networks have.
    """
    networks = {"student": facts.view_shapes.student, "teacher": facts.view_shapes.teachers[0]}
    counts = [len(networks[seat].stages) for seat in seats]
    if stage >= min(counts):
        had = ", the ".join(f"{seat} {n}" for seat, n in zip(seats, counts, strict=True)).replace(" ", " has ", 1)
        raise ValueError(f"{name}: no stage {stage}: the {had}")


def focused(view: View, x: Array) -> Array:
    """A map (B, H, W, C) where the view's focus is, 0 elsewhere; the map itself where no refiner set one."""
    return x if view.focus is None else x * focus_of(view, x)


def focus_of(view: View, x: Array) -> Array | None:
    """The view's focus in the height and width of a map: the largest of the cells it covers, or the nearest one."""
    mask = view.focus
    if mask is None or mask.shape[1:3] == x.shape[1:3]:
        return mask
    for axis in (1, 2):
        cells = windows(mask.shape[axis], x.shape[axis])
        spread = jnp.moveaxis(mask, axis, -1)[..., None, :]
        mask = jnp.moveaxis(jnp.max(spread, axis=-1, where=cells, initial=0), -1, axis)
    return mask
