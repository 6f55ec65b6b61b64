"""The compiled programs of one phase: the pure functions of data and engine, put on the devices.

Each network gets images normalised by its own mean and deviation; batches carry [0, 1].
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kd_jax import engine, models
from kd_jax.distributed.mesh import Layout
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine.state import TrainState
from kd_jax.engine.step import inputs, select_outputs
from kd_jax.models.network import Network, normalize
from kd_jax.plan.build import PhasePlan
from kd_jax.typing import WHOLE, Array, Batch, Outputs, Variables, Vars


class LoopState(NamedTuple):
    """What one training step hands to the next; donated."""

    state: TrainState
    metrics: metrics_lib.Metrics
    health: metrics_lib.Health


class CompiledPhase:
    """Compiled on first use, each once: shapes do not change within a phase."""

    def __init__(self, job: PhasePlan, layout: Layout, *, skip: int = 0):
        """skip: how many updates may be left out because their loss or result is not finite."""
        self.job, self.layout = job, layout
        parts, trains = job.parts, job.phase.trains
        how = {"task": job.task, "axis_name": layout.axis_name, "spread": layout.spread}
        updates = {"trains": trains, "ema": job.phase.ema, "accumulate": job.phase.accumulate}
        updates["scan"] = jax.default_backend() != "cpu"
        step = partial(engine.train_step, **parts, **updates, **how)
        search_step = partial(engine.policy_step, **parts, **how)
        gather, _ = layout.spread or WHOLE

        def init(key: Array, teachers: tuple[Variables | None, ...], given: dict[str, Vars]) -> TrainState:
            start = partial(models.init, job.network.model, key, jnp.zeros((1, *job.network.image_shape)))
            known = [
                (t.network.model, start() if v is None else v) for t, v in zip(job.teachers, teachers, strict=True)
            ]
            context = job.context._replace(teachers=tuple(known), initial_vars=given)
            return engine.init_state(key, context=context, trains=trains, ema=job.phase.ema is not None, **parts)

        def seen(batch: Batch) -> Batch:
            """The batch with every image normalised for the network."""
            views = {name: {**v, "image": _normalized(job.network, v["image"])} for name, v in _views(batch).items()}
            return {**batch, "image": _normalized(job.network, batch["image"])} | ({"views": views} if views else {})

        def train(carry: LoopState, teachers: tuple[Outputs, ...], batch: Batch, key: Array) -> LoopState:
            state, measured = step(carry.state, teachers, seen(batch), key)
            summed, fine = metrics_lib.add(carry.metrics, measured), jnp.isfinite(measured["loss"].total)
            if skip:  # keep what was before a bad step, but for the count of steps
                fine &= jnp.isfinite(optax.tree.norm(state.params))
                old = carry.state._replace(step=state.step), carry.metrics
                state, summed = jax.tree.map(partial(jnp.where, fine), (state, summed), old)
            return LoopState(state, summed, metrics_lib.check(carry.health, state.step, measured, fine, skip))

        def search(carry: LoopState, inner, outer, key: Array) -> LoopState:
            inner, outer = ((taught, seen(batch)) for taught, batch in (inner, outer))
            state, _ = search_step(carry.state, inner, outer, key)
            return carry._replace(state=state)

        def evaluate(model, variables: Variables, teacher_logits: Array | None, batch: Batch, so_far):
            measured = engine.eval_step(gather(variables), teacher_logits, seen(batch), model=model)
            return metrics_lib.add(so_far, measured)

        def maps(state: TrainState, teachers: tuple[Outputs, ...], batch: Batch) -> dict[str, Array]:
            return engine.visualizations(
                gather(state), teachers, seen(batch), model=job.network.model, distiller=job.distiller
            )

        alone = {"axis_name": None, "spread": None}
        self._steps = {"train": partial(step, **alone), "search": partial(search_step, **alone)}
        counted, measured = self._metrics()
        states = layout.split(job.abstract)
        carried = {"outs": (LoopState(states, "r", "r"),), "donate": (0,)}
        self._init = layout.jit(init, ins="rsr", outs=(states,))
        self.train = layout.jit_step(train, ins=(*carried["outs"], "b", "b", "r"), **carried)
        self.search = layout.jit_step(search, ins=(*carried["outs"], "b", "b", "r"), **carried)
        self.visualizations = layout.jit(maps, ins="sbb", outs="b")
        self._evaluate, self._measuring = evaluate, {}
        self.right = layout.jit(_right, ins="bb", outs="r")
        # made on the device each time: a donated copy of a host array would take the original along
        self.no_metrics = layout.jit(lambda: metrics_lib.zeros_like(counted), ins="", outs="r")
        self.no_measures = layout.jit(lambda: metrics_lib.zeros_like(measured), ins="", outs="r")
        self.no_faults = layout.jit(lambda: metrics_lib.healthy(counted), ins="", outs="r")
        self._teachers = [
            layout.jit(_teacher(t.network, job.distiller.needs, gather), ins="sb", outs="b") for t in job.teachers
        ]

    def init(
        self, key: Array, teachers: tuple[Variables | None, ...], given: dict[str, Vars] | None = None
    ) -> TrainState:
        """The state before the first step. given: what the members start with."""
        return self._init(key, teachers, given or {})

    def evaluate(self, model: nn.Module):
        """The program that measures a network on a batch: (variables, teacher's logits, batch, measures so far)."""
        if model not in self._measuring:
            self._measuring[model] = self.layout.jit(partial(self._evaluate, model), ins="sbbr", outs="r")
        return self._measuring[model]

    def teach(self, teachers: tuple[Variables, ...], image: Array) -> tuple[Outputs, ...]:
        """Every teacher's outputs for a batch of images, by programs of their own; without those that are None."""
        pairs = zip(self._teachers, teachers, strict=True)
        return tuple(program(v, image) for program, v in pairs if v is not None)

    def trace_search(self) -> None:
        """Find what the policy step cannot differentiate, without computing anything."""
        read = inputs(self.job.context.view_shapes, self.job.distiller.needs)
        jax.eval_shape(self._steps["search"], self.job.abstract, read, read, jax.random.key(0))

    def _metrics(self) -> tuple[metrics_lib.Metrics, metrics_lib.Metrics]:
        """Shapes of the metrics of a training step and of an evaluation step."""
        job = self.job
        taught, batch = inputs(job.context.view_shapes, job.distiller.needs)
        test = partial(engine.eval_step, model=job.network.model)
        logits = job.context.view_shapes.student.logits if job.fixed_teachers else None
        return (
            jax.eval_shape(self._steps["train"], job.abstract, taught, batch, jax.random.key(0))[1],
            jax.eval_shape(test, job.abstract.student, logits, batch),
        )


def _right(logits: Array, batch: Batch) -> Array:
    """How many examples of a test batch the logits (B, K) get right."""
    return jnp.sum((jnp.argmax(logits, axis=-1) == batch["label"]) * batch["mask"])


def _normalized(network: Network, image: Array) -> Array:
    return normalize(image, network.mean, network.std)


def _views(batch: Batch) -> dict:
    return batch.get("views", {})


def _teacher(network: Network, needs: frozenset, gather):
    def run(variables: Variables, image: Array) -> Outputs:
        return select_outputs(
            engine.teacher_outputs(network.model, gather(variables), _normalized(network, image)), needs
        )

    return run
