"""What benchmarks/step.py times: kd_jax's own compiled programs, called as a phase calls them."""

import time
from importlib import import_module

import jax
import numpy as np

from kd_jax import models, recipes
from kd_jax.models.resnet import ResNet
from kd_jax.train import run
from kd_jax.train.batches import batches_of
from kd_jax.train.compiled import CompiledPhase
from kd_jax.train.inputs import StepInputs


def prepare(pair: str, methods: tuple[str, ...], batch: int, image: int, examples: int = 0, **changes) -> run.Prepared:
    """The networks and methods to be measured (as configs/compose.py spells them), as phases of a recipe that is
    never run: teacher, alone, kd, and every method, a + in its name read as _. The phases that prepare a method's own
    are METHOD-PHASE. examples: in the training set, 0 for one batch. changes: of the recipe, a__b=1 for a.b."""
    get_config, named = import_module("configs.compose").get_config, recipes.argument(pair)
    alone = recipes.phase(named.student, terms={"ce": recipes.member("ce")})
    phases = {"teacher": get_config(f"kd,{pair}").teacher, "alone": alone}
    for method in ("kd", *methods):
        made, label = get_config(f"{method},{pair}"), method.replace("+", "_")
        for name in made.phases:
            phase, spelled = made[name], label if name == "student" else f"{label}-{name}"
            for part, origin in phase.init.items():
                if origin and origin != "phase:teacher":
                    phase.init[part] = f"phase:{label}-{origin.removeprefix('phase:')}"
            phases |= {spelled: phase} if name != "teacher" else {}
    for phase in phases.values():
        phase.batch_size = batch
    config = recipes.recipe("step", data="synthetic", **phases)
    config.data.synthetic.size, config.data.synthetic.train = image, examples or batch
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return run.prepare(config.to_dict(), "never-written")


def teacher_of(made: run.Prepared):
    """A teacher's variables, untrained: the cost is the same."""
    return CompiledPhase(made.plans[0]).init(made.layout.put(jax.random.key(1)), (), {}).student


class Trial:
    """One phase's programs, and a state that they move on. Without a teacher where the phase has none."""

    def __init__(self, plan, made: run.Prepared, teacher):
        self.plan, self.teachers = plan, (teacher,) * len(plan.teachers)
        self.programs, self.key = CompiledPhase(plan), made.layout.put(jax.random.key(0))
        source = batches_of(made.recipe, made.layout, made.dataset)
        self.loop = self.programs.loop_state(self.programs.init(self.key, self.teachers, plan.blank_vars))
        self.batch = StepInputs(plan, self.programs.teach, source, self.teachers).train(0, self.loop.state)[1]
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
        self.loop = jax.block_until_ready(self.programs.train(self.loop, self.teacher_outputs(), self.batch, self.key))

    def search(self) -> None:
        """A step of the policy, by the same batch inside and outside."""
        pair = (self.teacher_outputs(), self.batch)
        self.loop = jax.block_until_ready(self.programs.search(self.loop, pair, pair, self.key))

    def flops(self, teacher) -> tuple[float, float]:
        """XLA's count of the whole step, and of a teacher's forward and three of the student's, each alone."""

        def forward(network, variables) -> float:
            run = jax.jit(lambda v, x: models.apply(network.model, v, x)[0].logits)
            return run.lower(variables, self.batch["image"]).cost_analysis()["flops"]

        whole = sum(lowered.cost_analysis()["flops"] for lowered in (self.lowered, self.lowered_teacher))
        student = forward(self.plan.network, self.loop.state.student)
        return whole, forward(self.plan.teachers[0].network, teacher) + 3 * student


def compiled(lowered) -> tuple[float, object]:
    """Seconds to compile a program, and XLA's account of its memory (None where it gives none)."""
    began = time.perf_counter()
    program = lowered.compile()
    return time.perf_counter() - began, program.memory_analysis()


def rounds(contenders: dict, count: int) -> dict[str, list[float]]:
    """Seconds of every call, in turns A B C A B C ...; the first two turns, which compile, do not count."""
    spent = {name: [] for name in contenders}
    for turn in range(-2, count):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            if turn >= 0:
                spent[name].append(time.perf_counter() - began)
    return spent


def torch_step(trial: Trial, made: run.Prepared):
    """A function that takes a KD step of the same networks in PyTorch, or a line on why there is none."""
    try:
        import torch_resnet
    except ModuleNotFoundError as e:
        if e.name != "torch":
            raise
        return "no PyTorch step: torch is not installed; pip install -e '.[torch]' adds it"
    nets = []
    for network in (trial.plan.teachers[0].network, trial.plan.network):
        if not isinstance(network.model, ResNet) or network.model.head != "fc":
            return f"no PyTorch step: benchmarks/torch_resnet.py has no {network.name}, only resnet8 and its like"
        nets.append(torch_resnet.ResNet(6 * network.model.blocks[0] + 2, network.model.widths, network.num_classes))
        ours = models.count_parameters(models.shapes(network.model, network.image_shape)[0].params)
        theirs = torch_resnet.count_parameters(nets[-1])
        if ours != theirs:
            raise SystemExit(f"error: {network.name} has {ours:,} parameters here and {theirs:,} in torch_resnet.py")
    image = (np.asarray(trial.batch["image"]) - made.dataset.mean) / made.dataset.std
    return torch_resnet.kd_step(*nets, image.astype(np.float32), np.asarray(trial.batch["label"]))
