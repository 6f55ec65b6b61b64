"""What every method costs beside plain KD: step time, memory, flops and parameters, in one run.

Each method is timed against KD in turns (KD, method, KD, method, ...): the median of the whole step (the teacher's
program, then the training step) as a ratio to KD's; temporaries of the compiled training step and its arguments
(the state, the teacher's outputs, the batch) beside KD's; its flops; parameters of the method's own; of a method
that searches, a step of the policy as a ratio to its own training step; of one with a phase that prepares it, that
phase's step (METHOD-PHASE); of SFTN its teacher's phase against plain training of that teacher. Made-up images;
--examples is how many, by which a memory bank is sized. --json is what docs/make_methods.py reads. --against
compares flops and bytes with those of an earlier --json, and names what differs."""

import json
import tempfile
from pathlib import Path

from record import Measured, Table, at_least
from worker import ratio, rounds

COUNTS = ("flops", "temp", "argument")


def flags(parser) -> None:
    parser.add_argument("--pair", default="resnet20,resnet8", help="TEACHER,STUDENT")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7, help="0 times nothing")
    parser.add_argument("--image", type=int, default=32, help="pixels a side")
    parser.add_argument("--examples", type=int, default=50_000, help="in the training set")
    parser.add_argument("--methods", default="", help="as configs/compose.py spells them, joined by commas")
    parser.add_argument("--json", type=Path, help="file for docs/make_methods.py")
    parser.add_argument("--against", type=Path, help="such a file")


def check(flags, parser) -> None:
    at_least(parser, flags, batch=1, rounds=0, image=8, examples=flags.batch)
    flags.error = parser.error


def measure(flags) -> Measured:
    import jax

    import programs
    from configs import compose
    from kd_jax import InputError

    names = tuple(flags.methods.split(",")) if flags.methods else tuple(compose.PARTS)
    students = tuple(name for name in names if name != "sftn")  # its cost is the teacher's
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())  # methods share the teacher's program
    try:
        prepared = programs.prepare(flags.pair, students, flags.batch, flags.image, flags.examples)
    except InputError as e:
        flags.error(str(e))
    plans, teacher = {plan.name: plan for plan in prepared.plans}, programs.untrained_teacher(prepared)
    kd, spelled = programs.TimedPhase(plans["kd"], prepared, teacher), {n.replace("+", "_"): n for n in students}
    rows = {}
    for plan in (plan for plan in prepared.plans if plan.name.partition("-")[0] in spelled):
        label, *phase = plan.name.split("-")
        rows["-".join([spelled[label], *phase])] = _costs(
            programs.TimedPhase(plan, prepared, teacher), kd, flags.rounds
        )
    if "sftn" in names:
        rows["sftn-teacher"] = _teacher_phase(flags)
    content = {"pair": flags.pair, "batch": flags.batch, "jax": jax.__version__, "methods": rows}
    notes = _changes(json.loads(flags.against.read_text()), content) if flags.against else []
    if flags.json:
        flags.json.write_text(json.dumps(content, indent=1) + "\n")
    columns = ("method", "step of KD's", "temporaries", "arguments", "flops", "parameters", "policy step of its own")
    keys = ("time", "temp", "argument", "flops", "parameters", "policy")
    table = [[name, *(row.get(key) for key in keys)] for name, row in rows.items()]
    title = f"{flags.pair}, batch {flags.batch}; bytes are beside KD's; of sftn-teacher all is beside a plain teacher"
    return Measured([Table(title, columns, table)], notes=notes)


def _costs(phase, base, count: int) -> dict:
    """A method's row beside another phase's."""
    import programs

    memory, beside = (programs.compiled(p.lowered)[1] for p in (phase, base))
    extra = {k: getattr(memory, f"{k}_size_in_bytes") - getattr(beside, f"{k}_size_in_bytes") for k in COUNTS[1:]}
    row = {"parameters": phase.parameters, **extra, "flops": int(phase.lowered.cost_analysis()["flops"])}
    if not count:
        return row
    contenders = {"base": base.step, "method": phase.step}
    if phase.plan.split.steps:
        contenders["policy"] = phase.search
    spent = rounds(contenders, count)
    policy = {"policy": ratio(spent, "policy", "method")} if "policy" in contenders else {}
    return row | {"time": ratio(spent, "method", "base")} | policy


def _teacher_phase(flags) -> dict:
    """SFTN's teacher phase beside plain training of the same teacher."""
    import programs

    prepared = programs.prepare_sftn(flags.pair, flags.batch, flags.image)
    plain, with_branches = (programs.TimedPhase(plan, prepared, None) for plan in prepared.plans)
    return _costs(with_branches, plain, flags.rounds)


def _changes(before: dict, now: dict) -> list[str]:
    """Methods whose compiled step is not as it was."""
    for key in ("pair", "batch", "jax"):
        if before.get(key) != now[key]:
            return [f"--against: was written with {key} {before.get(key)}, this is {now[key]}"]
    return [
        f"{name}: {key} was {before['methods'][name][key]:,}, is {row[key]:,}"
        for name, row in now["methods"].items()
        for key in COUNTS
        if before["methods"].get(name, {}).get(key, row[key]) != row[key]
    ]
