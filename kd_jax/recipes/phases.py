"""Phases and whole recipes as ConfigDicts."""

import copy

from ml_collections import config_dict

from kd_jax.recipes.arguments import large
from kd_jax.recipes.defaults import IMAGENET_DATA, LARGE, LEARNING_RATES
from kd_jax.recipes.members import Config


def phase(
    model: str, *, terms: dict[str, Config], refine: dict[str, Config] | None = None, teacher: str = "", lr=None
) -> Config:
    """One phase under the papers' CIFAR-100 recipe (240 epochs of SGD, x 0.1 at 150, 180, 210), or under the one that
    LARGE has for the network.

    Args:
      model: name of the network in training.
      terms: label -> member.
      refine: label -> member, in the order they apply.
      teacher: "phase:NAME", "checkpoint:DIR", "weights:FILE", "ema", several joined by commas, or "".
      lr: learning rate per global batch; None is what the papers take for this network.
    """
    terms, refine = copy.deepcopy((terms, refine or {}))  # else a flag for one phase would change another
    changes = LARGE.get(model.lower(), {}) | ({} if lr is None else {"optim.lr": lr})
    made = Config({
        "model": model,
        "weights": "",
        "teacher": teacher,
        "refine": Config(refine),
        "refine_order": tuple(refine),
        "terms": Config(terms),
        "init": {"student": "", "method": ""},
        "trains": "all",
        "ema": config_dict.placeholder(float),
        "epochs": 240,
        "steps": config_dict.placeholder(int),
        "batch_size": 64,
        "accumulate": 1,
        "remat": False,
        "optim": {
            "name": "sgd", "lr": LEARNING_RATES.get(model.lower(), 0.05), "momentum": 0.9, "weight_decay": 5e-4,
            "nesterov": False, "delta": 0.0,
            "clip": 0.0,
        },
        "schedule": {"name": "step", "milestones": (150, 180, 210), "gamma": 0.1, "warmup_epochs": 0.0},
    })  # fmt: skip
    made.update_from_flattened_dict(changes)
    return made


def before(model: str, *, terms: dict[str, Config], teacher: str = "", lr=None) -> Config:
    """A phase that prepares the next one, as the papers' benchmark has it: 30 epochs at one rate. Arguments as for
    `phase`."""
    made = phase(model, terms=terms, teacher=teacher, lr=lr)
    made.epochs, made.schedule.milestones = 30, ()
    return made


def recipe(name: str, *, smoke: bool = False, data: str = "", **phases: Config) -> Config:
    """A whole run of phases in the order given.

    Args:
      name: of the recipe, for summary.json.
      smoke: shrink everything but the networks: synthetic 32 x 32 x 3 images, batch 8, two steps a
        phase, no warm-up, one test row a phase.
      data: name of the data set; "" takes CIFAR-100, or ImageNet where a phase's network is made for that.
      **phases: name -> phase.
    """
    made = Config({
        "name": name,
        "seed": 0,
        "skip_nonfinite": 0,
        "teacher_check": True,
        "precision": "float32",
        "phases": tuple(phases),
        "data": {
            "name": data or "cifar100",
            "dir": "",
            "seed": config_dict.placeholder(int),
            "augment": "auto",
            "size": 0,
            "stream": False,
            "crop": 0,
            "decoder": "pillow",
            "workers": config_dict.placeholder(int),
            "test_fraction": 0.2,
            "subset": 0.0,
            "strong": {"ops": 2, "magnitude": 10.0},
            "synthetic": {"classes": 100, "size": 32, "channels": 3, "train": 64, "test": 32},
        },
        "parallel": {"scope": "global", "mesh": ()},
        "checkpoint": {"every": 0, "keep": 2, "best": 0},
        "log": {"every": 50, "tensorboard": False},
        "eval": {"every": 1},
        **phases,
    })  # fmt: skip
    if not (data or smoke) and any(large(part.model) for part in phases.values()):
        made.data.update(IMAGENET_DATA)
    if smoke:
        made.data.name = "synthetic"
        made.log.every, made.teacher_check = 1, False  # two steps teach no teacher anything
        for part in phases.values():
            part.steps, part.batch_size, part.schedule.warmup_epochs = 2, 8, 0.0
            for term in part.terms.values():
                term.warmup_epochs = 0.0
    return made
