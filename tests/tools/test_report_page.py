"""What a report writes: files, the page, its links and pictures."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from kd_jax.tools import report
from tests.commands import launch
from tests.tools.reports import TOP1


def test_files(home, tmp_path, capsys):
    written = report.report([str(home)], out=str(tmp_path / "out"))
    names = {path.name for path in written}
    pictures = {f"report_{name}.png" for name in ("differences", "curves", "cost")}
    assert names >= {"report.md", "table.csv", "table.tex", "report.html", *pictures}
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
    pictures = [path for path in report.report([str(home)], out=str(tmp_path / "out")) if path.suffix == ".png"]
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
    assert len(state["images"]) == len(pictures) == 4 and all(state["images"])
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
