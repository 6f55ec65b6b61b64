"""Train a recipe, or resume it: python launch/train.py --config=FILE.py[:ARG] --workdir=DIR [--config.KEY=VALUE ...]"""

from absl import flags

from kd_jax.tools import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; an unfinished run there is resumed")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "delete an earlier run in the folder first")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0 of a run of several processes")
PROCESSES = flags.DEFINE_integer("num_processes", 0, "how many processes run together", lower_bound=0)
PROCESS = flags.DEFINE_integer("process_id", -1, "which of them this is, counted from 0", lower_bound=-1)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "build everything, take two steps, write nothing")


def run() -> None:
    from kd_jax.distributed import parent, processes
    from kd_jax.tools import environment

    if CONFIG.value.get("deterministic"):
        environment.use_deterministic_operations()
    others = COORDINATOR.value, PROCESSES.value, PROCESS.value
    if processes.is_distributed(*others):
        parent.work_in_child()
    processes.connect(*others)
    from kd_jax.train.dry_run import dry_run
    from kd_jax.train.run import run as train

    (dry_run if DRY_RUN.value else train)(CONFIG.value.to_dict(), WORKDIR.value, overwrite=OVERWRITE.value)


if __name__ == "__main__":
    cli.main(run, config=CONFIG, required=("config", "workdir"))
