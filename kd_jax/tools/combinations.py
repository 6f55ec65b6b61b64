"""Which methods combine, found out by building and tracing every combination; nothing is computed."""

import runpy
from pathlib import Path

from etils import epath

from kd_jax import config
from kd_jax.distributed.mesh import Layout
from kd_jax.plan import build
from kd_jax.train.run import load_data
from kd_jax.typing import InputError

FRONT = ("", "skd", "sokd", "sftn")  # "": the method alone
FORMS = ("skd_annealed",)  # other keywords of one of these


def combinations(pair: str, configs: Path) -> dict[str, dict[str, str]]:
    """method -> front -> "" where the two work together on a pair, else what refuses them.

    Args:
      pair: TEACHER,STUDENT.
      configs: folder of the config files, compose.py among them.

    Raises:
      InputError: not a pair of networks.
    """
    compose = runpy.run_path(str(configs / "compose.py"))
    get_config, names = compose["get_config"], [name for name in compose["PARTS"] if name not in FRONT + FORMS]
    get_config(f"kd,{pair}")  # a wrong pair is refused here, once
    return {
        name: {front: refusal(get_config(f"{front}+{name},{pair},smoke".lstrip("+"))) for front in FRONT}
        for name in names
    }


def refusal(config_dict) -> str:
    """What refuses a config under smoke when its phases are planned, which traces their steps; "" where nothing does.

    Args:
      config_dict: ConfigDict.
    """
    config_dict.data.synthetic.train = config_dict.data.synthetic.test = 8
    recipe = config.parse(config_dict.to_dict())
    try:
        build(recipe, load_data(recipe), epath.Path("never-written"), Layout((1,)))
    except InputError as e:
        return str(e)
    return ""


def table(refusals: dict[str, dict[str, str]]) -> str:
    """Markdown: methods down, fronts across; below it what the numbers say."""
    reasons = list(dict.fromkeys(why for row in refusals.values() for why in row.values() if why))
    lines = ["| method | alone | " + " | ".join(FRONT[1:]) + " |", "| --- " * (len(FRONT) + 1) + "|"]
    for name, row in refusals.items():
        cells = (f"no ({reasons.index(why) + 1})" if why else "yes" for why in row.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. {why}" for i, why in enumerate(reasons, 1))]).rstrip()
