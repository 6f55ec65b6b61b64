"""One HTML page that holds tables and pictures, opens without a network, and sorts a table by a click on its head."""

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from kd_jax.tools.report_tables import Row, main_table, words_in

STYLE = """
:root { color-scheme: light dark; --line: #8884; --mark: #0072B2; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 80rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th.words, td.words { text-align: left; } td.words { white-space: normal; min-width: 13rem; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tr.base td { font-weight: 600; } tr.lacks td { opacity: .75; font-style: italic; }
.note { border-left: 4px solid #D55E00; padding-left: .6rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; }
figcaption { font-size: .9rem; } details pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  table.querySelectorAll("th").forEach((head, i) => head.firstChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "descending", body = table.tBodies[0];
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const value = row => row.cells[i].dataset.value ?? row.cells[i].textContent.trim();
    const compare = (a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return down ? order : -order;
    };
    [...body.rows].sort(compare).forEach(row => body.append(row));
  }));
}
"""


def page(
    title: str, rows: Sequence[Row], pivots: Sequence[tuple[str, list[tuple[str, ...]]]], notes: Sequence[str],
    pictures: dict[str, bytes], captions: dict[str, str], home: Path,
) -> str:  # fmt: skip
    """The page.

    Args:
      title: of it.
      rows: of the main table.
      pivots: title and rows, with a head, of further tables.
      notes: lines that a reader should know.
      pictures: name -> PNG. captions: name -> what it shows.
      home: folder of the page, from which its links lead to the folders of runs.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    parts.append(_main_table(rows, home))
    for name, table in pivots:
        parts.append(f"<h2>{html.escape(name or 'By two keys')}</h2>{_table(table)}")
    for name, picture in pictures.items():
        source, caption = f"data:image/png;base64,{base64.b64encode(picture).decode()}", html.escape(captions[name])
        parts.append(f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>')
    parts += ["<h2>Runs</h2>", *(_commands(row, home) for row in rows)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{html.escape(title)}</title><style>{STYLE}</style></head><body>'
        + "\n".join(parts)
        + f"<script>{SCRIPT}</script></body></html>\n"
    )


def _main_table(rows: Sequence[Row], home: Path) -> str:
    head, *lines = table = main_table(rows)
    words = words_in(table)

    def cell(i: int, inside: str, tag: str = "td") -> str:
        kind = ' class="words"' if i in words else ""
        return f"<{tag}{kind}>{inside}</{tag}>"

    heads = "".join(cell(i, f'<button type="button">{html.escape(name)}</button>', "th") for i, name in enumerate(head))
    body = []
    for row, line in zip(rows, lines, strict=True):
        kind = "lacks" if not row.values else "base" if row.is_baseline else ""
        cells = list(map(html.escape, line))
        cells[0] = f'<a href="{html.escape(_link(row.runs[0].folder, home))}">{cells[0]}</a>'
        body.append(f'<tr class="{kind}">{"".join(cell(i, inside) for i, inside in enumerate(cells))}</tr>')
    inside = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="wide"><table class="sorts">{inside}</table></div>'


def _table(table: Sequence[Sequence[str]]) -> str:
    head, *body = table

    def line(cells: Sequence[str], tag: str) -> str:
        inside = (f"<{tag}{' class=words' * (i == 0)}>{html.escape(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(inside)}</tr>"

    lines = "".join(line(cells, "td") for cells in body)
    return f'<div class="wide"><table><thead>{line(head, "th")}</thead><tbody>{lines}</tbody></table></div>'


def _commands(row: Row, home: Path) -> str:
    items = []
    for run in row.runs:
        link = html.escape(_link(run.folder, home))
        command = f"<pre>{html.escape(run.command)}</pre>" if run.command else ""
        items.append(f'<li><a href="{link}">seed {run.seed}</a>: {html.escape(run.state)}{command}</li>')
    return f"<details><summary>{html.escape(row.label)}</summary><ul>{''.join(items)}</ul></details>"


def _link(folder: Path, home: Path) -> str:
    return quote(os.path.relpath(folder, home)) + "/"
