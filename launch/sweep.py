"""Run every combination of some values, times seeds, a folder each; the same command again goes on with what is missing.

python launch/sweep.py --config=FILE.py[:ARG] --workdir=DIR --grid KEY=V1,V2,... [--grid ...] [--seeds=N] [--config.KEY=VALUE ...]
python launch/sweep.py --sweep=configs/sweeps/NAME.py[:ARG] --workdir=DIR
"""  # noqa: E501

import sys
from pathlib import Path

from absl import flags

from kd_jax.tools import cli

HERE = Path(__file__).resolve().parent
CONFIG = cli.define_config(optional=True)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the sweep")
GRID = flags.DEFINE_multi_string("grid", [], "KEY=V1,V2,...: values of a key of the config; several grids are combined")
SWEEP = flags.DEFINE_string(
    "sweep", "", "FILE.py[:ARG]: a sweep that is written as data, in place of --config and --grid"
)
SEEDS = flags.DEFINE_integer("seeds", 0, "how many seeds; by default 1, or those of the file", lower_bound=0)
FIRST_SEED = flags.DEFINE_integer("first_seed", 0, "the lowest seed; the others follow it", lower_bound=0)
TOGETHER = flags.DEFINE_bool(
    "together", False, "the seeds of a cell as one run, with one teacher and one order of the data for all"
)
TEACHER_SEED = flags.DEFINE_integer(
    "teacher_seed", None, "one seed for all teachers; by default a teacher has the seed of its run", lower_bound=0
)
BASELINE = flags.DEFINE_string("baseline", "", "name of the cell that a report compares the others with: KEY=V,...")
JOBS = flags.DEFINE_integer("jobs", 1, "how many runs at once", lower_bound=1)
SHARD = flags.DEFINE_string(
    "shard", "0/1", "I/N: every N-th cell from the I-th on, I from 0 or from 1, for arrays of jobs"
)
MINUTES = flags.DEFINE_float(
    "minutes",
    None,
    "measure steps, and run as many seeds, each with all cells, as fit into so many minutes",
    lower_bound=0,
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "list the runs, what they share and how long they take; write nothing")
LIST = flags.DEFINE_bool("list", False, "name the sweeps in configs/sweeps")


def run() -> None:
    from kd_jax.tools import sweep, sweep_cells

    if LIST.value:
        for name, line in sweep_cells.list_sweeps(HERE.parent / "configs" / "sweeps"):
            print(f"configs/sweeps/{name}.py  {line}")
        return
    shard = sweep.parse_shard(SHARD.value)
    planned = sweep.planned(
        CONFIG, WORKDIR.value, grids=GRID.value, file=SWEEP.value, seeds=SEEDS.value,
        first_seed=FIRST_SEED.value, teacher_seed=TEACHER_SEED.value, baseline=BASELINE.value, together=TOGETHER.value,
    )  # fmt: skip
    train, minutes = HERE / "train.py", MINUTES.value
    if minutes is not None:
        from kd_jax.tools import sweep_minutes

        sweep_minutes.check(planned, shard)
    if DRY_RUN.value:
        from kd_jax.tools.sweep_cost import dry_run

        dry_run(planned, train, shard, minutes)
        return
    if minutes is not None:
        done = sweep_minutes.run(planned, train, minutes, count=JOBS.value)
    else:
        done = sweep.run(planned, train, count=JOBS.value, shard=shard)
    if not done:
        sys.exit(1)


if __name__ == "__main__":
    cli.main(run, config=CONFIG)
