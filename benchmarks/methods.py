"""What every method costs beside plain KD: step time, memory and parameters, in one run.

python benchmarks/methods.py [--pair=resnet32x4,resnet8x4] [--batch=64] [--steps=7] [--methods=rkd,skd+dkd] [--out=FILE]
                             [--examples=50000]
    Each method is timed against KD in turns (KD, method, KD, method, ...): the median whole step (the teacher's
    program, then the training step) as a ratio to KD's; temporaries of the compiled training step and its arguments
    (the state, the teacher's outputs, the batch) beside KD's; parameters of the method's own; of a method that
    searches, a step of the policy as a ratio to its own training step; of one with a phase that prepares it, that
    phase's step (METHOD-PHASE). Made-up images; --examples is how many, by which a memory bank is sized.
    docs/make_methods.py reads --out.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from step import Parser, at_least, load


def measured(trial, kd, of_kd, rounds: int) -> dict:
    """A method's row. of_kd: XLA's account of the memory of KD's training step."""
    import trials

    own = trials.compiled(trial.lowered)[1]
    contenders = {"kd": kd.step, "method": trial.step} | ({"policy": trial.search} if trial.plan.split.steps else {})
    spent = {name: statistics.median(seconds) for name, seconds in trials.rounds(contenders, rounds).items()}
    extra = {
        part: getattr(own, f"{part}_size_in_bytes") - getattr(of_kd, f"{part}_size_in_bytes")
        for part in ("temp", "argument")
    }
    row = {"time": spent["method"] / spent["kd"], "parameters": trial.parameters, **extra}
    return row | ({"policy": spent["policy"] / spent["method"]} if "policy" in spent else {})


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--pair", default="resnet32x4,resnet8x4", help="TEACHER,STUDENT")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=7, help="rounds")
    parser.add_argument("--image", type=int, default=32, help="pixels a side")
    parser.add_argument("--examples", type=int, default=50_000, help="in the training set")
    parser.add_argument("--methods", default="", help="as configs/compose.py spells them, joined by commas")
    parser.add_argument("--out", type=Path, help="JSON file for docs/make_methods.py")
    flags = parser.parse_args()
    at_least(parser, flags, batch=1, steps=1, image=8, examples=flags.batch)
    import jax
    import trials

    from kd_jax import InputError

    known = [name for name in import_module("configs.compose").PARTS if name != "sftn"]  # its cost is the teacher's
    names = tuple(flags.methods.split(",")) if flags.methods else tuple(known)
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())  # methods share the teacher's program
    before = load()
    try:
        made = trials.prepare(flags.pair, names, flags.batch, flags.image, flags.examples)
    except InputError as e:
        parser.error(str(e))
    plans, teacher = {plan.name: plan for plan in made.plans}, trials.teacher_of(made)
    kd, rows = trials.Trial(plans["kd"], made, teacher), {}
    of_kd = trials.compiled(kd.lowered)[1]
    print(f"{flags.pair}, batch {flags.batch}, {flags.steps} rounds; {jax.devices()[0].device_kind}, ", end="")
    print(f"{os.cpu_count()} cores, jax {jax.__version__}; load before: {before}\n")
    print(f"{'':<12}{'time of kd':>11}{'temporaries':>14}{'arguments':>14}{'parameters':>12}{'policy step':>12}")
    spelled = {name.replace("+", "_"): name for name in names}
    for plan in (plan for plan in made.plans if plan.name.partition("-")[0] in spelled):
        label, *phase = plan.name.split("-")
        name = "-".join([spelled[label], *phase])
        row = rows[name] = measured(trials.Trial(plan, made, teacher), kd, of_kd, flags.steps)
        policy = f"{row['policy']:>12.2f}" if "policy" in row else ""
        sizes = f"{row['temp']:>+14,}{row['argument']:>+14,}{row['parameters']:>12,}"
        print(f"{name:<14}{row['time']:>9.3f}{sizes}{policy}", flush=True)
    print(f"\nload after: {load()}; bytes are beside kd's, whose temporaries are {of_kd.temp_size_in_bytes:,}")
    if flags.out:
        flags.out.write_text(json.dumps({"pair": flags.pair, "batch": flags.batch, "methods": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
