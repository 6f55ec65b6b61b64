"""What a run would do: everything is built and compiled, two steps are taken, nothing is written."""

import statistics
import time
from collections.abc import Iterator

import jax
import numpy as np

from kd_jax import models
from kd_jax.engine import metrics as metrics_lib
from kd_jax.methods.base import fold
from kd_jax.plan import PhasePlan
from kd_jax.plan.teachers import Teacher
from kd_jax.storage.progress import log_line
from kd_jax.train.batches import Resident, Streamed, batches_of
from kd_jax.train.cache_size import cache_lines
from kd_jax.train.compiled import CompiledPhase
from kd_jax.train.inputs import StepInputs
from kd_jax.train.run import Prepared, prepare
from kd_jax.typing import Variables

STEPS = 2


def dry_run(tree: dict, workdir: str, *, overwrite: bool = False) -> dict[str, float]:
    """Print sizes, steps, learning rates, memory and disk of every phase; take two steps of each.

    A teacher that an earlier phase would train stands in with its initial weights.

    Args:
      tree: the nested dict of a ConfigDict.
      workdir: where the run would live; checked like a run's, not created.
      overwrite: as for a run.

    Returns:
      Phase -> seconds that a training step has taken, of those that train.
    """
    prepared, seconds = prepare(tree, workdir, overwrite=overwrite), {}
    log_line(prepared.heading)
    with batches_of(prepared.recipe, prepared.layout, prepared.dataset) as source:
        for line in cache_lines(prepared.recipe, prepared.plans, source):
            log_line(line)
        for plan in prepared.plans:
            for line in _describe(plan, prepared, source, seconds):
                log_line(line)
    log_line("dry run: nothing was written")
    return seconds


def _describe(
    plan: PhasePlan, prepared: Prepared, source: Resident | Streamed, seconds: dict[str, float]
) -> Iterator[str]:
    """Lines about one phase; the last ones compile and run it. seconds: gets what a step takes."""
    state, phase = plan.abstract, plan.phase
    count = models.count_parameters(state.params["method"])
    yield f"\n{phase.name}: {phase.model}, {models.count_parameters(state.params['student']):,} parameters" + (
        f" and {count:,} of its method" if count else ""
    )
    for teacher in plan.teachers:
        params = models.shapes(teacher.network.model, teacher.network.image_shape)[0].params
        what = dict.fromkeys((teacher.origin, teacher.network.name))  # of one that is no network of ours only once
        count = models.count_parameters(params)
        yield f"  teacher: {', '.join(what)}" + (f", {count:,} parameters" if count else "")
    if plan.weights:
        source = plan.weights().source
        yield f"  not trained: weights of {source['file']} (sha256 {source['sha256'][:12]}...)"
        return
    view = plan.context.view_shapes
    stages = ", ".join("x".join(map(str, s.shape[1:])) for s in view.student.stages)
    ends = f"pooled {view.student.pooled.shape[-1]}; logits {view.student.logits.shape}"
    yield f"  images {view.image.shape}; stages {stages}; {ends}"
    yield (
        f"  {plan.steps:,} steps ({plan.steps_per_epoch:,} an epoch); evaluated every {plan.eval_every:,}, "
        f"saved every {plan.save_every:,}"
    )
    yield f"  {plan.batch_line}"
    for line in plan.notes:
        yield f"  {line}"
    yield "  learning rate: " + ", ".join(
        f"{float(plan.schedule(np.int32(s))):.3g} at step {s:,}" for s in _moments(plan)
    )
    size, tables = (len(plan.seeds) * _bytes(tree) for tree in (state, state.stats["method"]))
    if tables > 1e6:
        yield f"  memory that its method keeps beside parameters: {_megabytes(tables)}"
    checkpoint = prepared.recipe.checkpoint
    copies = checkpoint.keep + checkpoint.best + 1  # one more while it is written
    yield f"  disk for checkpoints: {_megabytes(copies * size)} at most"
    with source:  # which no longer computes ahead after the phase
        yield from _two_steps(plan, prepared, source, seconds)


def _moments(plan: PhasePlan) -> list[int]:
    """Steps at which the learning rate is worth a look."""
    schedule = plan.phase.schedule
    if schedule.name == "cosine":
        steps = [plan.steps * i // 4 for i in range(4)] + [plan.steps - 1]
    else:
        steps = [0, *(round(m * plan.steps_per_epoch) for m in schedule.milestones)]
    warm = round(schedule.warmup_epochs * plan.steps_per_epoch)
    return sorted({s for s in (0, warm, *steps) if s < plan.steps})


def _two_steps(
    plan: PhasePlan, prepared: Prepared, source: Resident | Streamed, seconds: dict[str, float]
) -> Iterator[str]:
    compiled, put = CompiledPhase(plan), prepared.layout.put
    roots = [jax.random.key(seed) for seed in plan.seeds]
    teachers = tuple(t.load and put(_stand_in(t, prepared), "s") for t in plan.teachers)
    # where an earlier phase of this run would train them, zeros do
    earlier = plan.phase.init.method.startswith("phase:")
    loops = tuple(
        compiled.loop_state(
            compiled.init(put(fold(root, "init")), teachers, plan.blank_vars if earlier else plan.initial_vars(seed))
        )
        for seed, root in zip(plan.seeds, roots, strict=True)
    )
    memory = compiled.train.memory_analysis()
    if memory is not None:  # some backends do not say
        yield (
            f"  memory of the compiled step: {_megabytes(memory.temp_size_in_bytes)} of temporaries, "
            f"{_megabytes(memory.argument_size_in_bytes)} of arguments"
        )
    inputs, losses = StepInputs(plan, compiled.teach, source, teachers), []
    keys = tuple(put(fold(root, "train")) for root in roots)
    for step in range(STEPS):
        began = time.monotonic()
        loops = tuple(loop._replace(metrics=compiled.no_metrics()) for loop in loops)
        loops = compiled.step(compiled.train, loops, inputs.train(step, tuple(loop.state for loop in loops)), keys)
        losses.append(statistics.fmean(metrics_lib.read(loop.metrics)["loss"] for loop in loops))
    yield f"  {STEPS} steps taken: loss " + ", ".join(f"{loss:.4f}" for loss in losses)
    seconds[plan.name] = time.monotonic() - began  # of the last one: the first loads programs
    yield f"  the last took {1000 * seconds[plan.name]:.0f} ms; all would take {hours(seconds[plan.name] * plan.steps)}"


def _stand_in(teacher: Teacher, prepared: Prepared) -> Variables:
    """The teacher's weights where they exist already, else initial ones."""
    kind, _, where = teacher.origin.partition(":")
    name = where.partition("/")[0]
    plan = next((p for p in prepared.plans if kind == "phase" and p.name == name), None)
    if plan is None:
        return teacher.load().variables
    if plan.weights:
        return plan.weights().variables
    image = jax.numpy.zeros((1, *teacher.network.image_shape))
    return models.init(teacher.network.model, jax.random.key(0), image)


def hours(seconds: float) -> str:
    """A time that a person reads."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
