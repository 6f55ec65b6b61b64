"""The pictures of a run, drawn."""

import io

import numpy as np
import pytest
from PIL import Image

from kd_jax.train import report


@pytest.fixture(autouse=True)
def drawn(monkeypatch, no_pictures):
    monkeypatch.setattr(report, "_png", no_pictures)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def rows(phases, log=1.0):
    for phase in phases:
        for epoch in (1.0, 2.0):
            logs = {"skd/kept": log / epoch, "skd/ratio": 1.0}
            yield {"phase": phase, "split": "train", "epoch": epoch, "loss": 2 / epoch, "logs": logs}
            yield {"phase": phase, "split": "test", "epoch": epoch, "top1": 0.4 * epoch, "loss": 1.0}


def test_curves_have_a_panel_for_the_test_set_the_loss_and_every_unit():
    two, three = pixels(report.curves(list(rows("a")), {})), pixels(report.curves(list(rows("a")), {"skd/*": "share"}))
    assert two.shape == (540, 1200, 3) and three.shape == (540, 1800, 3)
    other = pixels(report.curves(list(rows("a", log=3.0)), {"skd/*": "share"}))
    assert (other != three).any()


def test_every_phase_is_a_line_and_a_network_that_was_loaded_has_no_loss():
    one, both = (pixels(report.curves(list(rows(phases)), {})) for phases in ("a", "ab"))
    assert (one != both).any()
    loaded = [row for row in rows("b") if row["split"] == "test"]
    assert pixels(report.curves([*rows("a"), *loaded], {})).shape == one.shape


def test_maps_lie_over_their_images():
    images = np.full((3, 8, 8, 3), 0.5)
    maps = {"areas": np.zeros((3, 2, 2)), "use": np.eye(2)[None].repeat(3, 0)}
    png = pixels(report.overlays(images, maps))
    assert len(png) > 2 * len(pixels(report.overlays(images, {})))
    flat = pixels(report.overlays(images, {**maps, "use": np.zeros((3, 2, 2))}))
    assert png.shape == flat.shape and (png != flat).any((1, 2)).argmax() > len(png) / 2  # the last row alone
