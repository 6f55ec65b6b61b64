"""Results over seeds: means, deviations, paired differences to a baseline, and tables of them."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from scipy import stats

from kd_jax.tools.published import published
from kd_jax.tools.report_runs import PLACE, Run
from kd_jax.typing import InputError, suggest

LEVEL = 0.95  # of the intervals


class Row(NamedTuple):
    """One setting over its seeds. Shares in [0, 1].

    label: of the row. runs: all of them, the missing ones too. values: seed -> headline of the last step. best: mean
    of the best steps, chosen on the test set. agreement: mean with the teacher, None without. milliseconds: a step,
    the median. gap: of the paired differences to the baseline, None for the baseline itself and where none is shared.
    is_baseline: whether it is the baseline. shown: what the comparison with the baseline shows, in words.
    """

    label: str
    runs: list[Run]
    values: dict[int, float]
    best: float | None
    agreement: float | None
    milliseconds: float | None
    gap: "Gap | None" = None
    is_baseline: bool = False
    shown: str = ""

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Of the seeds; None of a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def published(self) -> tuple[float, str] | None:
        """What others have published for it, and where."""
        run = self.runs[0]
        return published(run.summary["config"], run.phase) if run.summary.get("config") else None

    @property
    def missing(self) -> list[Run]:
        """Runs without a result."""
        return [run for run in self.runs if run.state != "done"]


class Gap(NamedTuple):
    """Differences to the baseline, seed by seed. pairs: one of every seed that both have. error: standard error of the
    mean, None of a single pair. reach: half of the interval that the pairs leave, by Student's distribution. baseline:
    its label."""

    pairs: tuple[float, ...]
    mean: float
    error: float | None
    reach: float | None
    baseline: str = ""

    @property
    def sentence(self) -> str:
        """What the difference shows."""
        if self.error is None:
            return "one pair of seeds: nothing can be said"
        if abs(self.mean) <= self.reach:
            return f"no difference is shown: {len(self.pairs)} pairs leave {100 * self.reach:.2f} points open"
        return f"{'better' if self.mean > 0 else 'worse'}, by more than the {100 * self.reach:.2f} points left open"


def rows_of(runs: Sequence[Run], baseline: str, recorded: str = "") -> list[Row]:
    """A row for every setting, in their order.

    Args:
      runs: of one headline.
      baseline: label of a row, or name of its cell; "" is the recorded one, or the first.
      recorded: what a sweep names so; there may be no such row, as where several sweeps have it.

    Raises:
      InputError: no row is called so.
    """
    groups: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels_of(runs), strict=True):
        groups.setdefault(label, []).append(run)
    rows = [_row(label, group) for label, group in groups.items()]
    base = _baseline(rows, baseline) if baseline else recorded and _called(rows, recorded) or rows[0]
    return [_compared(row, base) for row in rows]


def labels_of(runs: Sequence[Run]) -> list[str]:
    """What tells each run from those of other settings: its phase, its name, and its place if it has one; of a
    combination of values the values, behind as much of their keys as tells these apart."""
    keys = {key for run in runs for key in run.settings}
    one_name = len({run.name for run in runs}) == 1
    labels = []
    for run in runs:
        values = {key: value for key, value in run.settings.items() if key not in ("phase", "recipe", PLACE)}
        name, combined = unquote(run.name), ",".join(f"{key}={value}" for key, value in values.items())
        if combined and name.endswith(combined):
            before = name.removesuffix(combined).rstrip(",")
            name = ", ".join([before] * bool(before) + [f"{_short_key(k, keys)}={v}" for k, v in values.items()])
        phase, place = run.settings.get("phase", ""), run.settings.get(PLACE, "")
        label = f"{phase}: {name}" if phase and name and not one_name else phase or name
        labels.append(f"{label} in {place}" if place else label)
    return labels


def _short_key(key: str, keys: set[str]) -> str:
    """The end of a dotted key that no other key has."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = ".".join(parts[-count:])
        if not any(other != key and f".{other}".endswith(f".{end}") for other in keys):
            return end
    return key


def _row(label: str, runs: list[Run]) -> Row:
    done = [run for run in runs if run.state == "done"]

    def mean(name: str) -> float | None:
        values = [run.figures.get(name) for run in done]
        return None if not values or None in values else statistics.fmean(values)

    headline = done[0].headline if done else ""
    speeds = [run.figures["ms_per_step"] for run in done if run.figures["ms_per_step"]]
    shares = {run.seed: run.figures[f"{headline}_last"] for run in done}
    values = {seed: share for seed, share in shares.items() if share is not None}  # of networks that have one
    speed = statistics.median(speeds) if speeds else None
    return Row(label, runs, values, mean(f"{headline}_best"), mean("agreement_last"), speed)


def _baseline(rows: list[Row], named: str) -> Row:
    row = _called(rows, named)
    if row is None:
        raise InputError(f"--baseline={named}: no row is called so; {suggest(named, [row.label for row in rows])}")
    return row


def _called(rows: list[Row], named: str) -> Row | None:
    """The first row of that label, cell or setting."""
    for row in rows:
        name, settings = row.runs[0].name, row.runs[0].settings
        if named in (row.label, unquote(name), name, *(f"{key}={value}" for key, value in settings.items())):
            return row
    return None


