"""The tables of reports: which runs they have, figures against a slow reference, what is said of them."""

import json
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from kd_jax import InputError, config
from kd_jax.tools import config_file, published, report, report_page, report_plots, report_runs, report_tables
from tests.conftest import ROOT
from tests.tools.reports import TOP1, put


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
    assert len(eight.gap.pairs) == 1 and eight.gap.error is None and "nothing can be said" in eight.gap.sentence
    assert [run.state for run in eight.missing] == ["failed: phase student, step 3: kd is not finite", "missing"]
    assert one.gap is None and one.best == pytest.approx(one.mean + 0.01)


@pytest.mark.parametrize(("gaps", "sentence"), [
    ((0.01, 0.02, 0.03), "no difference is shown"), ((-0.02, -0.021, -0.022), "worse, by more than"),
    ((0.02, 0.021, 0.022), "better, by more than"), ((0.0,), "nothing can be said"),
])  # fmt: skip
def test_what_a_difference_shows(gaps, sentence):
    def row(values):
        return report_tables.Row("a row", [], values, None, None, None)

    ours = row({seed: 0.5 + gap for seed, gap in enumerate(gaps)})
    gap = report_tables.gap_of(ours, row(dict.fromkeys(range(9), 0.5)))
    assert sentence in gap.sentence and gap.pairs == pytest.approx(gaps) and gap.baseline == "a row"
    assert report_tables.gap_of(ours, row({99: 0.5})) is None


def test_the_picture_of_differences(home):
    """Every row but the baseline has a line: its pairs, its mean, its interval where there is one."""
    rows = report_tables.rows_of(report_runs.find([str(home)]).runs, "")
    (axes,) = report_plots.figure_of_differences(rows[1:]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["temperature=4", "temperature=8"]
    assert axes.get_title() == "To temperature=1" and axes.yaxis_inverted()
    for place, row in enumerate(rows[1:]):
        pairs, mean = (line for line in axes.lines if len(line.get_xdata()) and set(line.get_ydata()) == {place}
                       and line.get_marker() in (".", "o"))  # fmt: skip
        assert list(pairs.get_xdata()) == [100 * pair for pair in row.gap.pairs]
        assert list(mean.get_xdata()) == [100 * row.gap.mean]
        assert (mean.get_markerfacecolor() == "white") == (abs(row.gap.mean) <= (row.gap.reach or math.inf))
    ends = [bars.get_segments()[0][:, 0] for bars in axes.collections]
    four = rows[1].gap
    np.testing.assert_allclose(ends, [[100 * (four.mean - four.reach), 100 * (four.mean + four.reach)]])


def compared(label, *pairs):
    """A row that differs so from its baseline."""
    base = report_tables.Row("base", [], dict.fromkeys(range(9), 0.8), None, None, None)
    there = report_tables.Row(label, [], {i: 0.8 + pair for i, pair in enumerate(pairs)}, None, None, None)
    return there._replace(gap=report_tables.gap_of(there, base))


@pytest.mark.parametrize(
    "label", ["DAFA + FitNet, 20 epochs of search, outer loss consistency", ",".join(["a.b=1"] * 9)]
)
def test_a_long_name_leaves_room_for_the_picture(label):
    figure = report_plots.figure_of_differences([compared(label, 0.01, 0.02), compared("b", -0.01, -0.02)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_position().width > 0.4
    texts = [axes.xaxis.label, *axes.get_yticklabels()]
    assert all(figure.bbox.containsx(x) for text in texts for x in text.get_window_extent().intervalx)
    upper, lower = (text.get_window_extent() for text in axes.get_yticklabels())
    assert not upper.overlaps(lower)


def test_a_collapse_does_not_hide_the_other_differences():
    rows = [compared("a", 0.01, 0.012), compared("collapsed", -0.7, -0.69), compared("b", -0.01, -0.02)]
    (axes,) = report_plots.figure_of_differences(rows).axes
    assert [text.get_text() for text in axes.texts] == ["\u2190 -69.5"] and axes.get_xlim()[0] > -20
    assert len(axes.get_yticklabels()) == 3


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


def test_only_the_baseline_is_called_so(home):
    """Not a row that shares no seed with it, nor any other where it has no result."""
    runs = report_runs.find([str(home)]).runs
    apart = [run._replace(seed=run.seed + 10) if "=8" in run.name else run for run in runs]
    failed = [run._replace(state="failed", figures={}) if "=1" in run.name else run for run in runs]
    for there, shown in ((apart, "no seed in common with temperature=1"), (failed, "the baseline has no result")):
        rows = report_tables.rows_of(there, "")
        words = [line[-1].split(";")[0] for line in report_tables.main_table(rows)[1:]]
        assert words[0] == "the baseline" and words[2] == shown and [row.is_baseline for row in rows] == [True, 0, 0]
        page = report_page.page("", rows, [], [], {}, {}, home)
        assert page.count('<tr class="base">') == bool(rows[0].values)


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


@pytest.mark.parametrize(("seed", "subset", "note"), [
    (0, 20.0, "note: with seed 0 the rows have 2 different training sets"),
    (1, 20.0, None),  # each seed draws its own part
    (0, 0.0, "note: the rows are of 2 data sets: synthetic d, synthetic e"),
    (1, 0.0, "note: the rows are of 2 data sets: synthetic d, synthetic e"),
])  # fmt: skip
def test_other_data_are_said(tmp_path, seed, subset, note):
    put(tmp_path / "a", "1", 0, 0.5, subset)
    put(tmp_path / "b", "4", seed, 0.6, subset, digest="e")
    assert report_runs.notes_on(report_runs.find([str(tmp_path)]).runs) == ([note] if note else [])


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
    with pytest.raises(InputError, match="--rows=student.epochs --cols=student.epochs: must be two keys"):
        report_tables.pivot(rows, "student.epochs", "student.epochs")


def test_no_row_is_lost_in_a_table_of_two_keys():
    def row(label, **settings):
        run = report_runs.Run(label, settings, 0, "student", "done", {}, {}, [], None, "", None)
        return report_tables.Row(label, [run], {0: 0.5}, None, None, None)

    there = [row("a", T="1", w="2"), row("b", T="1", w="3"), row("c"), row("d")]
    ((_, table),) = report_tables.pivot(there, "T", "w")
    assert len(table) == 2 and report.left_out(there, "T", "w") == [
        "note: not in the tables of two keys: 2 of 4 rows, which have neither key"
    ]
    with pytest.raises(InputError, match="--rows=T --cols=w: the rows b and other would stand in one cell"):
        report_tables.pivot([*there, row("other", T="1", w="3")], "T", "w")
