"""Fill, check, describe or empty a teacher cache.

python launch/cache_teacher.py --config=FILE.py[:ARG] --config.teacher_cache=DIR --action=fill|verify|info|prune
"""

import sys

from absl import flags

from kd_jax.tools import cli

CONFIG = cli.define_config()
ACTION = flags.DEFINE_enum(
    "action", "fill", ("fill", "verify", "info", "prune"),
    "fill: compute what the recipe's phases will read; verify: compare rows drawn at random with the live teachers; "
    "info: say what is there; prune: delete the stores of teachers that the recipe does not name",
)  # fmt: skip
WORKDIR = flags.DEFINE_string("workdir", "", "folder of a run that has trained the teachers phase:NAME")
EPOCHS = flags.DEFINE_integer("epochs", 0, "fill: how many; by default those of each phase", lower_bound=0)
SAMPLE = flags.DEFINE_integer("sample", 1000, "verify: how many rows of every teacher", lower_bound=1)


def run() -> None:
    from kd_jax.tools import cache_teacher

    tree, workdir = CONFIG.value.to_dict(), WORKDIR.value
    if ACTION.value == "fill":
        cache_teacher.fill(tree, workdir, epochs=EPOCHS.value)
    elif ACTION.value == "info":
        cache_teacher.info(tree)
    elif ACTION.value == "prune":
        cache_teacher.prune(tree, workdir)
    elif not cache_teacher.verify(tree, workdir, sample=SAMPLE.value):
        print("error: rows differ from what the teachers say now", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.main(run, config=CONFIG, required=("config",))
