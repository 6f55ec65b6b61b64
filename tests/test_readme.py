"""What the README and the docs say can be typed, can be typed; their links lead somewhere."""

import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from kd_jax import InputError, config, data, engine, methods, models
from kd_jax.storage.workdir import flatten
from kd_jax.tools import config_file
from kd_jax.train import run
from tests.conftest import ROOT
from tests.documented import commands

README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *DOCS)}
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
TEXT = "\n".join(PAGES.values())
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
SCRIPTS = [
    c for c in dict.fromkeys(sum(map(commands, PAGES), [])) if re.match(r"(python )?(launch|benchmarks)/\w+\.py", c)
]
COMMANDS = [c for c in SCRIPTS if "launch/train.py --config=configs/" in c]
OWN = PAGES[ROOT / "docs" / "own.md"]  # whose flags change a recipe of its own
FLAG = r"`(--config\.(?!KEY)[^`]*)`"
OVERRIDES = list(dict.fromkeys(re.findall(FLAG, TEXT.replace(OWN, ""))))


def read(spelled):
    return config_file.load(str(ROOT / spelled))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command):
    flags = [part for part in shlex.split(command.removeprefix("python "))[1:] if part != "--dry_run"]
    (spelled,) = (flag.removeprefix("--config=") for flag in flags if flag.startswith("--config="))
    config_dict = read(spelled)
    others = [flag.partition("=")[0] for flag in config.override(config_dict, flags)]
    assert sorted(others) == ["--config", "--workdir"]
    config.parse(config_dict.to_dict())


def test_there_are_commands():
    assert len(COMMANDS) >= 2 and len(OVERRIDES) >= 6


@pytest.mark.parametrize("flags", OVERRIDES)
def test_overrides(flags):
    special = {"sftn": "configs/sftn.py", "dafa": "configs/sokd_fitnet.py"}
    config_dict = read(next((config for name, config in special.items() if name in flags), "configs/skd.py"))
    flags = flags if "=" in flags else f"{flags}="  # a key by itself
    assert config.override(config_dict, shlex.split(flags)) == []
    config.parse(config_dict.to_dict())


@pytest.mark.parametrize("command", SCRIPTS)
def test_flags_of_scripts_exist(command, monkeypatch):
    script, *words = command.removeprefix("python ").split()
    source = (ROOT / script).read_text()
    names = {word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")}
    given = {name for name in names if not name.startswith("config")}
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    if script == "benchmarks/run.py" and words and words[0] in import_module("run").PARTS:  # whose flags are its own
        actions = import_module("run").parser_of(words[0])._actions
        assert given <= {option.removeprefix("--") for action in actions for option in action.option_strings}
        return
    assert all(re.search(rf'"(--)?{name}"', source) for name in given), given


def test_every_key_stands_in_the_page_of_flags_with_its_default():
    page = (ROOT / "docs" / "flags.md").read_text()
    whole = config.template(config.Recipe).to_dict() | {"PHASE": config.phase_template().to_dict()}
    defaults = {key: tuple(v) if isinstance(v, list) else v for key, v in flatten(whole).items()}
    assert not [key for key, value in defaults.items() if f"\n| `{key}` | `{value!r}` | " not in page]


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
        config_dict = space["get_config"]("smoke")
        config_dict.data.synthetic.size, config_dict.data.synthetic.classes = 8, 5
        assert config_dict.student.terms.mse.scale == 1.0  # every keyword is a flag
        message = "config.student: precision=bfloat16, but MLP is no kd_jax.models.base.Net"
        with pytest.raises(InputError, match=message):
            run.run({**config_dict.to_dict(), "precision": "bfloat16"}, str(tmp_path))
        summary = run.run(config_dict.to_dict(), str(tmp_path))
        assert summary["phases"]["student"]["model"] == "mlp"
        x = data.load("synthetic", synthetic=config_dict.data.synthetic.to_dict()).train.images[:2] / 255.0
        model = models.create("mlp", 5)
        variables = models.init(model, space["jax"].random.key(0), x)
        out, _ = models.apply(model, variables, x)
        assert (models.tail(model, variables, out.stages[0], 0) == out.logits).all()
    finally:
        methods.CRITERIA.pop("mse", None)
        models.MODELS.pop("mlp", None)


def test_the_page_on_own_methods_gives_a_recipe_that_can_be_planned(tmp_path, monkeypatch):
    """Its blocks in their order: every phase is built and traced, a wrong value is refused under its key."""
    space = {}
    try:
        for block in (blocks := re.findall(r"```python\n(.*?)```", OWN, re.S)):
            exec(block, space)
        config_dict = space["get_config"]("resnet8,resnet8,smoke")
        config_dict.data.synthetic.size, config_dict.data.synthetic.classes = 8, 5
        flags = [*re.findall(FLAG, OWN), "--config.student.optim.name=lion"]
        assert config.override(config_dict, flags) == [] and config_dict.student.terms.consistency.shifts == (1, 3)
        plan = run.prepare(config_dict.to_dict(), str(tmp_path / "run")).plans[-1]
        assert plan.abstract.params["method"]["consistency"]["scale"].shape == (5,)
        assert list(plan.distiller.monitors) == [space["Monitor"]("consistency/scale")]
        config_dict.student.terms.consistency.shifts = ()
        with pytest.raises(InputError, match="config.student.terms.consistency: consistency: shifts must name"):
            run.prepare(config_dict.to_dict(), str(tmp_path / "run"))
        assert not list(tmp_path.iterdir())
        (tmp_path / "mine.py").write_text(next(block for block in blocks if "def teacher" in block))
        monkeypatch.chdir(tmp_path)
        config_dict.student.terms.consistency.shifts, config_dict.student.teacher = (1,), "python:mine:teacher"
        plan = run.prepare(config_dict.to_dict(), str(tmp_path / "run")).plans[-1]
        assert plan.teachers[0].load().variables.params["['fc']['kernel'].value"].shape == (16, 5)
    finally:
        sys.modules.pop("mine", None)
        methods.CRITERIA.pop("consistency", None)
        methods.REFINERS.pop("sharpen", None)
        engine.OPTIMIZERS.pop("lion", None)


def anchors(text):
    """The names that headings of a page have in links."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    prose = re.sub(r"`[^`]*`|^ {4}.*$", "", page.read_text(), flags=re.M)  # without code and formulas
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", prose):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


def test_the_readme_is_short_and_names_every_page():
    assert len(README.split()) <= 1100
    assert not [page.name for page in DOCS if f"](docs/{page.name})" not in README]


def test_the_two_tables_of_the_quickstart_are_one():
    (table,) = re.findall(r"^\| phase \| model \|.*?\n\n", README, re.M | re.S)
    assert table.count("\n") == 7 and table in PAGES[ROOT / "docs" / "results.md"]


def test_names_in_the_pages_exist():
    for path in re.findall(r"`((?:kd_jax|configs|tests|launch|docs|benchmarks)/[\w/.]+\.\w+)`", TEXT):
        assert (ROOT / path).exists() or "NAME" in path, path
    for model in ("resnet8x4", "resnet32x4", "wrn_16_1"):
        assert model in TEXT and model in models.MODELS
