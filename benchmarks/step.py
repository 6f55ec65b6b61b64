"""What a distillation step costs, on this machine, now.

python benchmarks/step.py [--pair=resnet32x4,resnet8x4] [--batch=64] [--steps=10] [--method=skd] [--image=32]
    Milliseconds (median of --steps interleaved rounds, and the fastest), images/s and the ratio to plain KD of:
    the whole step of KD and of --method (the teacher's program, then the training step), the student's training
    step alone, the teacher's forward alone, a step of the policy where the method searches one (the teacher's
    forward included), and with torch installed (extra `torch`) a KD step of the same
    networks in PyTorch. Of each compiled program: seconds to compile, bytes of temporaries and of arguments.
    XLA's flops of the whole step against the teacher's forward plus three times the student's, each lowered
    alone. The method's own parameters. The load of the machine before and after.
python benchmarks/step.py --teacher_phase [--pair=...] [--batch=64] [--steps=10] [--image=32]
    The teacher phase of SFTN against plain training of the same teacher: ms, ratio, parameters of the branches.
python benchmarks/step.py --first_step
    Seconds from the quickstart's command to its first step with a warm compilation cache, and where they go.
python benchmarks/step.py --memory[=5000]
    Resident memory after a tenth and after all of so many steps of a tiny run, and their ratio.
"""

import argparse
import os
import statistics
import sys
from importlib import import_module


class Parser(argparse.ArgumentParser):
    """One line and exit code 2 for wrong flags."""

    def error(self, message):
        self.exit(2, f"error: {message}; --help shows what is accepted\n")


def at_least(parser: Parser, flags, **least: int) -> None:
    """Refuse a number below what is the least of its flag."""
    for name, low in least.items():
        value = getattr(flags, name)
        if value is not None and value < low:
            parser.error(f"--{name}={value}: must be at least {low}")


def load() -> str:
    """The machine's load in the last 1, 5 and 15 minutes."""
    return " ".join(f"{x:.2f}" for x in os.getloadavg())


def table(flags) -> None:
    """Measure and print."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # seconds to compile are to be true
    import trials

    method = flags.method.replace("+", "_")
    before, made = load(), trials.prepare(flags.pair, (flags.method,), flags.batch, flags.image)
    teacher = trials.teacher_of(made)
    plans = {plan.name: plan for plan in made.plans}
    tried = {name: trials.Trial(plans[name], made, teacher) for name in dict.fromkeys(("kd", method, "alone"))}
    programs = {f"{name}: training step": trial.lowered for name, trial in tried.items()}
    programs["teacher: forward"] = tried["kd"].lowered_teacher
    compiled = {name: trials.compiled(lowered) for name, lowered in programs.items()}
    contenders = {f"{name}: whole step": trial.step for name, trial in tried.items() if name != "alone"}
    contenders |= {"student's step alone": tried["alone"].step, "teacher's forward alone": tried["kd"].forward}
    if plans[method].distiller.search:
        contenders[f"{method}: policy step"] = tried[method].search
    other = trials.torch_step(tried["kd"], made)
    if not isinstance(other, str):
        contenders["kd in PyTorch: whole step"] = other
    spent = trials.rounds(contenders, flags.steps)

    device, cores = jax.devices()[0], os.cpu_count()
    print(f"{flags.pair}, batch {flags.batch}, {flags.image} x {flags.image} pixels, {flags.steps} rounds; ", end="")
    print(f"{len(jax.devices())} x {device.device_kind}, {cores} cores, jax {jax.__version__}")
    print(f"load of the machine before: {before}; after: {load()} (this benchmark included; {cores} is full)\n")
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    print(f"{'':<28}{'ms':>10}{'fastest':>10}{'images/s':>12}{'of kd':>8}")
    for name, seconds in medians.items():
        numbers = f"{seconds * 1e3:>10.2f}{min(spent[name]) * 1e3:>10.2f}{flags.batch / seconds:>12.1f}"
        print(f"{name:<28}{numbers}{seconds / medians['kd: whole step']:>8.3f}")
    print(other if isinstance(other, str) else f"({sys.modules['torch_resnet'].describe()})")
    print(f"\n{'':<28}{'compile s':>10}{'temporaries':>14}{'arguments':>14}  bytes")
    for name, (seconds, memory) in compiled.items():
        sizes = (memory.temp_size_in_bytes, memory.argument_size_in_bytes) if memory else ("unknown",) * 2
        print(f"{name:<28}{seconds:>10.2f}" + "".join(f"{s:>14,}" if memory else f"{s:>14}" for s in sizes))
    print()
    for name in tried:
        if name != "alone":
            whole, parts = tried[name].flops(teacher)
            print(f"{name}: {whole:.4g} flops a step = {whole / parts:.4f} of teacher + 3 x student ({parts:.4g})")
    print(f"{method}: {tried[method].parameters:,} parameters of its own")


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--pair", default="resnet32x4,resnet8x4", help="TEACHER,STUDENT")
    for name, default, what in (("batch", 64, "images"), ("steps", 10, "rounds"), ("image", 32, "pixels a side")):
        parser.add_argument(f"--{name}", type=int, default=default, help=what)
    parser.add_argument("--method", default="skd", help="as configs/compose.py spells it: dkd, skd+dkd, sokd, ...")
    parser.add_argument("--first_step", action="store_true", help="time from command to first step instead")
    parser.add_argument("--teacher_phase", action="store_true", help="cost of SFTN's teacher phase instead")
    parser.add_argument("--memory", type=int, nargs="?", const=5000, metavar="STEPS", help="memory instead")
    flags = parser.parse_args()
    at_least(parser, flags, batch=1, steps=1, image=8, memory=100)
    if bool(flags.first_step) + bool(flags.memory) + flags.teacher_phase > 1:
        parser.error("--first_step, --memory, --teacher_phase: give one of them")
    if flags.first_step:
        import first_step

        first_step.report()
    elif flags.memory:
        import memory

        memory.report(flags.memory)
    else:
        from kd_jax import InputError, recipes

        try:
            recipes.argument(flags.pair)
            import_module("configs.compose").get_config(f"{flags.method},{flags.pair}")
        except InputError as e:
            parser.error(f"--pair={flags.pair} --method={flags.method}: {e}")
        if flags.teacher_phase:
            import teacher_phase

            teacher_phase.report(flags.pair, flags.batch, flags.steps, flags.image)
        else:
            table(flags)
    return 0


if __name__ == "__main__":
    sys.exit(main())
