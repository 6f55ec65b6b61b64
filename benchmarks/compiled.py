"""What XLA makes of every method's training step: flops, bytes of temporaries and of arguments.

python benchmarks/compiled.py [--pair=resnet20,resnet8] [--batch=16] [--methods=kd,skd] [--out=FILE] [--against=FILE]
    Nothing is timed or run. --out writes what was found; --against compares with what an earlier commit wrote and
    exits with 1 where a method's step has changed. benchmarks/compiled.json was written before banks, second
    views and groups of terms came; a change of XLA changes it too, so it names the version.
"""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from step import Parser, at_least

COUNTS = ("flops", "temporaries", "arguments")


def found(trial) -> dict[str, int]:
    """Of a method's compiled training step."""
    program = trial.lowered.compile()
    memory, cost = program.memory_analysis(), program.cost_analysis()
    counts = (cost["flops"], memory.temp_size_in_bytes, memory.argument_size_in_bytes)
    return dict(zip(COUNTS, map(int, counts), strict=True))


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--pair", default="resnet20,resnet8", help="TEACHER,STUDENT")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--methods", default="", help="as configs/compose.py spells them, joined by commas")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    flags = parser.parse_args()
    at_least(parser, flags, batch=1)
    import jax
    import trials

    from kd_jax import InputError

    before = json.loads(flags.against.read_text()) if flags.against else {"methods": {}}
    given = {"pair": flags.pair, "batch": flags.batch, "jax": jax.__version__}
    known = [name for name in import_module("configs.compose").PARTS if name != "sftn"]  # its step is the teacher's
    names = flags.methods.split(",") if flags.methods else [*before["methods"]] or known
    for name in given.keys() & before.keys():
        if given[name] != before[name]:
            parser.error(f"--against={flags.against}: was written with {name} {before[name]}, this is {given[name]}")
    try:
        made = trials.prepare(flags.pair, tuple(names), flags.batch, 32)
    except InputError as e:
        parser.error(str(e))
    plans, teacher, now = {plan.name: plan for plan in made.plans}, trials.teacher_of(made), {}
    print(f"{flags.pair}, batch {flags.batch}, jax {jax.__version__}\n")
    print(f"{'':<12}" + "".join(f"{count:>16}" for count in COUNTS))
    for name in names:
        now[name] = found(trials.Trial(plans[name.replace("+", "_")], made, teacher))
        changed = "  changed" if name in before["methods"] and before["methods"][name] != now[name] else ""
        print(f"{name:<12}" + "".join(f"{now[name][count]:>16,}" for count in COUNTS) + changed, flush=True)
    if flags.out:
        flags.out.write_text(json.dumps({**given, "methods": now}, indent=1) + "\n")
    return int(any(now[name] != row for name, row in before["methods"].items() if name in now))


if __name__ == "__main__":
    sys.exit(main())
