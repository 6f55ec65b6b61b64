"""Reports: what is found, the figures of a table against a slow reference, what is said of them, and the page."""

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from scipy import stats

from kd_jax import InputError, config
from kd_jax.tools import config_file, published, report, report_runs, report_tables
from tests.commands import launch
from tests.conftest import ROOT, tree

TOP1 = {("1", 0): 0.5, ("1", 1): 0.6, ("1", 2): 0.55, ("4", 0): 0.58, ("4", 1): 0.69, ("4", 2): 0.60, ("8", 0): 0.5}
CODE = {"revision": "a" * 40, "modified": False}


def summary_of(config_tree, top1, code=CODE, teacher="t"):
    phase = {"top1_last": top1, "top1_best": top1 + 0.01, "top5_last": 0.9, "agreement_last": 0.8, "ms_per_step": 20.0,
             "wall_seconds": 3.0, "teacher": {"digest": teacher}}  # fmt: skip
    about = {"recipe": "skd", "seed": config_tree["seed"], "data": "synthetic", "data_digest": "d", "code": code}
    about |= {"versions": {"jax": "0.10"}, "device": {"kind": "cpu"}, "config": config_tree}
    return about | {"phases": {"teacher": phase, "student": phase}}


def put(folder, temperature, seed, top1, **how):
    """A finished run, as far as a report reads it."""
    config_tree = json.loads(json.dumps(tree(student__refine__skd__temperature=float(temperature), seed=seed)))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_tree))
    if top1 is None:
        return
    (folder / "summary.json").write_text(json.dumps(summary_of(config_tree, top1, **how)))
    rows = [
        {"phase": "student", "split": "test", "step": 5 * e, "epoch": float(e), "top1": top1 * e / 3} for e in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def home(tmp_path):
    """A sweep of three temperatures and three seeds: a run failed, one is unfinished."""
    cells = []
    for value in ("1", "4", "8"):
        for seed in range(3):
            name = f"student.refine.skd.temperature={value}"
            folder = tmp_path / "sweep" / name / f"seed={seed}"
            settings, below = {"student.refine.skd.temperature": value}, f"{name}/seed={seed}"
            cell = {
                "name": name,
                "seeds": [seed],
                "settings": settings,
                "folder": below,
                "command": "python launch/train.py",
            }
            cells.append(cell)
            if (value, seed) != ("8", 2):
                put(folder, value, seed, TOP1.get((value, seed)))
    failed = tmp_path / "sweep" / "student.refine.skd.temperature=8" / "seed=1" / "output.txt"
    failed.write_text("$ python\nerror: phase student, step 3: kd is not finite\n")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"baseline": "", "cells": cells}))
    return tmp_path / "sweep"


def test_figures_against_a_slow_reference(home):
    results = report_runs.find([str(home)])
    one, four, eight = report_tables.rows_of(results.runs, "")
    assert [row.label for row in (one, four, eight)] == ["temperature=1", "temperature=4", "temperature=8"]
    values = [[TOP1[value, seed] for seed in range(3)] for value in "14"]
    assert one.mean == pytest.approx(np.mean(values[0])) and one.deviation == pytest.approx(np.std(values[0], ddof=1))
    gaps = np.subtract(values[1], values[0])
    assert four.gap.mean == pytest.approx(gaps.mean()) and four.gap.error == pytest.approx(gaps.std(ddof=1) / 3**0.5)
    low, high = stats.ttest_rel(values[1], values[0]).confidence_interval(0.95)
    assert four.gap.reach == pytest.approx((high - low) / 2)
    assert four.gap.sentence.startswith("better, by more than")
    assert eight.gap.count == 1 and eight.gap.error is None and "nothing can be said" in eight.gap.sentence
    assert [run.state for run in eight.missing] == ["failed: phase student, step 3: kd is not finite", "missing"]
    assert one.gap is None and one.best == pytest.approx(one.mean + 0.01)


