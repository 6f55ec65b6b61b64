"""What criteria on feature maps share: which stages are compared, in which areas, and tokens as maps."""

import jax
import jax.numpy as jnp

from kd_jax.layers.regressor import Regressor
from kd_jax.losses.common import windows
from kd_jax.typing import Array, InitContext, Need, Outputs, View

NEEDS = frozenset({Need.TEACHER_STAGES})


def pooled(view: View) -> dict[str, Array]:
    """What the classifiers of the student and of the first teacher read, (B, D) each."""
    return {"student": view.student.pooled, "teacher": view.teachers[0].pooled}


def is_tokens(stage: Array) -> bool:
    """Whether a stage is tokens (B, 1 + N, D) and no map (B, H, W, C)."""
    return len(stage.shape) == 3


def as_map(stage: Array, image: tuple[int, ...]) -> Array:
    """Tokens (B, 1 + N, D) of images (H, W, ...) as the map (B, h, w, D) of their N patches, the class token left out;
    a map as it is. Shapes alone will do.

    Raises:
      ValueError: no square patches cut such images into N.
    """
    if not is_tokens(stage):
        return stage
    batch, tokens, width = stage.shape
    shape = (batch, *_grid(tokens - 1, *image[:2]), width)
    if isinstance(stage, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, stage.dtype)
    return stage[:, 1:].reshape(shape)


def as_before(changed: Array, stage: Array) -> Array:
    """A map made of a stage by `as_map` and changed, in the stage's place: behind its class token where it has one."""
    if not is_tokens(stage):
        return changed
    return jnp.concatenate([stage[:, :1], changed.reshape(stage.shape[0], -1, stage.shape[-1])], axis=1)


def _grid(patches: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of square patches; only one grid has so many, since both fall as the patch grows."""
    for side in range(1, min(height, width) + 1):
        if (height // side) * (width // side) == patches:
            return height // side, width // side
    raise ValueError(f"{patches} tokens beside the class token are no grid of patches of {height}x{width} images")


def maps_of(view: View, network: Outputs) -> tuple[Array, ...]:
    """The stages of one of the view's networks, all as maps."""
    return tuple(as_map(stage, view.image.shape[1:]) for stage in network.stages)


def last_stages(view: View) -> tuple[list[Array], list[Array]]:
    """Student's and teacher's stages behind the stem, as maps. Of the network that has more, the last ones: networks
    with different numbers of stages are aligned from the output side."""
    return _aligned(maps_of(view, view.student), maps_of(view, view.teachers[0]))


def regressed(view: View, stage: int, depth: int) -> tuple[Regressor, Array, Array]:
    """A stage of student and teacher as maps, and before them the regressor from the one to the other. Where the
    teacher has tokens, which are of either sign, its last ReLU is left out."""
    theirs = view.teachers[0].stages[stage]
    student, teacher = (as_map(x, view.image.shape[1:]) for x in (view.student.stages[stage], theirs))
    return Regressor(teacher.shape[1:], depth, relu=not is_tokens(theirs)), student, teacher


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


def require_stages(
    name: str, context: InitContext, stage: int = 1, seats: tuple[str, ...] = ("student", "teacher")
) -> None:
    """Refuse a network in one of the seats that has no such stage; by default, none behind the stem.

    Raises:
      ValueError: naming the method and what the networks have.
    """
    networks = {"student": context.view_shapes.student, "teacher": context.view_shapes.teachers[0]}
    counts = [len(networks[seat].stages) for seat in seats]
    if stage >= min(counts):
        had = ", the ".join(f"{seat} {n}" for seat, n in zip(seats, counts, strict=True)).replace(" ", " has ", 1)
        raise ValueError(f"{name}: no stage {stage}: the {had}")


def focused(view: View, x: Array) -> Array:
    """A map (B, H, W, C) where the view's focus is, 0 elsewhere; the map itself where no refiner set one."""
    return x if view.spatial_mask is None else x * focus_of(view, x)


def focus_of(view: View, x: Array) -> Array | None:
    """The view's focus in the height and width of a map: the largest of the cells it covers, or the nearest one."""
    mask = view.spatial_mask
    if mask is None or mask.shape[1:3] == x.shape[1:3]:
        return mask
    for axis in (1, 2):
        cells = windows(mask.shape[axis], x.shape[axis])
        spread = jnp.moveaxis(mask, axis, -1)[..., None, :]
        mask = jnp.moveaxis(jnp.max(spread, axis=-1, where=cells, initial=0), -1, axis)
    return mask
