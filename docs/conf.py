"""How Sphinx makes a site of these pages: make docs. The site needs no network, neither to build nor to read."""

import json
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import docstrings  # noqa: E402

project = "kd_jax"
copyright = "the authors of kd_jax, Apache-2.0"

# The root of the repository is the source, so that a link from page to page is the same here and on GitHub
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/*.ipynb", "docs/api/*.rst"]
exclude_patterns = [".*", "**/__pycache__", "docs/_build", "runs", "build", "kd_jax", "tests"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".ipynb": "markdown"}
extensions = ["myst_parser", "sphinx.ext.autodoc"]

myst_heading_anchors = 4
highlight_language = "none"
smartquotes_action = "D"  # dashes alone: "classes" is a value that somebody copies

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
add_module_names = False

html_theme = "furo"
html_title = "kd_jax"
html_extra_path = ["site/index.html"]  # from the site's root to the start page
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}


def read_notebook(app, docname: str, source: list[str]) -> None:
    """Turn a notebook, if it is one, into Markdown: its text and its code. No cell runs."""
    if app.env.doc2path(docname).suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(source[0])["cells"]]
        source[0] = "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in cells)


def read_docstring(app, kind: str, name: str, what, options, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText."""
    lines[:] = docstrings.to_rst(lines, getattr(what, "_fields", ()) or getattr(what, "__dataclass_fields__", ()))


def skip_field(app, kind: str, name: str, member, skip: bool, options) -> bool | None:
    """Skip the fields of a NamedTuple, whose own docstrings say nothing: those of the class say what they are."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    """What Sphinx calls first."""
    app.connect("source-read", read_notebook)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-skip-member", skip_field)
