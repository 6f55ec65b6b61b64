"""SDD's regions: the network's logits where 4 divides the map, windows where it does not, and the weights."""

import numpy as np
import pytest

from kd_jax.losses.regions import region_logits, region_weights


@pytest.mark.parametrize("side", [8, 4, 2])
def test_regions_are_means_of_cells(rng, x64, side):
    cam = rng.normal(size=(3, side, side, 5))
    logits = np.asarray(region_logits(cam, (1, 2, 4)))
    assert logits.shape == (21, 3, 5)
    np.testing.assert_allclose(logits[0], cam.mean((1, 2)), rtol=1e-12)
    half = side // 2
    np.testing.assert_allclose(logits[2], cam[:, :half, half:].mean((1, 2)), rtol=1e-12)
    np.testing.assert_allclose(logits[1:5].mean(0), logits[0], rtol=1e-12)
    np.testing.assert_allclose(logits[5:].mean(0), logits[0], rtol=1e-12)


def test_where_4_does_not_divide_windows_overlap(rng, x64):
    """The published one-dimensional weights of a map 7 wide."""
    cam = rng.normal(size=(2, 7, 7, 3))
    along = np.array([0.125, 0.20833333333, 0.08333333333, 0.16666666667, 0.08333333333, 0.20833333333, 0.125])
    wanted = np.einsum("bhwk,h,w->bk", cam, along, along)
    np.testing.assert_allclose(region_logits(cam, (1,))[0], wanted, rtol=1e-8)


def test_weights(rng):
    """Right or wrong about a region as about the whole: 1, also where it is wrong in two ways; else beta."""
    eye = np.eye(3)
    whole, labels = eye[[0, 1, 1]], np.array([0, 0, 0])  # right, wrong, wrong
    regions = np.stack([whole, eye[[1, 2, 0]]])
    np.testing.assert_array_equal(region_weights(regions, whole, labels, 2.5), [[1, 1, 1], [2.5, 1, 2.5]])