def _compared(row: Row, base: Row) -> Row:
    """A row with its difference to the baseline."""
    if row is base:
        return row._replace(is_baseline=True, shown="the baseline")
    gap = gap_of(row, base)
    if gap or not row.values:
        return row._replace(gap=gap, shown=gap.sentence if gap else "")
    return row._replace(shown=f"no seed in common with {base.label}" if base.values else "the baseline has no result")


def gap_of(row: Row, base: Row) -> Gap | None:
    """The differences of a row to another over the seeds that both have."""
    pairs = tuple(row.values[seed] - base.values[seed] for seed in row.values if seed in base.values)
    if not pairs:
        return None
    if len(pairs) == 1:
        return Gap(pairs, pairs[0], None, None, base.label)
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(pairs) - 1)) * error
    return Gap(pairs, statistics.fmean(pairs), error, reach, base.label)


def highest(rows: Sequence[Row]) -> str:
    """A line on the row with the highest mean, and on those that its seeds do not tell from it; "" without two rows."""
    there = sorted((row for row in rows if row.values), key=lambda row: -row.mean)
    if len(there) < 2:
        return ""
    best, *others = there
    gaps = {row.label: gap_of(best, row) for row in others}
    level = [label for label, gap in gaps.items() if gap is None or gap.reach is None or gap.mean <= gap.reach]
    if len(level) == len(others):
        apart = "its seeds tell it from no other row"
    else:
        apart = f"not told from it: {', '.join(level)}" if level else "told from all other rows"
    return f"highest: {best.label}, {percent(best.mean)} %; {apart}"


COLUMNS = (
    "setting", "n", "last, %", "deviation", "best (chosen on test), %", "agreement, %", "to the baseline, points",
    "standard error", "ms a step", "published, %", "what the difference shows",
)  # fmt: skip
WORDS = (COLUMNS[0], COLUMNS[-1])  # the others are numbers


def main_table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rows as text, behind a head; without columns in which nothing stands."""
    table = [COLUMNS, *map(_cells, rows)]
    used = [i for i in range(len(COLUMNS)) if COLUMNS[i] in WORDS or any(line[i] for line in table[1:])]
    return [tuple(line[i] for i in used) for line in table]


def words_in(table: Sequence[Sequence[str]]) -> set[int]:
    """The columns of words in the main table."""
    return {i for i, name in enumerate(table[0]) if name in WORDS}


def _cells(row: Row) -> tuple[str, ...]:
    missing = [f"{len(row.missing)} not done: {'; '.join(sorted({run.state for run in row.missing}))}"] * bool(
        row.missing
    )
    gap, figure = row.gap, row.published
    return (
        row.label, str(len(row.values)), percent(row.mean), percent(row.deviation), percent(row.best),
        percent(row.agreement), "" if gap is None else f"{100 * gap.mean:+.2f}",
        "" if gap is None else percent(gap.error), "" if row.milliseconds is None else f"{row.milliseconds:.1f}",
        f"{figure[0]:.2f}" if figure else "", "; ".join([row.shown] * bool(row.shown) + missing),
    )  # fmt: skip


def percent(share: float | None) -> str:
    """A share in percent, "" for none."""
    return "" if share is None else f"{100 * share:.2f}"


def pivot(rows: Sequence[Row], down: str, across: str) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Tables of two keys, one for every combination of the others: (title, rows with a head). Rows that have neither
    key are left out.

    Raises:
      InputError: one key twice, a key in which the runs do not differ, or two rows with the same values of all keys.
    """
    if down == across:
        raise InputError(f"--rows={down} --cols={across}: must be two keys")
    keys = list(dict.fromkeys(key for row in rows for key in row.runs[0].settings))
    for flag, key in (("rows", down), ("cols", across)):
        if key not in keys:
            raise InputError(f"--{flag}={key}: the runs do not differ in it; {suggest(key, keys)}")
    tables: dict[str, dict[tuple[str, str], Row]] = {}
    for row in rows:
        settings = row.runs[0].settings
        if has_neither(row, down, across):
            continue
        title = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in (down, across))
        table, place = tables.setdefault(title, {}), (settings.get(down, ""), settings.get(across, ""))
        if place in table:
            both = f"the rows {table[place].label} and {row.label} would stand in one cell"
            raise InputError(f"--rows={down} --cols={across}: {both}; rows that differ in some key are accepted")
        table[place] = row
    return [(title, _pivoted(table, down, across)) for title, table in tables.items()]


def has_neither(row: Row, down: str, across: str) -> bool:
    """Whether a row has no place in a table of two keys."""
    return not {down, across} & row.runs[0].settings.keys()


def _pivoted(table: dict[tuple[str, str], Row], down: str, across: str) -> list[tuple[str, ...]]:
    names, columns = (list(dict.fromkeys(place[i] for place in table)) for i in range(2))
    head = (f"{down} \\ {across}", *columns)
    return [head, *((name, *(_short(table.get((name, column))) for column in columns)) for name in names)]


def _short(row: Row | None) -> str:
    if row is None:
        return ""
    missing = f" ({len(row.missing)} not done)" if row.missing else ""
    spread = "" if row.deviation is None else f" ± {percent(row.deviation)}"
    return f"{percent(row.mean) or '-'}{spread} (n={len(row.values)}){missing}"
