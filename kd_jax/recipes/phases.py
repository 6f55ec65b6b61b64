"""Phases and whole recipes as ConfigDicts."""

import copy

from kd_jax import config
from kd_jax.recipes.arguments import large
from kd_jax.recipes.defaults import IMAGENET_DATA, LARGE, LEARNING_RATES
from kd_jax.recipes.members import Config


def phase(
    model: str, *, terms: dict[str, Config], refine: dict[str, Config] | None = None, teacher: str = "", lr=None
) -> Config:
    """One phase. It follows the papers' CIFAR-100 recipe, which stands as defaults in kd_jax.config.records (240 epochs
    of SGD, x 0.1 at 150, 180 and 210), or the recipe that LARGE has for the network.

    Args:
      model: name of the network that is trained.
      terms: label -> member.
      refine: label -> member, in the order they apply.
      teacher: "phase:NAME", "checkpoint:DIR", "weights:FILE", "ema", several joined by commas, or "".
      lr: learning rate per global batch; None takes the papers' for this network.
    """
    terms, refine = copy.deepcopy((terms, refine or {}))  # else a flag for one phase would change another one
    changes = LEARNING_RATES.get(model.lower(), {}) | LARGE.get(model.lower(), {})
    changes |= {} if lr is None else {"optim.lr": lr}
    config_dict = config.phase_template(
        model=model, teacher=teacher, terms=Config(terms), refine=Config(refine), refine_order=tuple(refine)
    )
    config_dict.update_from_flattened_dict(changes)
    return config_dict


def before(model: str, *, terms: dict[str, Config], teacher: str = "", lr=None) -> Config:
    """A phase that prepares the next one, as in RepDistiller: 30 epochs at a constant learning rate. It takes the
    arguments of `phase`."""
    config_dict = phase(model, terms=terms, teacher=teacher, lr=lr)
    config_dict.epochs, config_dict.schedule.milestones = 30, ()
    return config_dict


def recipe(name: str, *, smoke: bool = False, data: str = "", **phases: Config) -> Config:
    """A whole run: phases that follow each other in the given order.

    Args:
      name: of the recipe, for summary.json.
      smoke: shrink everything except the networks: synthetic 32 x 32 x 3 images, batches of 8, two steps a phase, no
        warm-up, one test row a phase.
      data: name of the data set; "" takes CIFAR-100, or ImageNet if a network is made for it.
      **phases: name -> phase.
    """
    config_dict = config.template(config.Recipe, name=name, phases=tuple(phases), **phases)
    if data:
        config_dict.data.name = data
    if not (data or smoke) and any(large(part.model) for part in phases.values()):
        config_dict.data.update(IMAGENET_DATA)
    if smoke:
        config_dict.data.name = "synthetic"
        config_dict.log.every, config_dict.teacher_check = 1, False  # two steps teach no teacher anything
        for part in phases.values():
            part.steps, part.batch_size, part.schedule.warmup_epochs = 2, 8, 0.0
            for term in part.terms.values():
                term.warmup_epochs = 0.0
    return config_dict
