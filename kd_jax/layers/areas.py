"""SoKD's distinctive areas (DAM): heads that describe important areas of a map, their peaks, and masks of their boxes.

The heads are learned. Peaks, boxes and masks are integers; no gradient goes through them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.basic import conv, torch_bias, torch_default
from kd_jax.typing import Array, InputError

OVERLAPS = ("clip", "sum")


class Areas(NamedTuple):
    """What the heads make of a map (B, H, W, C).

    heat: (B, H, W, channels) in (0, 1). size: (B, H, W, 2), width and height of a box in cells, at least 0.
    offset: (B, H, W, 2), of its centre from the cell, x and y, in cells, at least 0.
    """

    heat: Array
    size: Array
    offset: Array


class Peaks(NamedTuple):
    """The k largest local maxima of a heat map, the largest first. Each (B, k); all but the score are int32."""

    score: Array
    channel: Array
    y: Array
    x: Array


class AreaHeads(nn.Module):
    """(B, H, W, C) to Areas, one head for each field: 3x3 convolution of width C, ReLU, 1x1 convolution.

    Size and offset end in a ReLU, heat in a sigmoid. Teacher and student share one module; C is the teacher's.

    channels: of the heat. heat_relu: a ReLU before the sigmoid, as the public code has it: heat is then >= 0.5.

    Differs: the ReLU of the heat is off by default, since the heat would lose half of its range.
    """

    channels: int = 100
    heat_relu: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Areas:
        def head(name: str, width: int) -> Array:
            hidden = nn.relu(_conv(x.shape[-1], 3, x.shape[-1], f"{name}0")(x))
            return _conv(width, 1, x.shape[-1], f"{name}1")(hidden)

        heat = head("heat", self.channels)
        heat = nn.relu(heat) if self.heat_relu else heat
        return Areas(nn.sigmoid(heat), nn.relu(head("size", 2)), nn.relu(head("offset", 2)))


def peaks(heat: Array, k: int) -> Peaks:
    """The k largest cells over channel, y and x that are the maximum of the 3x3 cells around them.

    Equal neighbours are all peaks. Equal peaks are ordered by (channel, y, x). Where there are fewer than k peaks,
    other cells follow, with score 0.

    Args:
      heat: (B, H, W, C), at least 0.
      k: 1 to C H W.

    Raises:
      InputError: a k out of range.
    """
    height, width, channels = heat.shape[1:]
    if not 1 <= k <= height * width * channels:
        raise InputError(f"peaks: k must be 1 to {height * width * channels}, the cells of the heat map, got {k}")
    highest = nn.max_pool(heat, (3, 3), (1, 1), "SAME")
    maxima = jnp.moveaxis(jnp.where(heat == highest, heat, 0), -1, 1)
    score, position = jax.lax.top_k(maxima.reshape(len(heat), -1), k)
    channel, cell = jnp.divmod(position, height * width)
    return Peaks(score, channel, *jnp.divmod(cell, width))


def boxes(heat: Array, size: Array, offset: Array, k: int = 8) -> Array:
    """The k boxes of a map, around the peaks of the heat: each moved by the offset and in the size at its peak.

    Centre +- size / 2 is clipped to the map, then its corners are truncated.

    Args:
      heat: (B, H, W, C).
      size: (B, H, W, 2), width and height in cells.
      offset: (B, H, W, 2), x and y in cells.
      k: number of boxes.

    Returns:
      (B, k, 4) int32: x0, y0, x1, y1, all four inside the map, both ends part of the box: at least one cell.

    Differs: the public code clips each corner on one side only. There a box is empty if its centre is moved off the
      map; here it consists of the cells at the border.
    """
    height, width = heat.shape[1:3]
    peak = peaks(heat, k)
    cell = (peak.y * width + peak.x)[..., None]
    size, offset = (
        jnp.take_along_axis(f.astype(jnp.promote_types(f.dtype, jnp.float32)).reshape(len(f), -1, 2), cell, axis=1)
        for f in (size, offset)
    )
    centre, last = jnp.stack([peak.x, peak.y], axis=-1) + offset, jnp.array([width - 1, height - 1])
    corners = [jnp.clip(corner, 0, last).astype(jnp.int32) for corner in (centre - size / 2, centre + size / 2)]
    return jnp.concatenate(corners, axis=-1)


def masks(heat: Array, size: Array, offset: Array, k: int = 8, overlap: str = "clip") -> Array:
    """The areas of a map: 1 inside any of its k boxes, 0 outside. No gradient goes through it.

    Args:
      heat: (B, H, W, C).
      size: (B, H, W, 2), width and height in cells.
      offset: (B, H, W, 2), x and y in cells.
      k: number of boxes.
      overlap: "clip", or "sum": the number of boxes that a cell is in, as in the public code.

    Returns:
      (B, H, W, 1) float32.

    Raises:
      InputError: an unknown overlap, a k out of range.
    """
    if overlap not in OVERLAPS:
        raise InputError(f"masks: overlap must be {' or '.join(OVERLAPS)}, got {overlap!r}")
    x0, y0, x1, y1 = jnp.moveaxis(boxes(heat, size, offset, k)[..., None], 2, 0)  # (B, k, 1) each
    y, x = (jnp.arange(n) for n in heat.shape[1:3])
    rows, columns = (y0 <= y) & (y <= y1), (x0 <= x) & (x <= x1)
    inside = rows[..., :, None] & columns[..., None, :]  # (B, k, H, W)
    count = jnp.sum(inside, axis=1) if overlap == "sum" else jnp.any(inside, axis=1)
    return count[..., None].astype(jnp.float32)


def _conv(width: int, size: int, fan_in: int, name: str) -> nn.Conv:
    """With bias and PyTorch's default initialisation."""
    start = {"kernel_init": torch_default, "bias_init": torch_bias(size * size * fan_in)}
    return conv(width, size, use_bias=True, name=name, **start)
