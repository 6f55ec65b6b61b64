"""Several seeds on four devices: by one vmapped step they are what they are one by one, however batches and parameters
are split. Run by test_parallel.py; prints "same"."""

import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from configs import compose
from kd_jax.engine import seeds
from kd_jax.train import run
from tests import tiny
from tests.conftest import shrunk
from tests.train.test_banks_runs import SMALL
from tests.train.test_seeds_runs import TWO, assert_close, state_of

SPLITS = ({"mesh": (2, 2)}, {"mesh": (4,)}, {"mesh": (4,), "scope": "device"})


def ends(split: dict, vmapped: bool) -> list[dict]:
    """The last state of both seeds."""
    seeds.vmaps = lambda: vmapped
    how = {f"parallel__{key}": value for key, value in split.items()}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        run.run(shrunk(compose.get_config("crd+skd+kd,resnet8x4,resnet8x4,smoke"), **TWO, **SMALL, **how), folder)
        return [state_of(Path(folder), seed) for seed in (5, 6)]


if __name__ == "__main__":
    with tiny.in_place():
        for split in SPLITS:
            for one, two in zip(ends(split, True), ends(split, False), strict=True):
                assert_close(one, two)
    print("same")
