"""The step of a phase is traced once; what a method reads without asking is found before anything trains."""

import jax.numpy as jnp
import pytest

from kd_jax import InputError, methods, recipes
from kd_jax.methods.base import identity
from kd_jax.train import dry_run, run
from kd_jax.typing import Distiller
from tests.conftest import tree


def counting(calls):
    """A criterion that notes every time its loss is traced."""

    def apply(vars, view, key, train):
        calls.append(train)
        return view, {"": jnp.mean(view.student.logits**2, axis=-1)}, {}, {}

    return Distiller(identity().init, apply)


@pytest.fixture
def calls(monkeypatch):
    calls = []
    monkeypatch.setitem(methods.CRITERIA, "counting", lambda: counting(calls))
    return calls


def counted(**changes):
    return tree(phases=("student",), student__teacher="", student__refine_order=(), student__terms={
        "ce": recipes.member("ce"), "counting": recipes.member("counting"),
    }, **changes)  # fmt: skip


@pytest.mark.parametrize("run_it", [run.run, dry_run.dry_run], ids=["a run", "a dry run"])
def test_a_step_is_traced_once(calls, tmp_path, run_it):
    run_it(counted(student__steps=5, log__every=1, checkpoint__every=2), str(tmp_path))
    assert calls == [True]


def test_a_program_of_several_steps_does_not_trace_it_again(calls, tmp_path):
    run.run(counted(student__steps=5, log__every=5, checkpoint__every=5, steps_per_call="2"), str(tmp_path))
    assert calls == [True]


def test_a_resumed_run_traces_it_once_more(calls, tmp_path):
    run.run(counted(student__steps=2), str(tmp_path))
    run.run(counted(student__steps=2), str(tmp_path))
    assert calls == [True]  # nothing is planned for a finished run
    (tmp_path / "student" / "DONE").unlink()
    run.run(counted(student__steps=2), str(tmp_path))
    assert calls == [True, True]


def test_a_method_that_reads_what_it_did_not_ask_for_fails_at_plan_time(monkeypatch, tmp_path):
    def apply(vars, view, key, train):
        return view, {"": jnp.mean(view.teachers[0].pooled, axis=-1)}, {}, {}

    monkeypatch.setitem(methods.CRITERIA, "greedy", lambda: Distiller(identity().init, apply, frozenset({"match"})))
    with pytest.raises(Exception, match=".") as e:
        run.prepare(tree(student__terms__greedy=recipes.member("greedy")), str(tmp_path))
    assert "in the member config.student.terms.greedy" in getattr(e.value, "__notes__", [])
    assert not (tmp_path / "config.json").exists()


def test_an_unknown_need_is_refused_when_a_distiller_is_made():
    with pytest.raises(ValueError, match=r"unknown need 'teacher.poled'; did you mean teacher.pooled\? known: match, "):
        identity()._replace(needs=frozenset({"teacher.poled"}))
    with pytest.raises(ValueError, match="unknown need 'alone.x'"):
        Distiller(identity().init, identity().apply, frozenset({"alone.x"}))


def test_an_extra_view_that_nobody_makes(monkeypatch, tmp_path):
    weak = frozenset({"view.weak"})
    monkeypatch.setitem(methods.CRITERIA, "weak", lambda: identity()._replace(needs=weak))
    with pytest.raises(InputError, match="^config.student.terms.weak: no extra view 'weak'; known: strong$"):
        run.prepare(tree(student__terms__weak=recipes.member("weak")), str(tmp_path))
