"""What came out of a run: summary.json, a table with a true sentence about it, and curves."""

import fnmatch
import io
import itertools
import math
import platform
import statistics
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
from etils import epath

from kd_jax import __version__, config
from kd_jax.data import Dataset
from kd_jax.storage import files
from kd_jax.tasks import CLASSIFICATION, Task
from kd_jax.train.machine import describe_device
from kd_jax.train.results import over_rows

LEGEND = 9  # lines that a panel of curves.png names
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def revision() -> dict | None:
    """The git revision of this code and whether it is modified; None where git does not track it."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(Path(config.__file__).parents[1]), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {
            "revision": git("rev-parse", "HEAD"),
            "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def summarize(recipe: config.Recipe, phases: dict[str, dict], tree: dict, data_identity: dict) -> dict:
    """The content of summary.json. tree: the resolved configuration. data_identity: `Dataset.identity`."""
    versions = {"kd_jax": __version__, "python": platform.python_version()}
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": recipe.data.name,
        "data_digest": data_identity["digest"],
        "versions": versions | {name: metadata.version(name) for name in VERSIONS},
        "device": describe_device(),
        "code": revision(),
        "config": tree,
        "phases": phases,
    }


def table(summary: dict, task: Task = CLASSIFICATION) -> str:
    """A Markdown table, one row a phase. Results are of the last step."""
    title, last, best = task.titles[task.headline], f"{task.headline}_last", f"{task.headline}_best"
    beside = [name for name in task.shown if name != task.headline]
    titles = [title, "best (chosen on test)", *(f"{task.titles[name]} with teacher" for name in beside)]
    titles += ["parameters", "ms/step"]
    lines = [f"| phase | model | {' | '.join(titles)} |", f"| --- | --- |{' ---: |' * len(titles)}"]
    for name, row in summary["phases"].items():
        method_params = f" + {row['method_params']:,}" if row["method_params"] else ""
        speed = "-" if row["ms_per_step"] is None else f"{row['ms_per_step']:.1f}"
        cells = (
            name,
            row["model"],
            f"{_share(row[last])}{_deviation(row, task)}",
            _share(row[best]),
            *(_share(row[f"{name}_last"]) for name in beside),
            f"{row['params']:,}{method_params}",
            speed,
        )
        lines.append(f"| {' | '.join(cells)} |")
        for label, peer in row["networks"].items():
            cells = (f"{_share(peer[last])}{_deviation(peer, task)}", _share(peer[best]), *("-" for _ in beside))
            lines.append(f"| {name}/{label} | {peer['model']} | {' | '.join(cells)} | {peer['params']:,} | - |")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    """ "70.00%", or "-" where nothing was measured."""
    return "-" if value is None else f"{value:.2%}"


def _deviation(row: dict, task: Task) -> str:
    """ " ± 0.30%" behind a mean over seeds."""
    return f" ± {_share(row[f'{task.headline}_std'])}" if "seeds" in row else ""


def reading(summary: dict, tests: int, task: Task = CLASSIFICATION) -> str:
    """What the table shows and what it does not: differences of two students against the sampling error of the test set
    (two standard errors of a difference of independent proportions) or, where both have several seeds, against two
    standard errors of the mean of the differences seed by seed."""
    last = f"{task.headline}_last"
    rows = {name: row for name, row in summary["phases"].items() if row["teacher"] and row[last] is not None}
    seeds = next((row["seeds"] for row in rows.values() if "seeds" in row), None)
    which = f"One seed ({summary['seed']})"
    if seeds:
        which = f"Seeds {seeds[0]['seed']} to {seeds[-1]['seed']}, mean ± deviation, where there is a teacher"
    lines = [f"{which}, last step, {tests} test images: one image is {1 / tests:.2%}."]
    for (a, one), (b, other) in itertools.combinations(rows.items(), 2):
        if "seeds" in one and "seeds" in other:
            gaps = [y[last] - x[last] for x, y in zip(one["seeds"], other["seeds"], strict=True)]
            error, left_by = 2 * statistics.stdev(gaps) / math.sqrt(len(gaps)), f"{len(gaps)} pairs of seeds leave"
        else:
            error = 2 * math.sqrt(sum(row[last] * (1 - row[last]) / tests for row in (one, other)))
            left_by = "the size of the test set alone leaves"
        gap = other[last] - one[last]
        verdict = "more than" if abs(gap) > error else "within"
        lines.append(f"{b} against {a}: {100 * gap:+.2f} points, {verdict} the {100 * error:.2f} that {left_by} open.")
    return "\n".join(lines)


def text(summary: dict, tests: int, task: Task = CLASSIFICATION) -> str:
    """The table and its reading, for a test set of that many examples."""
    return f"{table(summary, task)}\n\n{reading(summary, tests, task)}"


def write(
    home: epath.Path, summary: dict, rows: list[dict], dataset: Dataset, units: dict[str, str],
    task: Task = CLASSIFICATION,
) -> None:  # fmt: skip
    """report.md and curves.png, of several seeds their means and deviations. units: name or pattern of the logs that
    are drawn -> their unit."""
    rows = over_rows(rows)
    heading = f"# {summary['recipe']} on {dataset.source}"
    device = f"{summary['device']['count']} x {summary['device']['kind']}"
    versions = ", ".join(f"{k} {v}" for k, v in summary["versions"].items())
    last = {row["phase"]: row["logs"] for row in rows if row["split"] == "train" and row["logs"]}
    logs = [f"- {phase}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()) for phase, values in last.items()]
    parts = [heading, text(summary, len(dataset.test), task), "![curves](curves.png)"]
    if logs:
        parts += ["## Diagnostics, last interval of training", "\n".join(logs)]
    code = summary["code"]
    code_version = f"{code['revision']}{' with changes' if code['modified'] else ''}" if code else "not under git"
    parts += [f"Device: {device}. Versions: {versions}. Code: {code_version}."]
    files.write_text(home / "report.md", "\n\n".join(parts) + "\n")
    (home / "curves.png").write_bytes(curves(rows, units, task))


def curves(rows: list[dict], units: dict[str, str], task: Task = CLASSIFICATION) -> bytes:
    """A PNG of the task's headline on the test set, of the training loss and, for every unit of the monitored logs, of
    those."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels, title = _panels(rows, units), task.titles[task.headline]
    count = 2 + len(panels)
    figure = Figure(figsize=(5 * min(count, 3), 4.5 * -(-count // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(-(-count // 3), min(count, 3), i + 1) for i in range(count)]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        for axis, split, key in ((axes[0], "test", task.headline), (axes[1], "train", "loss")):
            there = [r for r in rows if r["phase"] == phase and r["split"] == split and key in r]
            if there:  # a network that was loaded has no training rows, one without teacher no agreement
                epochs, means = ([r[name] for r in there] for name in ("epoch", key))
                marker = "o" if len(there) < 40 else None
                axis.plot(epochs, means, marker=marker, markersize=3, label=phase)
                if "deviation" in there[0]:
                    spread = [r["deviation"][key] for r in there]
                    axis.fill_between(epochs, np.subtract(means, spread), np.add(means, spread), alpha=0.2)
    axes[0].set(xlabel="epoch", ylabel=f"{title} on test", title="Test set")
    axes[1].set(xlabel="epoch", ylabel="loss (sum of weighted terms)", title="Training loss", yscale="log")
    for axis, (unit, lines) in zip(axes[2:], panels.items(), strict=True):
        for label, points in lines.items():
            axis.plot(*zip(*points, strict=True), label=label)
        axis.set(xlabel="epoch", ylabel=unit, title="Watched in training")
    for axis in axes:
        axis.grid(alpha=0.3)
        if axis.lines:  # below the axes, where no line is
            how = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "fontsize": "x-small", "ncols": 2}
            if len(axis.lines) > LEGEND:
                last = sorted(axis.lines, key=lambda line: -line.get_ydata()[-1])[:LEGEND]
                how |= {"handles": last, "title": f"the {LEGEND} that end highest"}
            axis.legend(**how)
    return _png(figure)


def overlays(images: np.ndarray, maps: dict[str, np.ndarray], count: int = 8) -> bytes:
    """A PNG of images (B, H, W, C) in [0, 1], a row each for themselves and for every map (B, h, w) over them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = images[:count]
    figure = Figure(figsize=(1.3 * len(images) + 0.6, 1.4 * (1 + len(maps))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1 + len(maps), len(images), squeeze=False)
    extent = (0, images.shape[2], images.shape[1], 0)
    for row, (name, overlay) in enumerate({"image": None, **maps}.items()):
        for axis, image, i in zip(axes[row], images, range(count), strict=False):
            axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, extent=extent)
            if overlay is not None:
                axis.imshow(overlay[i], cmap="magma", alpha=0.6, vmin=0, vmax=max(overlay.max(), 1e-6), extent=extent)
            axis.set(xticks=(), yticks=())
        axes[row][0].set_ylabel(name, fontsize=8)
    return _png(figure)


def _png(figure, dpi: int = 120) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _panels(rows: list[dict], units: dict[str, str]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """unit -> label of a line -> its points."""
    panels = {}
    for pattern, unit in units.items():
        for row in rows:
            logs = row["logs"] if row["split"] == "train" else {}
            for name in fnmatch.filter(logs, pattern):
                line = panels.setdefault(unit, {}).setdefault(f"{row['phase']}: {name}", [])
                line.append((row["epoch"], logs[name]))
    return panels
