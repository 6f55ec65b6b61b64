"""Calls are timed in turns, in processes of their own; one that fails does not take the others along."""

import sys

import pytest

from tests.conftest import ROOT

CHILD = """
import sys
sys.path.insert(0, {path!r})
import worker
answers = worker.quiet()
print("noise")
worker.serve({{"a": lambda: 1.5, "b": lambda: 1 / 0}}, {{"fact": 1}}, answers)
"""


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import worker

    return worker


def test_a_worker_answers_with_seconds(worker):
    child = worker.Worker([sys.executable, "-c", CHILD.format(path=str(ROOT / "benchmarks"))])
    failed = {}
    spent = worker.rounds({n: lambda n=n: child(n) for n in child.calls}, 3, failed=failed)
    child.close()
    assert child.facts == {"fact": 1} and spent == {"a": [1.5] * 3}
    assert failed == {"b": "ZeroDivisionError: division by zero"}


@pytest.mark.parametrize("before", ["", "import atexit; atexit.register(lambda: 1 / 0); "])
def test_a_worker_that_ends_says_why(worker, before):
    with pytest.raises(worker.NotAvailable, match="no such thing"):
        worker.Worker([sys.executable, "-c", before + "raise SystemExit('no such thing')"])


def test_rounds_take_turns(worker):
    order = []
    worker.rounds({name: lambda name=name: order.append(name) for name in "ab"}, 2, warm=1)
    assert "".join(order) == "ababab"
    assert worker.ratio({"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]}, "a", "b") == 2.0
    assert worker.ratio({"a": [1.0]}, "a", "b") is None
