"""Tables and pictures of the runs in some folders: report.md, table.csv, table.tex, report.html.

python launch/report.py DIR [DIR ...] [--rows=KEY --cols=KEY] [--baseline=KEY=V] [--out=DIR]
"""

from absl import flags

from kd_jax.tools import cli

ROWS = flags.DEFINE_string("rows", "", "key whose values are the rows of a further table")
COLS = flags.DEFINE_string("cols", "", "key whose values are its columns")
BASELINE = flags.DEFINE_string("baseline", "", "the row that others are compared with: its name, or KEY=V")
WANDB = flags.DEFINE_string("wandb", "", "project of Weights & Biases that gets the rows of all runs")
PREDICTIONS = flags.DEFINE_bool(
    "predictions",
    False,
    "run the saved networks over the test set: calibration, gains by class, correlations of logits, refined targets",
)
OUT = flags.DEFINE_string("out", "", "folder of the report; by default the first DIR")


def run(folders: list[str]) -> None:
    from kd_jax.tools.report import report

    report(
        folders, rows=ROWS.value, cols=COLS.value, baseline=BASELINE.value, out=OUT.value, wandb=WANDB.value,
        predictions=PREDICTIONS.value,
    )  # fmt: skip


if __name__ == "__main__":
    cli.main(run, plain=True)
