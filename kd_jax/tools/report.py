"""A report on the runs in some folders: report.md, table.csv, table.tex, report.html and the pictures."""

import os
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from kd_jax.storage import files
from kd_jax.storage.progress import log_line
from kd_jax.storage.trackers import WandB, required
from kd_jax.storage.workdir import check_folder
from kd_jax.tools.report_formats import comma_separated, latex, markdown
from kd_jax.tools.report_page import page
from kd_jax.tools.report_plots import pictures
from kd_jax.tools.report_predictions import caption as caption_of_predictions
from kd_jax.tools.report_predictions import prediction_pictures
from kd_jax.tools.report_runs import Run, find, notes_on
from kd_jax.tools.report_tables import Row, has_neither, highest, main_table, pivot, rows_of, words_in
from kd_jax.typing import InputError

CAPTIONS = {
    "differences": "The last step less the baseline's, seed by seed: a dot a pair, the mean, and the interval that the "
    "pairs leave (95 %, by Student's distribution); filled where zero is outside.",
    "curves": "By epoch on the test set: mean over the seeds, and a band of one deviation.",
    "policy": "How often a policy uses each operation while it is searched and after, in one run.",
    "areas": "What a method has looked at, over test images, in one run.",
    "cost": "The last step against what a step takes on the machine of the runs; bars are one deviation.",
}


def report(
    folders: Sequence[str], *, rows: str = "", cols: str = "", baseline: str = "", out: str = "", wandb: str = "",
    predictions: bool = False,
) -> list[Path]:  # fmt: skip
    """Write a report.

    Args:
      folders: of sweeps or of runs, or above them.
      rows, cols: keys of a further table; both or none.
      baseline: row that the others are compared with; by default the sweep's, or the first.
      out: folder of the report; by default the first of `folders`.
      predictions: whether to run the saved networks over the test set, for pictures of what they say.
      wandb: project of Weights & Biases that gets the rows of all runs; "" for none.

    Returns:
      The files.

    Raises:
      InputError: nothing there, an unknown key, an unknown baseline, a file in the place of a folder.
    """
    if bool(rows) != bool(cols):
        raise InputError("--rows and --cols: give both, or none")
    if not folders:
        raise InputError("give the folder of a sweep, or of runs: python launch/report.py DIR")
    home = Path(os.path.expanduser(out or folders[0]))
    if out:
        check_folder(f"--out={out}", home)
    results = find(folders)
    table = rows_of(results.runs, baseline, results.baseline)
    pivots = pivot(table, rows, cols) if rows else []
    headlines = {run.headline for run in results.runs if run.state == "done"}
    if len(headlines) > 1:
        raise InputError(f"the runs are measured by {', '.join(sorted(headlines))}: a report of each wanted")
    notes = [*_notes(table), *notes_on(results.runs), *_lacking(table), *left_out(table, rows, cols)]
    drawn = pictures(table, *headlines) if headlines else {}
    if predictions:
        drawn |= prediction_pictures(table)
    captions = {name: _caption(name) for name in drawn}
    home.mkdir(parents=True, exist_ok=True)
    title = ", ".join(Path(folder).resolve().name for folder in folders)
    main = main_table(table)
    words = words_in(main)
    texts = {
        "report.md": _text(title, main, pivots, notes, drawn, captions),
        "table.csv": comma_separated(table),
        "table.tex": "\n\n".join([latex(each, {0}) for _, each in pivots] or [latex(main, words)]) + "\n",
        "report.html": page(title, table, pivots, notes, drawn, captions, home),
    }
    written = [home / name for name in texts]
    for path, text in zip(written, texts.values(), strict=True):
        files.write_text(path, text)
    for name, picture in drawn.items():
        written.append(home / f"report_{name}.png")
        written[-1].write_bytes(picture)
    if wandb:
        _push(results.runs, wandb)
    log_line("\n".join([markdown(main, words), *notes, "", *(f"written: {path}" for path in written)]))
    return written


def _caption(name: str) -> str:
    """What a picture shows."""
    against = f"The last step against {name.removeprefix('against_')}; bars are one deviation."
    return caption_of_predictions(name) or CAPTIONS.get(name, against)


def _notes(table: Sequence[Row]) -> list[str]:
    """The highest row, and whose published figures stand there."""
    sources = dict.fromkeys(row.published[1] for row in table if row.published)
    cited = f"note: published figures are those of {', '.join(sources)}: not ours" if sources else ""
    return [line for line in (highest(table), cited) if line]


def _push(runs: Sequence[Run], project: str) -> None:
    """Give the rows of finished runs to a project, as if they had been tracked while they trained."""
    required("wandb")
    for run in runs:
        if run.state == "done":
            tracker = WandB(project, epath.Path(run.folder.resolve()), run.phase, run.summary["config"])
            for row in run.rows:
                tracker.add(row)
            tracker.close()


def _lacking(table) -> list[str]:
    runs = [run for row in table for run in row.missing]
    states = [run.state.partition(":")[0] for run in runs]
    counts = {state: states.count(state) for state in ("failed", "damaged", "unfinished", "missing")}
    there = [f"{count} {state}" for state, count in counts.items() if count]
    return [f"note: of {sum(len(row.runs) for row in table)} runs {', '.join(there)}"] if there else []


def left_out(table: Sequence[Row], rows: str, cols: str) -> list[str]:
    """A line on the rows that have no place in the tables of two keys."""
    count = sum(has_neither(row, rows, cols) for row in table) if rows else 0
    return [f"note: not in the tables of two keys: {count} of {len(table)} rows, which have neither key"] * bool(count)


def _text(title: str, main, pivots, notes, drawn, captions) -> str:
    parts = [f"# {title}", markdown(main, words_in(main)), *notes]
    parts += [f"**{name or 'By two keys'}**\n\n{markdown(each, {0})}" for name, each in pivots]
    parts += [f"![{captions[name]}](report_{name}.png)" for name in drawn]
    return "\n\n".join(parts) + "\n"
