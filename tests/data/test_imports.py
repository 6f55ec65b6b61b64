"""Data needs few packages: what is not needed is not loaded, and what is optional may be missing."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from kd_jax import InputError, data
from kd_jax.data import decoders
from kd_jax.data.streaming import Stream, TrainPlan
from tests.conftest import ROOT
from tests.data.test_folder import fill

OPTIONAL = ("simplejpeg", "cykooz_resizer")
LATE = ("orbax", "grain", "array_record", "tensorflow_datasets", "tensorflow", "PIL", "sklearn", *OPTIONAL)


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_loaded_before_it_is_needed():
    rooms = "import kd_jax.data.unloaded, kd_jax.data.streaming, kd_jax.data.prepare"
    code = f"import sys, kd_jax.data; {rooms}; print([name for name in {LATE} if name in sys.modules])"
    assert run(code) == "[]"


def test_training_sets_in_memory_need_no_jpeg_packages(tmp_path, rng):
    fill(tmp_path, rng, {"a": 2, "b": 2})
    absent = "".join(f"sys.modules[{name!r}] = None; " for name in OPTIONAL)
    loads = f"len(data.load('digits').train), data.load('folder:{tmp_path}').train.shape"
    assert run(f"import sys; {absent}from kd_jax import data; print({loads})") == "1437 (8, 8, 3)"


@pytest.fixture
def photographs(tmp_path, rng):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / name / f"{i}.jpg")
    return f"folder:{tmp_path}"


def first_batch(train):
    with Stream(train, TrainPlan(0, len(train), 4), steps=range(1)) as stream:
        return next(iter(stream))["image"]


def test_pillow_crops_by_default_wherever_it_runs_and_says_what_is_faster(photographs, monkeypatch):
    settings = {"stream": True, "crop": 16}
    installed = data.load(photographs, **settings)
    expected = first_batch(installed.train)
    fast = data.load(photographs, **settings, decoder="fast")
    for name in OPTIONAL:
        monkeypatch.setitem(sys.modules, name, None)
    without = data.load(photographs, **settings)
    np.testing.assert_array_equal(first_batch(without.train), expected)
    assert installed.notes == without.notes == (decoders.FASTER,) and fast.notes == ()
    assert "pip install 'kd_jax[images]'" in decoders.FASTER and "--config.data.decoder=fast" in decoders.FASTER
    with pytest.raises(InputError, match=r"data.decoder: 'fast' needs packages .*: pip install 'kd_jax\[images\]'$"):
        data.load(photographs, **settings, decoder="fast")


def test_the_fast_decoder_is_pillows_to_within_one_level(photographs):
    batches = [
        first_batch(data.load(photographs, stream=True, crop=16, decoder=name).train).astype(int)
        for name in ("pillow", "fast")
    ]
    off = np.abs(batches[0] - batches[1])
    assert off.max() <= 1


def test_decoders_that_are_refused(photographs):
    for settings, message in (
        ({"stream": True, "crop": 16, "decoder": "fest"}, "data.decoder: 'fest' is no decoder; did you mean fast?"),
        ({"stream": True, "decoder": "fast"}, "data.decoder: 'fast', but data.crop is 0; accepted without crops"),
    ):
        with pytest.raises(InputError, match=message):
            data.load(photographs, **settings)
