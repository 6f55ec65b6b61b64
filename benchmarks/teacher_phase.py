"""What SFTN's teacher phase costs against plain training of the same teacher: behind step.py --teacher_phase."""

import statistics

import trials

from kd_jax import models, recipes
from kd_jax.train import run


def report(pair: str, batch: int, steps: int, image: int) -> None:
    """Both phases' training steps in turns: ms, ratio, and the branches' parameters."""
    from configs import sftn

    named = recipes.argument(pair)
    phases = {
        "plain": recipes.phase(named.teacher, terms={"ce": recipes.member("ce")}),
        "sftn": recipes.phase(named.teacher, terms={"ce": recipes.member("ce"), **sftn.part(named).teacher_terms}),
    }
    for phase in phases.values():
        phase.batch_size = batch
    config = recipes.recipe("teacher_phase", data="synthetic", **phases)
    config.data.synthetic.size, config.data.synthetic.train = image, batch
    made = run.prepare(config.to_dict(), "never-written")
    tried = {plan.name: trials.Trial(plan, made, None) for plan in made.plans}
    spent = trials.rounds({name: trial.step for name, trial in tried.items()}, steps)
    medians = {name: statistics.median(seconds) for name, seconds in spent.items()}
    flops = {name: trial.lowered.cost_analysis()["flops"] for name, trial in tried.items()}
    print(f"{pair}, batch {batch}, {image} x {image} pixels, {steps} rounds")
    for name, trial in tried.items():
        own = models.count_parameters(trial.plan.abstract.params["student"])
        print(
            f"{name:<6} {1e3 * medians[name]:>9.1f} ms/step, {medians[name] / medians['plain']:.3f} of plain; flops "
            f"{flops[name] / flops['plain']:.3f} of plain; parameters {own:,} + {trial.parameters:,} of branches"
        )
