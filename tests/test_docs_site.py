"""The pages and the docstrings make a site without a warning, and no page of it asks the network for anything."""

import importlib.util
import inspect
import re
import subprocess
import sys

import pytest

from kd_jax import config, data, losses, methods, models, recipes, typing
from tests.conftest import ROOT

PUBLIC = {"config": config, "data": data, "losses": losses, "methods": methods, "models": models, "recipes": recipes}
STEPS = ("eval_step", "init_state", "make_init_context", "teacher_outputs", "train_step", "TrainState")
ELSEWHERE = {"InputError", "suggest"}  # words of kd_jax.typing that config files may import from kd_jax.recipes
LOADED = re.compile(  # what a browser gets by itself; a link to click is none of it
    r"""<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|href)=["']((?:https?:)?//[^"']*)|(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]*)"""
)


def build(source, target):
    command = "-m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir".split()
    return subprocess.run(
        [sys.executable, *command, str(ROOT / "docs"), str(source), str(target)], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def docstrings():
    spec = importlib.util.spec_from_file_location("docstrings", ROOT / "docs" / "docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_docs_builds_as_this_test_does():
    done = subprocess.run(["make", "-n", "docs"], capture_output=True, text=True, cwd=ROOT)
    command = "-m sphinx --quiet --fresh-env --fail-on-warning --keep-going --conf-dir docs . docs/_build"
    assert done.returncode == 0 and command in done.stdout


def test_every_page_is_in_it_and_the_root_leads_to_the_first(site):
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.ipynb"), *ROOT.glob("*.md")]
    assert not [page for page in pages if not (site / page.relative_to(ROOT)).with_suffix(".html").exists()]
    (start,) = re.findall(r'<a href="([^"]*)"', (site / "index.html").read_text())
    assert (site / start).exists()
    assert "methods.skd()" in re.sub(r"<[^>]*>", "", (site / "docs/tutorial.html").read_text())  # its code too


def test_nothing_is_loaded_from_the_network(site):
    texts = {path: path.read_text() for path in [*site.rglob("*.html"), *site.rglob("*.css")]}
    assert len(texts) > 25
    assert not {path.name: LOADED.findall(text) for path, text in texts.items() if LOADED.search(text)}


def test_public_names_are_in_the_pages_on_the_api(site):
    text = "".join(path.read_text() for path in (site / "docs" / "api").glob("*.html"))
    expected = {f"kd_jax.{name}" for name in STEPS}
    for package, module in PUBLIC.items():
        callables = {name for name in module.__all__ if callable(getattr(module, name))}
        expected |= {f"kd_jax.{package}.{name}" for name in callables - (ELSEWHERE if package == "recipes" else set())}
    records = {name for name, x in vars(typing).items() if inspect.isclass(x) and x.__module__ == typing.__name__}
    expected |= {f"kd_jax.typing.{name}" for name in records if not name.startswith("_")}
    assert len(expected) > 140
    assert not {name for name in expected if f'id="{name}"' not in text}
    assert "<ol" not in text  # no docstring has a numbered list: "K." is none
    assert not re.findall(r"<p>(?:Args|Returns|Raises|Reference|Differs):", text)  # every section is a field


def test_broken_links_and_unknown_pages_stop_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "index.md"
    page.write_text("# Start\n\n[a page](gone.md), [a heading](#nowhere)\n\n```{toctree}\nlost\n```\n")
    (tmp_path / "docs" / "alone.md").write_text("# In no table of contents\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert all(word in done.stderr for word in ("gone.md", "nowhere", "lost", "alone.md")), done.stderr


def test_a_docstring_as_fields(docstrings):
    text = """
        The sum of |x| and `y_*`, a name_.

            x * y_

        - first, which goes
          on
        - second

        Args:
          x, y: both: (B,),
            or ().
          **more: others.
          classes: K.

        Raises:
          ValueError: not
            equal.

        Reference: Somebody, "A title", 2020,
          arXiv.
        """
    lines = docstrings.to_rst(inspect.cleandoc(text).splitlines())
    assert [line for line in lines if line] == [
        r"The sum of \|x\| and ``y_*``, a name\_.",
        "::",
        "    x * y_",
        "- first, which goes on",
        "- second",
        ":param x: both: (B,), or ().",
        ":param y: both: (B,), or ().",
        r":param \*\*more: others.",
        r":param classes: \K.",
        ":raises ValueError: not equal.",
        ':Reference: Somebody, "A title", 2020, arXiv.',
    ]


def test_the_fields_of_a_record(docstrings):
    lines = ["A pair. Say: it. left: the", "first. right, both: more. other: nothing."]
    assert [line for line in docstrings.to_rst(lines, ("left", "right", "both")) if line] == [
        "A pair. Say: it.",
        ":param left: the first.",
        ":param right: more. other: nothing.",
        ":param both: more. other: nothing.",
    ]
    assert docstrings.to_rst(lines)[0] == "A pair. Say: it. left: the first. right, both: more. other: nothing."
