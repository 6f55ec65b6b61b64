"""What criteria on feature maps share: the stages they compare, the mask of areas, and tokens as maps."""

import jax
import jax.numpy as jnp

from kd_jax.layers.regressor import Regressor
from kd_jax.losses.common import windows
from kd_jax.typing import Array, InitContext, InputError, Need, Outputs, View

NEEDS = frozenset({Need.TEACHER_STAGES})
SEATS = ("student", "teacher")


def pooled(view: View) -> dict[str, Array]:
    """The pooled features (B, D) of the student and of the first teacher."""
    return {"student": view.student.pooled, "teacher": view.teachers[0].pooled}


def last_stages(view: View) -> tuple[list[Array], list[Array]]:
    """The stages behind the stem as maps: the student's and the first teacher's.

    Networks with different numbers of stages are aligned from the output side: the longer one gives its last stages.
    """
    return _aligned(maps_of(view, view.student), maps_of(view, view.teachers[0]))


def last_preacts(name: str, view: View, student: str = "preacts") -> tuple[list[Array], list[Array]]:
    """As `last_stages`, but before the last ReLU of every stage. student: "stages" takes the student's behind it.

    Raises:
      InputError: naming the method and the network that has no pre-activation features.
    """
    pair = getattr(view.student, student), view.teachers[0].preacts
    for seat, maps in zip(SEATS, pair, strict=True):
        if maps is None:
            raise InputError(f"{name}: needs pre-activation features, which the {seat} has not")
    return _aligned(*pair)


def regressed(view: View, stage: int, depth: int) -> tuple[Regressor, Array, Array]:
    """The regressor from the student's map of a stage to the teacher's, and both maps.

    Tokens have either sign. Where the teacher has tokens, the regressor's last ReLU is left out.
    """
    stages = view.student.stages[stage], view.teachers[0].stages[stage]
    student, teacher = (as_map(x, view.image.shape[1:]) for x in stages)
    return Regressor(teacher.shape[1:], depth, relu=not is_tokens(stages[1])), student, teacher


def masked(view: View, x: Array) -> Array:
    """A map (B, H, W, C) times the view's spatial mask; the map itself where no refiner set a mask."""
    return x if view.spatial_mask is None else x * mask_for(view, x)


def mask_for(view: View, x: Array) -> Array | None:
    """The view's spatial mask in the height and width of a map (B, H, W, C); None where no refiner set a mask.

    A cell of the map takes the largest of the mask's cells that it covers; a map that is finer takes the nearest one.
    """
    mask = view.spatial_mask
    if mask is None or mask.shape[1:3] == x.shape[1:3]:
        return mask
    for axis in (1, 2):
        covered = windows(mask.shape[axis], x.shape[axis])
        candidates = jnp.moveaxis(mask, axis, -1)[..., None, :]
        mask = jnp.moveaxis(jnp.max(candidates, axis=-1, where=covered, initial=0), -1, axis)
    return mask


def is_tokens(stage: Array) -> bool:
    """Whether a stage is tokens (B, 1 + N, D), not a map (B, H, W, C)."""
    return len(stage.shape) == 3


def as_map(stage: Array, image: tuple[int, ...]) -> Array:
    """Tokens (B, 1 + N, D), or (B, 2 + N, D) with a distillation token, as the map (B, h, w, D) of the N patches; a map
    as it is. Of square images never both are possible; of others it is the first one then.

    Args:
      stage: an array, or its shape alone (ShapeDtypeStruct).
      image: (H, W, ...), the size of the images.

    Raises:
      InputError: no square patches cut such images into N.
    """
    if not is_tokens(stage):
        return stage
    batch, tokens, width = stage.shape
    grid = _grid(tokens - 1, *image[:2]) or _grid(tokens - 2, *image[:2])
    if grid is None:
        size = "{}x{}".format(*image[:2])
        raise InputError(f"{tokens - 1} tokens beside the class token are no grid of patches of {size} images")
    shape = (batch, *grid, width)
    if isinstance(stage, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, stage.dtype)
    return stage[:, tokens - grid[0] * grid[1] :].reshape(shape)


def as_before(changed: Array, stage: Array) -> Array:
    """The inverse of `as_map`: a changed map in the form of its stage, behind the first tokens of the stage."""
    if not is_tokens(stage):
        return changed
    cells = changed.reshape(stage.shape[0], -1, stage.shape[-1])
    return jnp.concatenate([stage[:, : stage.shape[1] - cells.shape[1]], cells], axis=1)


def maps_of(view: View, network: Outputs) -> tuple[Array, ...]:
    """All stages of one of the view's networks as maps."""
    return tuple(as_map(stage, view.image.shape[1:]) for stage in network.stages)


def require_stages(name: str, context: InitContext, stage: int = 1, seats: tuple[str, ...] = SEATS) -> None:
    """Refuse a network in one of the seats that does not have this stage. Stage 1 is the first behind the stem.

    Raises:
      InputError: naming the method and how many stages the networks have.
    """
    counts = {seat: len(_network(context, seat).stages) for seat in seats}
    if stage >= min(counts.values()):
        had = ", the ".join(f"{seat} {n}" for seat, n in counts.items()).replace(" ", " has ", 1)
        raise InputError(f"{name}: no stage {stage}: the {had}")


def require_maps(name: str, context: InitContext, seats: tuple[str, ...] = SEATS) -> None:
    """Refuse a network in one of the seats whose stages are tokens: for methods that cannot read them as maps.

    Raises:
      InputError: naming the method and the network's seat.
    """
    for seat in seats:
        if any(map(is_tokens, _network(context, seat).stages)):
            raise InputError(f"{name}: needs feature maps (B, H, W, C), but the {seat}'s stages are tokens")


def require_cam(name: str, context: InitContext) -> None:
    """Refuse a network without class activation maps.

    Raises:
      InputError: naming the method and the network's seat.
    """
    for seat in SEATS:
        if _network(context, seat).cam is None:
            raise InputError(f"{name}: needs class activation maps, which the {seat} has not")


def _network(context: InitContext, seat: str) -> Outputs:
    """Shapes of what a network returns."""
    view = context.view_shapes
    return view.student if seat == "student" else view.teachers[0]


def _aligned(*networks: tuple[Array, ...]) -> tuple[list[Array], ...]:
    """The maps of two networks without the stem; of the longer one the last ones."""
    count = min(map(len, networks)) - 1
    return tuple([*maps[len(maps) - count :]] for maps in networks)


def _grid(patches: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of square patches; None where there are no such patches. The grid is unique, since both numbers
    fall as the patch grows."""
    for side in range(1, min(height, width) + 1):
        if (height // side) * (width // side) == patches:
            return height // side, width // side
    return None
