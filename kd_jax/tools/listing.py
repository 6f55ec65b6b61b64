"""What there is, as tables for a terminal: models, methods, configs, data. Nothing is computed or compiled."""

import os
import re
import runpy
import textwrap
from collections.abc import Callable
from functools import partial
from inspect import getdoc
from pathlib import Path

from kd_jax import data, methods, models, recipes
from kd_jax.data.folder import folder
from kd_jax.data.tfds import tfds
from kd_jax.models.base import multiply_adds, trace
from kd_jax.typing import InputError, suggest

WIDTH = 120


def listing(only: str = "", *, num_classes: int = 100, image_size: int = 32, pair: str = "", configs: Path) -> str:
    """All parts but the combinations, which take minutes, or one part.

    Args:
      only: models, methods, configs, data or combinations; "" is all but the last.
      num_classes: of the models.
      image_size: pixels a side of the colour image that the models are measured with.
      pair: TEACHER,STUDENT of the combinations.
      configs: folder of the config files.

    Raises:
      InputError: another `only`; a config file that does not run.
    """
    parts = {
        "models": partial(list_models, num_classes, image_size),
        "methods": list_methods,
        "configs": partial(list_configs, configs),
        "data": list_data,
        "combinations": partial(list_combinations, pair, configs),
    }
    if only and only not in parts:
        raise InputError(f"--only={only}: not a part; {suggest(only, parts)}")
    wanted = [only] if only else [name for name in parts if name != "combinations"]
    return "\n\n".join(parts[name]() for name in wanted)


def list_models(num_classes: int = 100, image_size: int = 32) -> str:
    """Every network: its size, its cost and the shapes it returns."""
    rows = []
    for name in models.MODELS:
        variables, outputs, jaxpr = trace(models.create(name, num_classes), (image_size, image_size, 3))
        size, cost = models.count_parameters(variables.params), multiply_adds(jaxpr)
        stages = " ".join("x".join(map(str, stage.shape[1:])) for stage in outputs.stages)
        preacts = "no" if outputs.preacts is None else "yes"
        rows.append((name, f"{size:,}", f"{cost:,}", str(outputs.pooled.shape[-1]), preacts, stages))
    title = f"models: {num_classes} classes, one image of {image_size}x{image_size}x3"
    head = ("name", "parameters", "multiply-adds", "pooled", "preacts", "stages (HxWxC)")
    return f"{title}\n\n{table(head, rows, right=(1, 2, 3))}"


def list_methods() -> str:
    """Every refiner and criterion: what it needs, its keywords as a config has them, its source."""
    rows = []
    for kind, registry in (("refiner", methods.REFINERS), ("criterion", methods.CRITERIA)):
        for name, make in registry.items():
            about = [first_sentence(getdoc(make)), keywords(name), reference(getdoc(make))]
            rows.append((name, kind, " ".join(sorted(make().needs)) or "-", "\n".join(filter(None, about))))
    title = "methods: keywords are flags, --config.PHASE.refine.LABEL.KEYWORD or --config.PHASE.terms.LABEL.KEYWORD"
    return f"{title}\n\n{table(('name', 'kind', 'needs', 'what it is'), rows)}"


def list_configs(where: Path) -> str:
    """Every config file in a folder: how it is spelled, what it is, the phases of its default pair."""
    read = ((path, read_config(path)) for path in sorted(where.glob("*.py")))
    rows = [(f"{os.path.relpath(path)}:{about[0]}", about[1]) for path, about in read if about]
    title = "configs: --config=FILE.py or FILE.py:TEACHER,STUDENT; with smoke behind it, two steps on made-up data"
    title += "\nimagenet_, EfficientNet and vit_ networks are trained as on ImageNet, all others as on CIFAR-100"
    return f"{title}\n\n{table(('spelled', 'what it is'), rows)}"


def list_combinations(pair: str, configs: Path) -> str:
    """Every method alone and behind SKD, SoKD and SFTN, for a pair: built and traced."""
    from kd_jax.tools import combinations  # and with it Orbax and the engine, which the other lists do without

    return f"combinations: {pair}\n\n{combinations.table(combinations.combinations(pair, configs))}"


def list_data() -> str:
    """Every source of data, those that one function makes in one row."""
    spelled: dict[Callable, list[str]] = {}
    for name, source in {**data.SOURCES, "folder:DIR": folder, "tfds:NAME": tfds}.items():
        spelled.setdefault(source.func if isinstance(source, partial) else source, []).append(name)
    rows = [(", ".join(names), first_sentence(getdoc(source))) for source, names in spelled.items()]
    return f"data: --config.data.name=NAME\n\n{table(('name', 'what it is'), rows)}"


def read_config(path: Path) -> tuple[str, str] | None:
    """Its argument; what a config file is and its phases, a line each. None where it has no get_config.

    Raises:
      InputError: the file or its get_config raises anything; the message names the file.
    """
    try:
        namespace = runpy.run_path(str(path))
        if "get_config" not in namespace:
            return None
        config_dict = namespace["get_config"]()
        phases = ", ".join(f"{name}={config_dict[name].model}" for name in config_dict.phases)
    except (Exception, SystemExit) as e:
        raise InputError(f"{path}: {type(e).__name__}: {' '.join(str(e).split())}") from e
    return namespace.get("ARGUMENT", "TEACHER,STUDENT"), f"{first_sentence(namespace['__doc__'])}\nphases: {phases}"


def keywords(kind: str) -> str:
    """`keyword=default` of a method, as `recipes.member` writes them, in the order of its signature."""
    defaults = recipes.member(kind).to_dict()
    order = dict.fromkeys((*recipes.signature(kind), *defaults))
    return ", ".join(
        f"{name}=" + ("''" if defaults[name] == "" else str(defaults[name])) for name in order if name != "kind"
    )


def first_sentence(docstring: str | None) -> str:
    """On one line; "" where there is none."""
    paragraph = " ".join((docstring or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[a-z\d)`\"]\.) (?=[A-Z])", paragraph)[0]


def reference(docstring: str | None) -> str:
    """What stands after `Reference:`, on one line; "" where there is none."""
    match = re.search(r"^References?: (.*?)(?=^\S|\Z)", docstring or "", re.M | re.S)
    return " ".join(match[1].split()) if match else ""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], *, right: tuple[int, ...] = ()) -> str:
    """Aligned columns. The last one is wrapped to WIDTH; each of its lines starts a new one.

    Args:
      head: names of the columns.
      rows: their cells.
      right: columns that are flush right.
    """
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    indent = sum(width + 2 for width in widths)
    lines = []
    for *cells, last in (head, *rows):
        sides = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        wrapped = (textwrap.fill(part, max(WIDTH - indent, 40), break_on_hyphens=False) for part in last.split("\n"))
        lines.append("  ".join((*sides, "\n".join(wrapped).replace("\n", "\n" + " " * indent))).rstrip())
    return "\n".join(lines)
