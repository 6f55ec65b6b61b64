"""The compiled programs of one phase: the steps that its plan has traced, and the functions beside them."""

import hashlib
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from kd_jax import engine, models
from kd_jax.distributed.mesh import Layout
from kd_jax.engine import metrics as metrics_lib
from kd_jax.engine import seeds
from kd_jax.engine.loop import LoopState, normalized
from kd_jax.engine.state import TrainState
from kd_jax.engine.step import select_outputs
from kd_jax.models.network import Network, normalize
from kd_jax.models.outside import LogitsTable
from kd_jax.plan import PhasePlan
from kd_jax.typing import Array, Batch, Distiller, InitContext, Need, Outputs, Variables, Vars


class CompiledPhase:
    """The programs of a phase, each compiled once: shapes do not change within a phase.

    train, search: the steps as they were traced; search is None where no policy is searched. step: takes one of all
    seeds.
    teach: the teachers' outputs. fresh: metrics and health of a phase that has just begun.
    """

    def __init__(self, plan: PhasePlan):
        self.plan, layout = plan, plan.layout
        self.train = plan.traced.train.lower().compile()
        self.search = plan.traced.search and plan.traced.search.lower().compile()
        self.teach = Teachers(layout, tuple(t.network for t in plan.teachers), plan.distiller.needs)
        models_of_teachers = tuple(t.network.model for t in plan.teachers)
        parts = {"distiller": plan.distiller, "tx": plan.tx, "trains": plan.phase.trains}
        init = partial(_init, plan.network, models_of_teachers, plan.context, **parts, ema=plan.phase.ema is not None)
        self._init = layout.jit(init, ins="rsrr", outs=(layout.split(plan.abstract),))
        # made on the device each time: a donated copy of a host array would take the original along
        self.no_metrics = layout.jit(partial(metrics_lib.zeros_like, plan.traced.metrics), ins="", outs="r")
        self._healthy = layout.jit(partial(metrics_lib.healthy, plan.traced.metrics), ins="", outs="r")
        draw = partial(_visualizations, plan.network, plan.distiller, layout.gather)
        self.visualizations = layout.jit(draw, ins="sbb", outs="b")

    def step(
        self, program: jax.stages.Compiled, loops: tuple[LoopState, ...], inputs: tuple, keys: tuple[Array, ...]
    ) -> tuple[LoopState, ...]:
        """Take a step of every seed. program: `train` or `search`. inputs: what it reads, as `StepInputs` has it."""
        if self.plan.traced.at_once:
            return program(loops, *inputs, keys)
        return seeds.one_by_one(program, loops, inputs, keys)

    def init(
        self, key: Array, teachers: tuple[Variables | None, ...], initial_vars: dict[str, Vars],
        class_cka: Array | None = None,
    ) -> TrainState:  # fmt: skip
        """The state before the first step. initial_vars: what the members start with. class_cka: for members that read
        it; None, as in a dry run, makes no class like another."""
        if class_cka is None and Need.CLASS_CKA in self.plan.distiller.needs:
            class_cka = jnp.eye(self.plan.network.num_classes)
        return self._init(key, teachers, initial_vars, class_cka)

    def fresh(self) -> tuple[metrics_lib.Metrics, metrics_lib.Health]:
        """Nothing measured, nothing wrong yet."""
        return self.no_metrics(), self._healthy()

    def scan(self, step: Callable) -> Callable:
        """A program that takes a step for every row of `rows`, one after the other: (loop states, teachers, data, rows,
        keys) -> loop states. step: likewise, with one row of them, pure. The loop states are donated."""
        places = (self.plan.traced.places,) * len(self.plan.seeds)

        def several(loops: tuple[LoopState, ...], teachers, data, rows, keys: tuple[Array, ...]):
            body = lambda loops, row: (step(loops, teachers, data, row, keys), None)  # noqa: E731
            return jax.lax.scan(body, loops, rows)[0]

        return self.plan.layout.jit(several, ins=(places, "s", "r", "r", "r"), outs=(places,), donate=(0,))

    def loop_state(self, state: TrainState) -> LoopState:
        """What the first step of a phase takes."""
        return LoopState(state, *self.fresh())


class Teachers:
    """Teachers' outputs for batches, by a program for each, less what no member needs."""

    def __init__(self, layout: Layout, networks: tuple[Network, ...], needs: frozenset):
        self._networks = networks
        self._programs = [layout.jit(partial(_teacher, n, needs, layout.gather), ins="sb", outs="b") for n in networks]

    def __call__(
        self, teachers: tuple[Variables | None, ...], batch: Batch, split: str = "train"
    ) -> tuple[Outputs, ...]:
        """Outputs of every teacher that there is: of those that are not None.

        Args:
          teachers: their variables.
          batch: image (B, H, W, C) in [0, 1] and index (B,).
          split: "train", or "test" where the index counts test images.
        """
        seats = [i for i, variables in enumerate(teachers) if variables is not None]
        return tuple(self.of(i, teachers[i], batch, split) for i in seats)

    def of(self, seat: int, variables: Variables, batch: Batch, split: str = "train") -> Outputs:
        """Outputs of one teacher. seat: its number."""
        return self._programs[seat](*_inputs(self._networks[seat].model, variables, batch, split))

    def program_digest(self, seat: int, variables: Variables, batch_size: int) -> str:
        """sha256 of the program, as the compiler gets it, of a teacher that reads images."""
        image = jax.ShapeDtypeStruct((batch_size, *self._networks[seat].image_shape), jnp.float32)
        lowered = self._programs[seat].lower(variables, image)
        return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def _inputs(model, variables: Variables, batch: Batch, split: str) -> tuple[Variables, Array]:
    """What a teacher's program takes: its variables and images; or the table of a split and positions in it."""
    if isinstance(model, LogitsTable):
        return Variables({}, {"logits": variables.stats[split]}), batch["index"]
    return variables, batch["image"]


def _teacher(network: Network, needs: frozenset, gather, variables: Variables, x: Array) -> Outputs:
    if not isinstance(network.model, LogitsTable):
        x = normalize(x, network.mean, network.std)
    return select_outputs(engine.teacher_outputs(network.model, gather(variables), x), needs)


def _init(
    network: Network, teacher_models: tuple, context: InitContext, key: Array, teachers: tuple[Variables | None, ...],
    initial_vars: dict, class_cka: Array | None, **parts,
) -> TrainState:  # fmt: skip
    image = jnp.zeros((1, *network.image_shape))
    # a teacher that is the student's average is the student as it starts
    variables = [models.init(network.model, key, image) if v is None else v for v in teachers]
    pairs = tuple(zip(teacher_models, variables, strict=True))
    context = context._replace(teachers=pairs, initial_vars=initial_vars, class_cka=class_cka)
    return engine.init_state(key, student=network.model, context=context, **parts)


def _visualizations(
    network: Network, distiller: Distiller, gather, state: TrainState, teachers: tuple[Outputs, ...], batch: Batch
) -> dict:
    batch = normalized(batch, network)
    return engine.visualizations(gather(state), teachers, batch, model=network.model, distiller=distiller)
