"""Measure a saved network: python launch/evaluate.py --workdir=DIR [--phase=NAME] [--expect_top1=0.70]"""

import sys

from absl import flags

from kd_jax.tools import cli

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run")
PHASE = flags.DEFINE_string("phase", "", "phase whose network is measured; by default the last")
EXPECT_TOP1 = flags.DEFINE_float("expect_top1", None, "exit 1 below this top-1 accuracy", lower_bound=0, upper_bound=1)
BEST = flags.DEFINE_bool("best", False, "the saved step with the highest top-1 (chosen on test), not the last one")
DATA_DIR = flags.DEFINE_string("data_dir", "", "folder of the data, if elsewhere than in the run")
SEED = flags.DEFINE_integer("seed", None, "which of the seeds that the phase trained together; by default the first")
NETWORK = flags.DEFINE_string("network", "", "label of one that the phase trained beside its own: dml, ema")


def run() -> None:
    from kd_jax.train.evaluate import evaluate, line

    which = {"phase": PHASE.value, "best": BEST.value, "network": NETWORK.value, "seed": SEED.value}
    result = evaluate(WORKDIR.value, data_dir=DATA_DIR.value, **which, top1=EXPECT_TOP1.value is not None)
    print(line(result))
    if EXPECT_TOP1.value is not None and result["top1"] < EXPECT_TOP1.value:
        print(f"error: top-1 {result['top1']:.2%} is below the expected {EXPECT_TOP1.value:.2%}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.main(run, required=("workdir",))