@pytest.mark.parametrize(("gaps", "sentence"), [
    ((0.01, 0.02, 0.03), "no difference is shown"), ((-0.02, -0.021, -0.022), "worse, by more than"),
    ((0.02, 0.021, 0.022), "better, by more than"), ((0.0,), "nothing can be said"),
])  # fmt: skip
def test_what_a_difference_shows(gaps, sentence):
    values = {seed: 0.5 + gap for seed, gap in enumerate(gaps)}
    gap = report_tables.gap_of(values, dict.fromkeys(range(9), 0.5))
    assert sentence in gap.sentence and gap.count == len(gaps)
    assert report_tables.gap_of(values, {99: 0.5}) is None


def test_the_highest_row(home):
    rows = report_tables.rows_of(report_runs.find([str(home)]).runs, "")
    assert report_tables.highest(rows) == "highest: temperature=4, 62.33 %; not told from it: temperature=8"
    assert report_tables.highest(rows[::2]).endswith("; its seeds tell it from no other row")
    assert report_tables.highest(rows[:2]).endswith("; told from all other rows") and not report_tables.highest(
        rows[:1]
    )


def test_another_baseline(home):
    runs = report_runs.find([str(home)]).runs
    for named in ("temperature=4", "student.refine.skd.temperature=4"):
        rows = report_tables.rows_of(runs, named)
        assert rows[1].gap is None and rows[0].gap.mean < 0
    with pytest.raises(InputError, match="--baseline=temperature=3: no row is called so; did you mean"):
        report_tables.rows_of(runs, "temperature=3")


def test_single_runs_are_told_apart_by_what_differs(tmp_path):
    for value in ("1", "4"):
        for seed in range(2):
            put(tmp_path / f"T{value}" / str(seed), value, seed, TOP1[value, seed])
    results = report_runs.find([str(tmp_path)])
    assert results.keys == ["student.refine.skd.temperature"]
    rows = report_tables.rows_of(results.runs, "")
    assert [(row.label, len(row.values)) for row in rows] == [("skd, temperature=1.0", 2), ("skd, temperature=4.0", 2)]
    put(tmp_path / "again", "1", 0, 0.4)  # the same run a second time is no further seed
    rows = report_tables.rows_of(report_runs.find([str(tmp_path)]).runs, "")
    assert sorted(len(row.values) for row in rows) == [1, 1, 1, 2]


def test_a_phase_that_cells_share_is_one_row(tmp_path):
    """Of two temperatures of SKD beside one KD, whose phases the cells of a seed link."""
    cells = []
    for value in ("1", "4"):
        for seed in range(2):
            folder = f"T={value}/seed={seed}"
            put(tmp_path / folder, value, seed, TOP1[value, seed])
            for file in ("config.json", "summary.json"):
                held = json.loads((tmp_path / folder / file).read_text())
                config_tree = held if file == "config.json" else held["config"]
                config_tree["phases"], config_tree["kd"] = ["teacher", "kd", "student"], config_tree["student"]
                if file == "summary.json":
                    held["phases"]["kd"] = held["phases"]["teacher"] | {"top1_last": 0.4 + 0.1 * seed}
                (tmp_path / folder / file).write_text(json.dumps(held))
            cell = {"name": f"T={value}", "seeds": [seed], "settings": {"T": value}, "folder": folder, "command": "c"}
            cells.append(cell | {"links": {"kd": f"shared/kd-{seed}", "teacher": "shared/t"}})
    (tmp_path / "sweep.json").write_text(json.dumps({"baseline": "", "cells": cells}))
    rows = report_tables.rows_of(report_runs.find([str(tmp_path)]).runs, "phase=kd")
    assert [(row.label, len(row.values)) for row in rows] == [("kd", 2), ("student: T=1", 2), ("student: T=4", 2)]
    assert rows[0].gap is None and rows[1].gap.mean == pytest.approx(0.1)


