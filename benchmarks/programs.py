"""kd_jax's own compiled programs of a phase, called as a phase calls them, to be timed."""

import time
from importlib import import_module

import jax

from kd_jax import models, recipes
from kd_jax.train import run
from kd_jax.train.batches import batches_of
from kd_jax.train.compiled import CompiledPhase
from kd_jax.train.inputs import StepInputs


def prepare(
    pair: str, methods: tuple[str, ...], batch: int, image: int, examples: int = 0, smoke: bool = False, **changes
) -> run.Prepared:
    """The networks and methods to be measured, as phases of a recipe that is never run.

    Its phases are teacher, alone, kd, and every method, a + in its name read as _. The phases that prepare a method's
    own are METHOD-PHASE.

    Args:
      pair: TEACHER,STUDENT.
      methods: as configs/compose.py spells them.
      batch: images of a step.
      image: pixels a side.
      examples: in the training set, 0 for one batch.
      smoke: whether terms do without their warm-up.
      **changes: of the recipe, a__b=1 for a.b.
    """
    get_config, words = import_module("configs.compose").get_config, recipes.argument(pair)
    pair = f"{pair},smoke" if smoke else pair
    alone = recipes.phase(words.student, terms={"ce": recipes.member("ce")})
    phases = {"teacher": get_config(f"kd,{pair}").teacher, "alone": alone}
    for method in ("kd", *methods):
        config, label = get_config(f"{method},{pair}"), method.replace("+", "_")
        for name in config.phases:
            phase, spelled = config[name], label if name == "student" else f"{label}-{name}"
            for part, origin in phase.init.items():
                if origin and origin != "phase:teacher":
                    phase.init[part] = f"phase:{label}-{origin.removeprefix('phase:')}"
            phases |= {spelled: phase} if name != "teacher" else {}
    for phase in phases.values():
        phase.batch_size = batch
    config = recipes.recipe("benchmark", data="synthetic", **phases)
    config.data.synthetic.size, config.data.synthetic.train = image, examples or batch
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return run.prepare(config.to_dict(), "never-written")


def prepare_sftn(pair: str, batch: int, image: int) -> run.Prepared:
    """Two phases of the same teacher, plain and with SFTN's branches."""
    from configs import sftn

    words = recipes.argument(pair)
    terms = {"plain": {}, "sftn": sftn.part(words).teacher_terms}
    phases = {k: recipes.phase(words.teacher, terms={"ce": recipes.member("ce"), **more}) for k, more in terms.items()}
    for phase in phases.values():
        phase.batch_size = batch
    config = recipes.recipe("benchmark", data="synthetic", **phases)
    config.data.synthetic.size, config.data.synthetic.train = image, batch
    return run.prepare(config.to_dict(), "never-written")


def untrained_teacher(prepared: run.Prepared):
    """A teacher's variables, untrained: the cost is the same."""
    return CompiledPhase(prepared.plans[0]).init(prepared.layout.put(jax.random.key(1)), (), {}).student


class TimedPhase:
    """One phase's programs, and a state that they move on. Without a teacher where the phase has none."""

    def __init__(self, plan, prepared: run.Prepared, teacher):
        self.plan, self.teachers = plan, (teacher,) * len(plan.teachers)
        self.programs, self.key = CompiledPhase(plan), prepared.layout.put(jax.random.key(0))
        self.source = batches_of(prepared.recipe, prepared.layout, prepared.dataset)
        self.loop = self.programs.loop_state(self.programs.init(self.key, self.teachers, plan.blank_vars))
        self.inputs = StepInputs(plan, self.programs.teach, self.source, self.teachers)
        self.batch = self.inputs.train(0, (self.loop.state,))[1]
        self.lowered = plan.traced.train.lower()
        self.lowered_teacher = jax.jit(self.programs.teach.__call__).lower(self.teachers, self.batch)

    @property
    def parameters(self) -> int:
        """How many the method has of its own."""
        return models.count_parameters(self.plan.abstract.params["method"])

    def teacher_outputs(self):
        """The teachers' outputs for the batch, as often as a step of the phase asks them."""
        if not self.plan.needs_teachers:
            return ()
        for view in self.batch.get("views", {}).values():
            view["teachers"] = self.programs.teach(self.teachers, {**self.batch, "image": view["image"]})
        return self.programs.teach(self.teachers, self.batch)

    def forward(self) -> None:
        jax.block_until_ready(self.teacher_outputs())

    def step(self) -> None:
        jax.block_until_ready(self.start_step())

    def start_step(self):
        """The state after a step that the device has perhaps not taken yet."""
        self.loop = self.programs.train(self.loop, self.teacher_outputs(), self.batch, self.key)
        return self.loop

    def search(self) -> None:
        """A step of the policy, by the same batch inside and outside."""
        pair = (self.teacher_outputs(), self.batch)
        self.loop = jax.block_until_ready(self.programs.search(self.loop, pair, pair, self.key))

    def flops(self, teacher) -> tuple[float, float]:
        """XLA's count of the whole step, and of a teacher's forward and three of the student's, each alone."""

        def forward(network, variables, trained: bool) -> float:
            def logits(variables, image):
                return models.apply(network.model, variables, image)[0].logits

            def differentiated(variables, image):  # on a CPU another program than a frozen network's
                return jax.vjp(lambda variables: logits(variables, image), variables)[0]

            lowered = jax.jit(differentiated if trained else logits).lower(variables, self.batch["image"])
            return lowered.cost_analysis()["flops"]

        whole = sum(lowered.cost_analysis()["flops"] for lowered in (self.lowered, self.lowered_teacher))
        student = forward(self.plan.network, self.loop.state.student, trained=True)
        return whole, forward(self.plan.teachers[0].network, teacher, trained=False) + 3 * student


def compiled(lowered) -> tuple[float, object]:
    """Seconds to compile a program, and XLA's account of its memory (None where it gives none)."""
    began = time.perf_counter()
    program = lowered.compile()
    return time.perf_counter() - began, program.memory_analysis()
