"""What tests share, so that a run of the same plan compiles nothing again, and what they must not."""

import gc
import weakref
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import methods
from kd_jax.distributed.mesh import Layout
from kd_jax.train import run
from tests import shared_programs
from tests.conftest import tree
from tests.tiny import TinyNet


def scaled(by):
    return lambda x: by * x


def program_of(function, mesh=(1,), **how):
    return Layout(mesh).jit(function, **{"ins": "r", "outs": "r", **how})


def test_equal_functions_share_a_program(programs):
    assert program_of(scaled(2.0)) is program_of(scaled(2.0))
    assert program_of(partial(jnp.add, np.ones(3))) is program_of(partial(jnp.add, np.ones(3)))
    nets = [methods.chain(kd=methods.kd(weight=w)).apply for w in (0.5, 0.5, 0.25)]
    assert program_of(nets[0]) is program_of(nets[1]) is not program_of(nets[2])


def test_a_process_holds_few(programs, monkeypatch):
    monkeypatch.setattr(shared_programs, "MOST", 2)
    first = weakref.ref(program_of(scaled(20.0)))
    for by in (21.0, 22.0, 23.0):
        program_of(scaled(by))
    gc.collect()
    assert first() is None and program_of(scaled(23.0)) is program_of(scaled(23.0))


@pytest.mark.parametrize(("one", "two"), [
    ({"function": scaled(2.0)}, {"function": scaled(3.0)}),
    ({"function": scaled(2.0)}, {"function": scaled(2)}),
    ({"function": scaled(True)}, {"function": scaled(1)}),
    ({"function": scaled(np.ones(2))}, {"function": scaled(np.ones(2, "f"))}),
    ({"function": partial(scaled, TinyNet())}, {"function": partial(scaled, TinyNet(widths=(4, 4)))}),
    ({"function": scaled(2.0)}, {"function": scaled(2.0), "donate": (0,)}),
    ({"function": scaled(2.0)}, {"function": scaled(2.0), "ins": "b"}),
])  # fmt: skip
def test_others_do_not(programs, one, two):
    assert program_of(**one) is not program_of(**two)


def test_a_plan_made_twice_has_the_same_programs(programs, tiny_resnet8, tmp_path):
    first, again = (run.prepare(tree(), str(tmp_path / name)).plans for name in "ab")
    other = run.prepare(tree(student__optim__lr=0.5), str(tmp_path / "c")).plans
    assert [a.traced.train.jaxpr is b.traced.train.jaxpr for a, b in zip(first, again, strict=True)] == [True, True]
    assert [a.traced.train.jaxpr is b.traced.train.jaxpr for a, b in zip(first, other, strict=True)] == [True, False]


def test_a_test_that_patches_shares_nothing(programs, shared_programs, monkeypatch):
    assert program_of(scaled(2.0)) is not program_of(scaled(2.0))
