"""A worker of benchmarks/run.py step: kd_jax's steps under the environment that the parent gives it.

python benchmarks/jax_worker.py PAIR BATCH IMAGE METHOD
    Calls: "KD", the method in capitals, "student alone", "teacher forward" and, where the method searches, "policy";
    on a CPU "student alone" and "teacher forward", "layers by XLA" too: without kd_jax.layers.convolution and cells.
    Facts: of every compiled program seconds to compile, bytes of temporaries and of arguments; XLA's flops of the step
    over those of its parts; the method's parameters.
"""

import sys

import worker


def main() -> None:
    answers = worker.quiet()
    pair, batch, image, method = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    import jax

    import programs
    from kd_jax.tools import environment

    environment.keep_memory()  # as the commands do
    jax.config.update("jax_enable_compilation_cache", False)  # seconds to compile are to be true
    prepared = programs.prepare(pair, (method,), batch, image)
    teacher = programs.untrained_teacher(prepared)
    plans = {plan.name: plan for plan in prepared.plans}
    names = {"KD": "kd", method.upper(): method.replace("+", "_"), "student alone": "alone"}
    # before they are compiled for use
    accounts = {title: _account(plans[name].traced.train.lower()) for title, name in names.items()}
    phases = {title: programs.TimedPhase(plans[name], prepared, teacher) for title, name in names.items()}
    calls = {title: phase.step for title, phase in phases.items()} | {"teacher forward": phases["KD"].forward}
    if jax.default_backend() == "cpu":
        calls |= _by_xla(pair, batch, image, teacher)
    last = phases[method.upper()]
    if last.plan.distiller.search:
        calls["policy"] = last.search
    facts = {
        "programs": accounts | {"teacher forward": _account(phases["KD"].lowered_teacher)},
        "flops": {title: [*map(int, phases[title].flops(teacher))] for title in ("KD", method.upper())},
        "parameters": last.parameters,
        "method": method,
        "platform": jax.default_backend(),
    }
    worker.serve(calls, facts, answers)


def _by_xla(pair: str, batch: int, image: int, teacher) -> dict:
    """Calls of programs traced with XLA's own convolutions and max pooling."""
    from flax import linen as nn
    from jax import lax

    import programs
    from kd_jax.layers import basic
    from kd_jax.models import vgg

    def max_pool(x, size, stride):
        return nn.max_pool(x, (size, size), (stride, stride))

    convolve, pool = basic.convolve, vgg.max_pool
    basic.convolve, vgg.max_pool = lax.conv_general_dilated, max_pool
    try:
        prepared = programs.prepare(pair, (), batch, image)
        phases = {plan.name: programs.TimedPhase(plan, prepared, teacher) for plan in prepared.plans}
        calls = {"student alone": phases["alone"].step, "teacher forward": phases["kd"].forward}
        for call in calls.values():
            call()  # traced here
    finally:
        basic.convolve, vgg.max_pool = convolve, pool
    return {f"{title}, layers by XLA": call for title, call in calls.items()}


def _account(lowered) -> list:
    import programs

    seconds, memory = programs.compiled(lowered)
    return [seconds, memory and memory.temp_size_in_bytes, memory and memory.argument_size_in_bytes]


if __name__ == "__main__":
    main()
