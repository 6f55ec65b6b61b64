"""Check figures of README and docs against what they come from: make quickstart && python docs/check_figures.py

Accuracies, agreements and sizes of the quickstart's table against runs/quickstart (its times are a machine's);
docs/performance.md against benchmarks/results; the number of methods against the registry. Exit 1 if one differs. The
accuracies are those of the machine and of the jax that docs/results.md names: elsewhere the last digits may differ.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from kd_jax import methods  # noqa: E402
from kd_jax.train import report  # noqa: E402

PAGES = ("README.md", "docs/results.md")  # which have the quickstart's table
LAST = -1  # the column of times


def main(workdir: Path) -> int:
    """Print what differs; the exit code."""
    wrong = [*quickstart(workdir), *performance(), *count_of_methods()]
    print("\n".join(wrong) if wrong else "all figures are what they come from")
    return 1 if wrong else 0


def quickstart(workdir: Path) -> Iterator[str]:
    """Where the table of the quickstart is another one than that of a run."""
    written = workdir / "summary.json"
    if not written.exists():
        yield f"{workdir}: no finished run; make quickstart makes it"
        return
    rows = rows_of(report.table(json.loads(written.read_text())))
    for page in PAGES:
        there = rows_of((ROOT / page).read_text())
        for name, cells in rows.items():
            # the page leaves out the column of the best step, which is chosen on the test set
            expected = [cells[0], cells[1], *cells[3:LAST]]
            if there.get(name, [])[:LAST] != expected:
                yield f"{page}: {name}: {there.get(name)}, but the run has {expected}"


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell of a row of the first table with a column "ms/step" -> the others."""
    table = re.search(r"^\| phase \|.*ms/step \|\n\|[-| :]+\n((?:\|.*\n?)*)", text, re.M)
    lines = table[1].strip().splitlines() if table else []
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: rest for name, *rest in cells}


def performance() -> Iterator[str]:
    """Where docs/performance.md is not the page of the results."""
    import page

    if page.text(ROOT / "benchmarks" / "results") != page.PAGE.read_text():
        yield "docs/performance.md: is not what benchmarks/results give; python benchmarks/run.py page"


def count_of_methods() -> Iterator[str]:
    """Where the README counts other methods than those of the registry that are no parts of the three papers."""
    papers = {"skd", "sftn_branches", "dafa", "dam", "ce", "paraphraser"}
    optimisers = {"dot"}  # methods that are no members
    names = {*methods.REFINERS, *methods.CRITERIA, *optimisers} - papers
    around = ("ea_", "sdd_")  # one method each, around several losses
    count = len({name.split("_")[0] if name.startswith(around) else name for name in names})
    (said,) = re.findall(r"^- (\d+) methods that they are compared with", (ROOT / "README.md").read_text(), re.M)
    if int(said) != count:
        yield f"README.md: {said} methods, but there are {count}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "quickstart"))