@pytest.mark.parametrize(("how", "note"), [
    ({"code": {"revision": "b" * 40, "modified": True}}, "code: aaaaaaaaaaaa, bbbbbbbbbbbb with changes"),
    ({"teacher": "u"}, "with seed 0 the rows have 2 different teachers"),
    ({}, None),
])  # fmt: skip
def test_rows_that_do_not_compare_are_said(tmp_path, how, note):
    put(tmp_path / "a", "1", 0, 0.5)
    put(tmp_path / "b", "4", 0, 0.6, **how)
    notes = report_runs.notes_on(report_runs.find([str(tmp_path)]).runs)
    assert notes == [] if note is None else note in "\n".join(notes)


def test_files(home, tmp_path, capsys):
    written = report.report([str(home)], out=str(tmp_path / "out"))
    names = {path.name for path in written}
    assert names >= {"report.md", "table.csv", "table.tex", "report.html", "report_curves.png", "report_cost.png"}
    assert "report_against_student.refine.skd.temperature.png" in names
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written if path.suffix == ".png")
    with open(tmp_path / "out" / "table.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9
    done = {(line["student.refine.skd.temperature"], int(line["seed"])): float(line["top1_last"])
            for line in lines if line["state"] == "done"}  # fmt: skip
    assert done == TOP1
    text = (tmp_path / "out" / "report.md").read_text()
    assert "note: of 9 runs 1 failed, 1 missing" in text and "| temperature=4 | 3 | 62.33 |" in text
    assert r"temperature=4 & 3 & 62.33" in (tmp_path / "out" / "table.tex").read_text()
    assert capsys.readouterr().out.count("written: ") == len(written)


@pytest.mark.parametrize(("arguments", "figure"), [
    (("kd", "resnet56,resnet20", {}), (70.66, "mdistiller's README")),
    (("crd", "resnet32x4,shufflev1", {}), (75.11, "RepDistiller's README")),
    (("dkd", "ResNet50,vgg8", {}), None),  # none is known
    (("kd", "resnet20,resnet8", {}), None),
    (("kd", "resnet56,resnet20", {"student.epochs": 120}), None),
    (("kd", "resnet56,resnet20", {"data.name": "cifar10"}), None),
    (("kd", "resnet56,resnet20", {"data.subset": 0.5}), None),
    (("skd", "resnet56,resnet20", {}), None),  # not available to us
])  # fmt: skip
def test_published_figures_stand_beside_what_they_are_of(arguments, figure):
    name, pair, changes = arguments
    config_dict = config_file.load(str(ROOT / "configs" / f"{name}.py") + f":{pair}")
    config.override(config_dict, [f"--config.{key}={value}" for key, value in changes.items()])
    assert published.published(json.loads(json.dumps(config_dict.to_dict())), "student") == figure


def test_rows_go_to_weights_and_biases_afterwards(home, tmp_path, monkeypatch):
    runs = []

    class Run:
        def __init__(self, **how):
            self.how, self.rows = how, []
            runs.append(self)

        def define_metric(self, *args, **kwargs):
            pass

        def log(self, row):
            self.rows.append(row)

        def finish(self):
            self.rows.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", type("module", (), {"init": Run}))
    report.report([str(home)], out=str(tmp_path / "out"), wandb="project")
    assert len(runs) == len({run.how["id"] for run in runs}) == len(TOP1)
    assert all(run.how["project"] == "project" and run.rows[-1] == "finished" for run in runs)
    assert runs[0].rows[2] == {"test/epoch": 3.0, "test/top1": 0.5, "step": 15, "epoch": 3.0}


def test_a_table_of_two_keys(home):
    runs = report_runs.find([str(home)]).runs
    runs = [run._replace(settings={**run.settings, "student.epochs": "5"}) for run in runs]
    rows = report_tables.rows_of(runs, "")
    ((title, table),) = report_tables.pivot(rows, "student.refine.skd.temperature", "student.epochs")
    assert title == "" and table[0] == ("student.refine.skd.temperature \\ student.epochs", "5")
    expected = f"55.00 ± {100 * statistics.stdev([0.5, 0.6, 0.55]):.2f} (n=3)"
    assert table[1] == ("1", expected) and table[3] == ("8", "50.00 (n=1) (2 not done)")
    with pytest.raises(InputError, match="--cols=seeds: the runs do not differ in it"):
        report_tables.pivot(rows, "student.epochs", "seeds")


@pytest.mark.parametrize(("flags", "message"), [
    ([], "give the folder of a sweep, or of runs"),
    (["nowhere"], "nowhere: no such folder"),
    (["tests/tools"], "tests/tools: no run in it"),
    (["tests/tools", "--rows=a"], "--rows and --cols: give both, or none"),
])  # fmt: skip
def test_the_command_refuses(flags, message):
    done = launch("report", *flags)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """
<script>addEventListener("load", () => {
  const column = i => [...document.querySelectorAll("table.sorts tbody tr")].map(row => row.cells[i].textContent);
  const before = column(2), click = () => document.querySelectorAll("table.sorts th button")[2].click();
  click(); const down = column(2); click(); const up = column(2);
  const images = [...document.images].map(image => image.complete && image.naturalWidth > 100);
  const asked = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:")).length;
  const wide = document.documentElement.scrollWidth <= innerWidth + 1;
  document.title = JSON.stringify({before, down, up, images, asked, wide, errors: window.errors});
});</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium; apt-get install chromium")
@pytest.mark.parametrize("width", [600, 1280])  # headless Chromium has no narrower window
def test_the_page_in_a_browser(home, tmp_path, width):
    """Offline: no error, every picture loads, nothing is asked of a network, a click sorts, nothing is cut off."""
    report.report([str(home)], out=str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|\.\./)', page)
    first = "<script>window.errors = []; addEventListener('error', event => errors.push(event.message));</script>"
    probed = tmp_path / "out" / "probed.html"
    probed.write_text(page.replace("<head>", f"<head>{first}").replace("</body>", f"{PROBE}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += [f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *flags, f"file://{probed}"], capture_output=True, text=True, timeout=120)
    state = json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1].replace("&quot;", '"'))
    assert state["errors"] == [] and state["asked"] == 0 and state["wide"]
    assert len(state["images"]) == 3 and all(state["images"])
    assert state["down"] == ["62.33", "55.00", "50.00"] and state["up"] == ["50.00", "55.00", "62.33"]


def test_a_policy_and_areas(home, tmp_path):
    """Of the first run that has them."""
    folder = home / "student.refine.skd.temperature=4" / "seed=1"
    for i in (1, 2):
        logs = {"dafa/use/Rotate": 0.1 * i, "dafa/use/Noise": 0.5, "dam/share": 0.3}
        row = {"phase": "student", "split": "train", "step": i, "epoch": float(i), "logs": logs}
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
    (folder / "student").mkdir()
    (folder / "student" / "maps.png").write_bytes(b"\x89PNG, of a method")
    written = {path.name: path for path in report.report([str(home)], out=str(tmp_path / "out"))}
    assert written["report_areas.png"].read_bytes() == b"\x89PNG, of a method"
    assert written["report_policy.png"].read_bytes()[:4] == b"\x89PNG"
    assert "uses each operation" in written["report.html"].read_text()


def test_links_lead_to_the_runs(home, tmp_path):
    report.report([str(home)], out=str(tmp_path / "out"))
    page = (tmp_path / "out" / "report.html").read_text()
    links = {unquote(link) for link in re.findall(r'href="(\.\./[^"]*)"', page)}
    assert len(links) == 9
    there = [Path(tmp_path / "out" / link).exists() for link in links]
    assert sum(there) == 8  # one run is missing
