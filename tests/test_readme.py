"""What the README and the docs say can be typed, can be typed; their links lead somewhere."""

import re
import shlex
import subprocess

import pytest

from kd_jax import InputError, config, data, methods, models
from kd_jax.tools import config_file
from kd_jax.train import run
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(PAGES.values())
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [c.replace("\\\n", " ") for c in re.findall(r"^python launch/train\.py(?:.*\\\n)*.*$", TEXT, re.M)]
OVERRIDES = list(dict.fromkeys(re.findall(r"`(--config\.[^`]*)`", TEXT)))


def read(spelled):
    return config_file.load(str(ROOT / spelled))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command):
    flags = [part for part in shlex.split(command)[2:] if part != "--dry_run"]
    (spelled,) = (flag.removeprefix("--config=") for flag in flags if flag.startswith("--config="))
    made = read(spelled)
    others = [flag.partition("=")[0] for flag in config.override(made, flags)]
    assert sorted(others) == ["--config", "--workdir"]
    config.parse(made.to_dict())


def test_there_are_commands():
    assert len(COMMANDS) >= 2 and len(OVERRIDES) >= 6


@pytest.mark.parametrize("flags", OVERRIDES)
def test_overrides(flags):
    special = {"sftn": "configs/sftn.py", "dafa": "configs/sokd_fitnet.py"}
    made = read(next((config for name, config in special.items() if name in flags), "configs/skd.py"))
    flags = flags if "=" in flags else f"{flags}="  # a key by itself
    assert config.override(made, shlex.split(flags)) == []
    config.parse(made.to_dict())


def test_make_has_the_two_commands():
    for target in ("quickstart", "test"):
        assert f"make {target}" in README
        done = subprocess.run(["make", "-n", target], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr


def test_the_python_blocks_run_and_the_own_recipe_trains(tmp_path, capsys):
    """Loss, method, model and config file of the README, in its order, then two steps of the result."""
    space = {}
    try:
        for block in BLOCKS:
            exec(block, space)
        assert "terms/kd" in capsys.readouterr().out
        made = space["get_config"]("smoke")
        made.data.synthetic.size, made.data.synthetic.classes = 8, 5
        assert made.student.terms.mse.scale == 1.0  # every keyword is a flag
        told = "config.student: precision=bfloat16, but MLP is no kd_jax.models.base.Net"
        with pytest.raises(InputError, match=told):
            run.run({**made.to_dict(), "precision": "bfloat16"}, str(tmp_path))
        summary = run.run(made.to_dict(), str(tmp_path))
        assert summary["phases"]["student"]["model"] == "mlp"
        x = data.load("synthetic", synthetic=made.data.synthetic.to_dict()).train.images[:2] / 255.0
        model = models.create("mlp", 5)
        variables = models.init(model, space["jax"].random.key(0), x)
        out, _ = models.apply(model, variables, x)
        assert (models.tail(model, variables, out.stages[0], 0) == out.logits).all()
    finally:
        methods.CRITERIA.pop("mse", None)
        models.MODELS.pop("mlp", None)


def anchors(text):
    """The names that headings of a page have in links."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"`[^`]*`|^ {4}.*$", "", PAGES[page], flags=re.M)  # without code and formulas
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", prose):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


def test_the_readme_is_short_and_names_every_page():
    assert len(README.split()) <= 1100
    assert all(f"](docs/{page.name})" in README for page in PAGES if page.parent.name == "docs")


def test_names_in_the_pages_exist():
    for path in re.findall(r"`((?:kd_jax|configs|tests|launch|docs|benchmarks)/[\w/.]+\.\w+)`", TEXT):
        assert (ROOT / path).exists() or "NAME" in path, path
    for model in ("resnet8x4", "resnet32x4", "wrn_16_1"):
        assert model in TEXT and model in models.MODELS
