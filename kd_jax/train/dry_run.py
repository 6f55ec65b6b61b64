"""What a run would do: everything is built and compiled, two steps are taken, nothing is written."""

import jax
import numpy as np

from kd_jax import models
from kd_jax.plan.build import PhasePlan
from kd_jax.plan.teachers import Teacher
from kd_jax.storage.progress import log_line
from kd_jax.train.batches import Resident, Streamed, batches_of
from kd_jax.train.compiled import CompiledPhase, LoopState
from kd_jax.train.inputs import StepInputs
from kd_jax.train.run import Prepared, prepare
from kd_jax.typing import Variables

STEPS = 2


def dry_run(tree: dict, workdir: str, *, overwrite: bool = False) -> None:
    """Print sizes, steps, learning rates, memory and disk of every phase; take two steps of each.

    A teacher that an earlier phase would train stands in with its initial weights.

    Args:
      tree: the nested dict of a ConfigDict.
      workdir: where the run would live; checked like a run's, not created.
      overwrite: as for a run.
    """
    made = prepare(tree, workdir, overwrite=overwrite)
    log_line(made.heading)
    for job in made.jobs:
        for line in _describe(job, made):
            log_line(line)
    log_line("dry run: nothing was written")


def _describe(job: PhasePlan, made: Prepared):
    """Lines about one phase; the last ones compile and run it."""
    state, phase = job.abstract, job.phase
    own = models.count_parameters(state.params["method"])
    yield f"\n{phase.name}: {phase.model}, {models.count_parameters(state.params['student']):,} parameters" + (
        f" and {own:,} of its method" if own else ""
    )
    for teacher in job.teachers:
        params = models.shapes(teacher.network.model, teacher.network.image_shape)[0].params
        yield f"  teacher: {teacher.origin}, {teacher.network.name}, {models.count_parameters(params):,} parameters"
    if job.weights:
        source = job.weights().source
        yield f"  not trained: weights of {source['file']} (sha256 {source['sha256'][:12]}...)"
        return
    view = job.context.view_shapes
    stages = ", ".join("x".join(map(str, s.shape[1:])) for s in view.student.stages)
    ends = f"pooled {view.student.pooled.shape[-1]}; logits {view.student.logits.shape}"
    yield f"  images {view.image.shape}; stages {stages}; {ends}"
    yield (
        f"  {job.steps:,} steps ({job.steps_per_epoch:,} an epoch); evaluated every {job.eval_every:,}, "
        f"saved every {job.save_every:,}"
    )
    yield "  " + job.effective_batch(made.layout.count).partition(": ")[2]
    yield "  learning rate: " + ", ".join(
        f"{float(job.schedule(np.int32(s))):.3g} at step {s:,}" for s in _moments(job)
    )
    size, kept_by = (_bytes(tree) for tree in (state, state.stats["method"]))
    if kept_by > 1e6:
        yield f"  memory that its method keeps beside parameters: {_megabytes(kept_by)}"
    kept = made.recipe.checkpoint.keep + made.recipe.checkpoint.best + 1  # one more while it is written
    yield f"  disk for checkpoints: {_megabytes(kept * size)} at most"
    with batches_of(made.recipe, made.layout, made.dataset) as source:
        yield from _two_steps(job, made, source)


def _moments(job: PhasePlan) -> list[int]:
    """Steps at which the learning rate is worth a look."""
    schedule = job.phase.schedule
    if schedule.name == "cosine":
        steps = [job.steps * i // 4 for i in range(4)] + [job.steps - 1]
    else:
        steps = [0, *(round(m * job.steps_per_epoch) for m in schedule.milestones)]
    warm = round(schedule.warmup_epochs * job.steps_per_epoch)
    return sorted({s for s in (0, warm, *steps) if s < job.steps})


def _two_steps(job: PhasePlan, made: Prepared, source: Resident | Streamed):
    programs = CompiledPhase(job, made.layout, skip=made.recipe.skip_nonfinite)
    key = made.layout.put(jax.random.key(made.recipe.seed))
    teachers = tuple(t.load and made.layout.put(_stand_in(t, made), "s") for t in job.teachers)
    # an earlier phase of this run would train it
    given = job.blank if job.phase.init.method.startswith("phase:") else job.given()
    carry = LoopState(programs.init(key, teachers, given), programs.no_metrics(), programs.no_faults())
    feed = StepInputs(programs, source, teachers)
    taught, batch = feed.train(0, carry.state)
    compiled = programs.train.lower(carry, taught, batch, key).compile()
    memory = compiled.memory_analysis()
    if memory is not None:  # some backends do not say
        yield (
            f"  memory of the compiled step: {_megabytes(memory.temp_size_in_bytes)} of temporaries, "
            f"{_megabytes(memory.argument_size_in_bytes)} of arguments"
        )
    losses = []
    for step in range(STEPS):
        taught, batch = feed.train(step, carry.state)
        carry = compiled(carry._replace(metrics=programs.no_metrics()), taught, batch, key)
        losses.append(float(carry.metrics["loss"].total / carry.metrics["loss"].count))
    yield f"  {STEPS} steps taken: loss " + ", ".join(f"{loss:.4f}" for loss in losses)


def _stand_in(teacher: Teacher, made: Prepared) -> Variables:
    """The teacher's weights where they exist already, else initial ones."""
    kind, _, where = teacher.origin.partition(":")
    job = next((job for job in made.jobs if kind == "phase" and job.phase.name == where.partition("/")[0]), None)
    if job is None:
        return teacher.load().variables
    if job.weights:
        return job.weights().variables
    image = jax.numpy.zeros((1, *teacher.network.image_shape))
    return models.init(teacher.network.model, jax.random.key(0), image)


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
