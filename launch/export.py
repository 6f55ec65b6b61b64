"""Write a trained network for others.

python launch/export.py --workdir=DIR --phase=NAME --format=safetensors|torch|stablehlo --out=FILE
"""

from absl import flags

from kd_jax.tools import cli

WORKDIR = flags.DEFINE_string("workdir", None, "folder of a run, or one that import_weights wrote")
PHASE = flags.DEFINE_string("phase", "", "phase whose network is written; by default the last")
FORMAT = flags.DEFINE_string("format", "safetensors", "safetensors, torch or stablehlo")
OUT = flags.DEFINE_string("out", None, "file to write")
BEST = flags.DEFINE_bool("best", False, "the saved step with the highest top-1 (chosen on test), not the last one")
SEED = flags.DEFINE_integer("seed", None, "which of the seeds that the phase trained together; by default the first")
NETWORK = flags.DEFINE_string("network", "", "label of one that the phase trained beside its own: dml, ema")


def run() -> None:
    from kd_jax.interop import exchange
    from kd_jax.train import evaluate

    which = {"phase": PHASE.value, "best": BEST.value, "network": NETWORK.value, "seed": SEED.value}
    network, variables, _ = evaluate.saved(WORKDIR.value, **which)
    print(exchange.export(network, variables, format=FORMAT.value, out=OUT.value))


if __name__ == "__main__":
    cli.main(run, required=("workdir", "out"))
