"""Train a recipe, or resume it: python launch/train.py --config=FILE.py[:ARG] --workdir=DIR [--config.KEY=VALUE ...]"""

from absl import flags

from kd_jax import cli

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; an unfinished run there is resumed")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "delete an earlier run in the folder first")


def run() -> None:
    from kd_jax import loop

    loop.run(CONFIG.value.to_dict(), WORKDIR.value, overwrite=OVERWRITE.value)


if __name__ == "__main__":
    cli.main(run, required=("config", "workdir"))
