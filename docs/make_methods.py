"""Writes docs/methods.md from the registry, the docstrings, the recipes and measured costs.

python benchmarks/run.py methods --json=docs/methods.json
python docs/make_methods.py [--check]
--check writes nothing and exits with 1 where the file is not what would be written.
"""

import argparse
import inspect
import json
import re
import sys
from pathlib import Path

from configs import compose
from kd_jax import losses, methods, recipes
from kd_jax.tools import combinations, published
from kd_jax.tools.listing import first_sentence, reference

HERE = Path(__file__).resolve().parent
PAIR = "vgg13,MobileNetV2"  # a pair that not everything fits
HEAD = """# Methods

Made by `python docs/make_methods.py` from the docstrings, the recipes and `docs/methods.json`; not edited by hand.
Names are those of `kd_jax.methods` and of configs; weights are the ones that `configs/NAME.py` takes for {pair}.
What departs from a paper or its code is said under `Differs:` in the docstring (`help(kd_jax.methods.NAME)`).

Costs: a whole step (the teacher's forward, then the training step) as a ratio to plain KD's, {pair}, batch {batch},
on two CPU cores, in one run of `python benchmarks/run.py methods --pair={pair} --json=docs/methods.json`. The row of
kd is KD timed against itself: so far apart can two equal steps be. Larger networks and a GPU have other ratios. MiB
of temporaries and of arguments of the training step are beside KD's.
"""


PUBLISHED = """## Published figures

Top-1 on CIFAR-100, %, as others have published it under the recipe of these configs, 240 epochs and batch 64; not
ours. Most sources do not say whether it is the last step's or the best. An empty cell is a figure that is not
published, or that we could not read.
Left out, since they are of other recipes: MLLD and what is built on it (480 epochs, a second, strongly augmented view),
CRLD (that view), WKD and FCFD (Nesterov), DeepKD (three momenta), OFA-KD (300 epochs at 224 pixels). SDD's
figures around NKD are of another loss, by a slip of its code.
"""


def about(name: str) -> str:
    """A method's section: what it is, its equation, what it needs, where it is from."""
    make = recipes.factory(name)
    text = inspect.getdoc(make)
    loss = getattr(losses, {"ce": "cross_entropy"}.get(name, name), None)
    equation = block(text) or (block(inspect.getdoc(loss)) if loss else "")
    kind = "refiner" if name in methods.REFINERS else "criterion"
    needs = ", ".join(f"`{need}`" for need in sorted(make().needs)) or "nothing"
    lines = [f"### {name}", "", f"{first_sentence(text)}", ""]
    lines += [equation, ""] if equation else []
    lines += [f"A {kind}; needs {needs}. {reference(text)}".rstrip(), ""]
    return "\n".join(lines)


def block(docstring: str) -> str:
    """The first indented block before the arguments; "" where there is none."""
    match = re.search(r"^    .*\n(?:    .*\n|\n(?=    ))*", docstring.partition("Args:")[0], re.M)
    return match[0].rstrip() if match else ""


def weights(name: str, pair: recipes.Argument) -> str:
    """The terms of a method's recipe, or of its phase (METHOD-PHASE), with their weights."""
    method, _, phase = name.partition("-")
    config_dict = compose.get_config(f"{method},{pair.teacher},{pair.student}")
    said = []
    for label, term in config_dict[phase or "student"].terms.items():
        ramp = f" over {term.warmup_epochs:g} epochs" if term.warmup_epochs else ""
        said.append(f"{term.weight:g} {label}{ramp}")
    return ", ".join(sorted(said, key=lambda s: s.split()[1] != "ce"))


def costs(measured: dict) -> str:
    """The table of recipes."""
    pair = recipes.argument(measured["pair"])
    head = ("recipe", "weights", "step time of KD's", "temporaries, MiB", "arguments, MiB", "own parameters")
    lines = [f"| {' | '.join(head)} |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, row in measured["methods"].items():
        time = f"{row['time']:.2f}" + (f" (policy step: {row['policy']:.1f} of its own)" if "policy" in row else "")
        sizes = (f"{row[part] / 2**20:+.1f}" for part in ("temp", "argument"))
        cells = (name, weights(name, pair), time, *sizes, f"{row['parameters']:,}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page() -> str:
    """The whole file."""
    measured = json.loads((HERE / "methods.json").read_text())
    parts = [HEAD.format(pair=measured["pair"], batch=measured["batch"]), "## Recipes and costs\n", costs(measured), ""]
    parts += [PUBLISHED, published.table(), ""]
    parts += ["## What combines\n", "`python launch/list.py --only=combinations --pair=TEACHER,STUDENT` makes this for"]
    parts += ["any pair: every phase built, every step traced; SoKD's search too. Between networks with pre-activation"]
    parts += [f"features (ResNets, WRNs, VGGs) all of these combine; {PAIR}:\n"]
    parts += [combinations.table(combinations.combinations(PAIR, HERE.parent / "configs")), ""]
    parts += ["## Refiners\n", *map(about, methods.REFINERS), "## Criteria\n", *map(about, methods.CRITERIA)]
    return "\n".join(parts).rstrip() + "\n"


def main() -> int:
    """Write the file, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    flags, file = parser.parse_args(), HERE / "methods.md"
    text = page()
    if flags.check:
        same = file.exists() and file.read_text() == text
        print(f"{file.name}: {'up to date' if same else 'not what docs/make_methods.py would write'}")
        return not same
    file.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
