"""The compiled programs of one phase: the pure functions of data and engine, put on the devices.

Each network gets images normalised by its own mean and deviation; batches carry [0, 1].
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kd_jax import engine
from kd_jax.build import Job
from kd_jax.data import Dataset, resident
from kd_jax.data.augment import normalize
from kd_jax.data.resident import Split
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState
from kd_jax.engine.step import only
from kd_jax.parallel import Layout
from kd_jax.teachers import Network
from kd_jax.typing import Array, Batch, Outputs, Variables


class Carry(NamedTuple):
    """What one training step hands to the next; donated."""

    state: TrainState
    metrics: metrics_lib.Metrics
    health: metrics_lib.Health


class Resident:
    """A data set on the devices, and the seed that orders and augments it."""

    def __init__(self, layout: Layout, dataset: Dataset, *, seed: int, augment: str):
        self.layout, self.seed = layout, seed
        self.augment = dataset.augment if augment == "auto" else augment
        self.sizes = {"train": len(dataset.train), "test": len(dataset.test)}
        self.arrays = {s: layout.put((getattr(dataset, s).images, getattr(dataset, s).labels)) for s in self.sizes}
        self.key = layout.put(jax.random.key(seed))
        make = partial(resident.train_batch, augment=self.augment)
        self._train = layout.jit(make, ins="rrbrr", outs="b")
        self._test = layout.jit(resident.test_batch, ins="rrbb", outs="b")

    def train(self, step: int, batch_size: int, split: Split | None = None, judge: bool = False) -> Batch:
        """The batch of a training step: a function of (seed, step) and, while a search holds out, of that."""
        known = {"n": self.sizes["train"], "batch_size": batch_size, "split": split, "judge": judge}
        epoch, index = resident.train_index(self.seed, step, **known)
        return self._train(*self.arrays["train"], index, jnp.int32(epoch), self.key)

    def test(self, batch_size: int):
        """Every test batch in order; the last one is filled up and masked."""
        n = self.sizes["test"]
        for step in range(-(-n // batch_size)):
            index, mask = resident.test_index(step, n=n, batch_size=batch_size)
            yield self._test(*self.arrays["test"], index, mask)


class Programs:
    """Compiled on first use, each once: shapes do not change within a phase."""

    def __init__(self, job: Job, layout: Layout, *, skip: int = 0):
        """skip: how many updates may be left out because their loss or result is not finite."""
        self.job, self.layout = job, layout
        parts = {"student": job.network.model, "distiller": job.distiller, "tx": job.tx}
        facts = job.facts

        def init(key: Array, teachers: tuple[Variables, ...]) -> TrainState:
            models = (t.network.model for t in job.teachers)
            known = facts._replace(teachers=tuple(zip(models, teachers, strict=True)))
            return engine.init_state(key, facts=known, **parts)

        def seen(batch: Batch) -> Batch:
            return {**batch, "image": _normalized(job.network, batch["image"])}

        def train(carry: Carry, teachers: tuple[Outputs, ...], batch: Batch, key: Array) -> Carry:
            state, measured = engine.train_step(
                carry.state, teachers, seen(batch), key, axis_name=layout.axis_name, **parts
            )
            summed, fine = metrics_lib.add(carry.metrics, measured), jnp.isfinite(measured["loss"].total)
            if skip:  # keep what was before a bad step, but for the count of steps
                fine &= jnp.isfinite(optax.tree.norm(state.params))
                old = carry.state._replace(step=state.step), carry.metrics
                state, summed = jax.tree.map(partial(jnp.where, fine), (state, summed), old)
            return Carry(state, summed, metrics_lib.check(carry.health, state.step, measured, fine, skip))

        def search(carry: Carry, inner, outer, key: Array) -> Carry:
            inner, outer = ((taught, seen(batch)) for taught, batch in (inner, outer))
            state, _ = engine.policy_step(carry.state, inner, outer, key, axis_name=layout.axis_name, **parts)
            return carry._replace(state=state)

        def evaluate(variables: Variables, teacher_logits: Array | None, batch: Batch, so_far):
            measured = engine.eval_step(variables, teacher_logits, seen(batch), model=job.network.model)
            return metrics_lib.add(so_far, measured)

        def maps(state: TrainState, teachers: tuple[Outputs, ...], batch: Batch) -> dict[str, Array]:
            return engine.maps(state, teachers, seen(batch), model=job.network.model, distiller=job.distiller)

        self._parts = parts
        counted, measured = self._metrics()
        self.init = layout.jit(init, ins="rr", outs="r")
        self.train = layout.jit_step(train, ins="rbbr", outs="r", donate=(0,))
        self.search = layout.jit_step(search, ins="rbbr", outs="r", donate=(0,))
        self.maps = layout.jit(maps, ins="rbb", outs="b")
        self.evaluate = layout.jit(evaluate, ins="rbbr", outs="r")
        # made on the device each time: a donated copy of a host array would take the original along
        self.no_metrics = layout.jit(lambda: metrics_lib.zeros_like(counted), ins="", outs="r")
        self.no_measures = layout.jit(lambda: metrics_lib.zeros_like(measured), ins="", outs="r")
        self.no_faults = layout.jit(lambda: metrics_lib.healthy(counted), ins="", outs="r")
        self._teachers = [
            layout.jit(_teacher(t.network, job.distiller.needs), ins="rb", outs="b") for t in job.teachers
        ]

    def teach(self, teachers: tuple[Variables, ...], image: Array) -> tuple[Outputs, ...]:
        """Every teacher's outputs for a batch of images, by programs of their own."""
        return tuple(program(v, image) for program, v in zip(self._teachers, teachers, strict=True))

    def trace_search(self) -> None:
        """Find what the policy step cannot differentiate, without computing anything."""
        step, read = partial(engine.policy_step, **self._parts), self._read()
        jax.eval_shape(step, self.job.abstract, read, read, jax.random.key(0))

    def _read(self) -> tuple[tuple[Outputs, ...], Batch]:
        """Shapes of what a training step reads: the teachers' outputs and the batch."""
        job, view = self.job, self.job.facts.view_shapes
        mask = jax.ShapeDtypeStruct(view.labels.shape, jnp.float32)
        batch = {"image": view.image, "label": view.labels, "index": view.labels, "mask": mask}
        return tuple(only(t, job.distiller.needs) for t in view.teachers) if job.needs_teachers else (), batch

    def _metrics(self) -> tuple[metrics_lib.Metrics, metrics_lib.Metrics]:
        """Shapes of the metrics of a training step and of an evaluation step."""
        job, (taught, batch) = self.job, self._read()
        train = partial(engine.train_step, **self._parts)
        test = partial(engine.eval_step, model=job.network.model)
        logits = job.facts.view_shapes.student.logits if job.teachers else None
        return (
            jax.eval_shape(train, job.abstract, taught, batch, jax.random.key(0))[1],
            jax.eval_shape(test, job.abstract.student, logits, batch),
        )


def _normalized(network: Network, image: Array) -> Array:
    return normalize(image, network.mean, network.std)


def _teacher(network: Network, needs: frozenset):
    def run(variables: Variables, image: Array) -> Outputs:
        return only(engine.teacher_outputs(network.model, variables, _normalized(network, image)), needs)

    return run
