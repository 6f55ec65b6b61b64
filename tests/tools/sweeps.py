"""What tests of sweeps have in common."""

from pathlib import Path

from kd_jax.tools import sweep, sweep_cells

FAKE = Path(__file__).with_name("fake_train.py")
SKD = "configs/skd.py:resnet8,resnet8,smoke"


def cells(grids, config=SKD, seeds=1, changes=()):
    return sweep_cells.cells_of(sweep_cells.of_grids(config, grids), changes, seeds)


def planned(home, grids, seeds=2):
    return sweep.plan(str(home), cells(grids, seeds=seeds))
