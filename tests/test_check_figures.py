"""docs/check_figures.py finds a figure that is not what it comes from."""

import importlib.util
import json

import pytest

from tests.conftest import ROOT


@pytest.fixture
def check(monkeypatch):
    spec = importlib.util.spec_from_file_location("check_figures", ROOT / "docs" / "check_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_that_need_no_run(check):
    assert not list(check.performance()) and not list(check.count_of_methods())


def run_of_the_readme(check, home):
    """A summary that has the README's figures."""
    phases = {}
    for name, (model, top1, agreement, sizes, _) in check.rows_of((ROOT / "README.md").read_text()).items():
        params, _, extra = sizes.replace(",", "").partition(" + ")
        shares = {"top1_last": top1, "top1_best": top1, "agreement_last": agreement}
        shares = {key: None if share == "-" else float(share.strip("%")) / 100 for key, share in shares.items()}
        more = {"params": int(params), "method_params": int(extra or 0), "ms_per_step": 1.0, "networks": {}}
        phases[name] = {"model": model, **shares, **more}
    home.mkdir(exist_ok=True)
    (home / "summary.json").write_text(json.dumps({"phases": phases}))
    return phases


def test_a_figure_of_the_quickstart(check, tmp_path, capsys):
    phases = run_of_the_readme(check, tmp_path)
    assert set(phases) == {"teacher", "alone", "kd", "skd"} and not list(check.quickstart(tmp_path))
    assert check.main(tmp_path) == 0 and "all figures are what they come from" in capsys.readouterr().out
    phases["skd"]["top1_last"] += 0.001
    (tmp_path / "summary.json").write_text(json.dumps({"phases": phases}))
    assert [line.partition(":")[0] for line in check.quickstart(tmp_path)] == ["README.md", "docs/results.md"]
    assert check.main(tmp_path) == 1 and "README.md: skd: " in capsys.readouterr().out
    assert "no finished run" in next(check.quickstart(tmp_path / "none"))


def test_a_page_that_was_edited_by_hand(check, monkeypatch, tmp_path):
    import page

    edited = tmp_path / "performance.md"
    edited.write_text(page.PAGE.read_text().replace("0", "1", 1))
    monkeypatch.setattr(page, "PAGE", edited)
    assert "is not what benchmarks/results give" in next(check.performance())
