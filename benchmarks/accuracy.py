"""The phases of one config over several seeds: mean and spread, in one table.

python benchmarks/accuracy.py --config=configs/sftn_vs_kd.py:resnet20,resnet8 --workdir=runs/compare [--seeds=0,1,2]
    [--epochs=8] [--to=PHASE] [--config.KEY=VALUE ...]

Runs launch/train.py once a seed in WORKDIR/seed<N> (resumed or, if finished, only read) and prints for every phase
the top-1 of the last step and the agreement with its teacher: mean and standard deviation over seeds (n - 1), and the
difference of every student to one phase, or else to the first one of the same model: the mean over seeds of the
difference seed by seed, and its standard error. --epochs sets that many epochs and a cosine schedule for every phase.
"""

import argparse
import json
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "launch" / "train.py"


def phases_of(spelled: str) -> tuple[str, ...]:
    """Names of a config's phases."""
    path, _, argument = spelled.partition(":")
    sys.path.insert(0, str(TRAIN.parents[1]))
    return runpy.run_path(path)["get_config"](argument).phases


def run(spelled: str, workdir: Path, seed: int, flags: list[str]) -> dict:
    """One seed's summary."""
    command = [sys.executable, str(TRAIN), f"--config={spelled}", f"--workdir={workdir}", f"--config.seed={seed}"]
    done = subprocess.run([*command, *flags])
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads((workdir / "summary.json").read_text())["phases"]


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


def difference(values: list[float]) -> str:
    """Mean and standard error in points."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):+.2f} ({100 * error:.2f})"


def table(runs: list[dict], to: str | None = None) -> str:
    """Markdown, one row a phase. to: the phase that students are compared with."""
    top = f"top-1, % (mean ± std of {len(runs)})"
    lines = [
        f"| phase | model | teacher | {top} | to {to or 'the first of its model'} (standard error) | agreement, % |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    first = {}
    for name, row in runs[0].items():
        top1 = [phases[name]["top1_last"] for phases in runs]
        base = to if to and row["teacher"] else first.setdefault(row["model"], name)
        gain = [phases[name]["top1_last"] - phases[base]["top1_last"] for phases in runs]
        agreement = [phases[name]["agreement_last"] for phases in runs]
        cells = (
            name,
            row["model"],
            row["teacher"]["origin"] if row["teacher"] else "-",
            spread(top1),
            "-" if name == base else difference(gain),
            "-" if None in agreement else spread(agreement),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="FILE.py[:ARGUMENT]")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--seeds", default="0,1,2", help="numbers joined by commas")
    parser.add_argument("--epochs", type=int, help="of every phase, with a cosine schedule")
    parser.add_argument("--to", help="the phase that students are compared with")
    flags, others = parser.parse_known_args()
    phases = phases_of(flags.config)
    if flags.to and flags.to not in phases:
        parser.error(f"--to: no phase {flags.to!r}; known: {', '.join(phases)}")
    if flags.epochs:
        for name in phases:
            others += [f"--config.{name}.epochs={flags.epochs}", f"--config.{name}.schedule.name=cosine"]
    seeds = [int(seed) for seed in flags.seeds.split(",")]
    print(table([run(flags.config, flags.workdir / f"seed{seed}", seed, others) for seed in seeds], flags.to))


if __name__ == "__main__":
    main()
