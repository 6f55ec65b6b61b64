"""Tables of results as text: Markdown, LaTeX, and lines for other programs."""

import csv
import io
from collections.abc import Sequence

from kd_jax.tools.report_tables import Row


def markdown(table: Sequence[Sequence[str]], words: set[int]) -> str:
    """A table in Markdown; its first row is the head. words: columns that are not numbers."""

    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---" if i in words else "---:" for i in range(len(table[0]))]
    return "\n".join([line(table[0]), line(rule), *map(line, table[1:])])


def latex(table: Sequence[Sequence[str]], words: set[int]) -> str:
    """The same for LaTeX with the package booktabs."""
    special = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {letter: f"\\{letter}" for letter in "&%$#_{}"}

    def line(cells):
        text = " & ".join("".join(special.get(letter, letter) for letter in cell) for cell in cells)
        return "{}" * text.startswith(("[", "*")) + text + r" \\"  # else an argument of the line before

    columns = "".join("l" if i in words else "r" for i in range(len(table[0])))
    body = [r"\toprule", line(table[0]), r"\midrule", *map(line, table[1:]), r"\bottomrule"]
    return "\n".join([f"\\begin{{tabular}}{{{columns}}}", *body, r"\end{tabular}"])


def comma_separated(rows: Sequence[Row]) -> str:
    """Every run in a line, for other programs: settings, seed, phase, state, figures at full precision."""
    keys = list(dict.fromkeys(key for row in rows for run in row.runs for key in run.settings if key != "phase"))
    figures = ("top1_last", "top1_best", "top5_last", "agreement_last", "ms_per_step", "wall_seconds")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *keys, "seed", "phase", "state", *figures, "folder", "command"])
    for row in rows:
        for run in row.runs:
            values = [run.figures.get(name) for name in figures]
            about = [run.seed, run.phase, run.state, *("" if value is None else value for value in values)]
            writer.writerow([run.name, *(run.settings.get(key, "") for key in keys), *about, run.folder, run.command])
    return text.getvalue()
