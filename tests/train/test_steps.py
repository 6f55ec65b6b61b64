"""Steps that one program takes, what the host does between those that are due, and donated memory."""

import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl

from configs import ema_teacher, kd, mlld
from kd_jax import InputError
from kd_jax.distributed import preemption
from kd_jax.engine import seeds
from kd_jax.train import machine, phase, run, steps
from kd_jax.train.batches import batches_of
from kd_jax.train.compiled import CompiledPhase
from tests.conftest import shrunk, tree
from tests.train.long_run import assert_same_run
from tests.train.resuming import last_state, rows

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

# 5 steps an epoch; rows are due after 4, 8, 11, saves after 7, 11: calls of 3 steps and single ones alternate
SEVERAL = {"teacher__steps": 4, "student__steps": 11, "log__every": 4, "checkpoint__every": 7, "seed": 5}


def taken(monkeypatch, of="student"):
    """A list that fills with the number of steps that each call of a phase takes."""
    numbers, take = [], steps.Steps.take

    def counted(self, loop, step):
        loop, after = take(self, loop, step)
        if self.plan.name == of:
            numbers.append(after - step)
        return loop, after

    monkeypatch.setattr(steps.Steps, "take", counted)
    return numbers


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    home = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        numbers = taken(patch)
        run.run(tree(**SEVERAL, steps_per_call="3"), str(home))
    assert numbers == [3, 1, 1, 1, 1, 1, 1, 1, 1]  # due: 4, 5, 7, 8, 10, 11
    return home


def assert_close(one, other):
    key = [(r["phase"], r["split"], r["step"]) for r in rows(one)]
    assert key == [(r["phase"], r["split"], r["step"]) for r in rows(other)]
    one, other = last_state(one, "student"), last_state(other, "student")
    assert one.keys() == other.keys()
    for name in one:
        # a small value is rounded as the large ones that it is a sum of, by how much differs from CPU to CPU
        atol = max(1e-6, 1e-4 * np.abs(other[name]).max())
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=atol, err_msg=name)


def test_several_steps_a_call_equal_single_ones(several, tmp_path):
    run.run(tree(**SEVERAL), str(tmp_path))
    assert_close(several, tmp_path)


def assert_equal_by_twos(config_dict, tmp_path, **changes):
    for count in ("1", "2"):
        run.run(
            shrunk(config_dict.copy_and_resolve_references(), **changes, steps_per_call=count), str(tmp_path / count)
        )
    assert_close(tmp_path / "1", tmp_path / "2")


@pytest.mark.full
def test_a_teacher_that_moves(tmp_path):
    assert_equal_by_twos(ema_teacher.get_config("resnet8,smoke"), tmp_path, student__steps=6, log__every=6)


@pytest.mark.parametrize("vmapped", [pytest.param(False, marks=pytest.mark.full), True])
def test_several_seeds(tmp_path, monkeypatch, vmapped):
    monkeypatch.setattr(seeds, "vmaps", lambda: vmapped)
    kd_config = kd.get_config("resnet8,resnet8,smoke")
    assert_equal_by_twos(kd_config, tmp_path, student__steps=4, log__every=4, seeds=2)


@pytest.mark.full
def test_a_strong_view(tmp_path):
    assert_equal_by_twos(mlld.get_config("resnet8,resnet8,smoke"), tmp_path, student__steps=4, log__every=4)


def test_a_step_that_a_search_prepares_is_taken_alone():
    calls, every = [], SimpleNamespace(every=2)
    split, distiller = SimpleNamespace(steps=5), SimpleNamespace(search=every)
    taker = object.__new__(steps.Steps)
    taker.plan, taker.count, taker.every = SimpleNamespace(steps=9, split=split, distiller=distiller), 2, (9, 9, 9)
    taker.inputs = SimpleNamespace(
        train=lambda step, states: ("outputs", "batch"), outer=lambda step, states: "outer", ahead=lambda step: None
    )
    taker.compiled = SimpleNamespace(
        search="search", train=1, step=lambda program, loops, *rest: calls.append(program) or loops
    )
    taker.several = lambda loops: calls.append(2) or loops
    taker.keys, taker._inputs, step = (), lambda step: (), 0
    while step < 9:
        _, step = taker.take((SimpleNamespace(state=None),), step)
    assert calls == ["search", 1, 1, "search", 1, 1, "search", 1, 2, 2]


def test_a_resume_has_the_bits_of_an_unbroken_run(several, host_patch, tmp_path, capsys):
    """Stopped at ends of calls, where signals are looked at."""
    left = [3, 3, 8]

    @contextmanager
    def stop():
        yield lambda step: 15 if left and step == left[0] and left.pop(0) else None

    host_patch.setattr(preemption, "stop_on_signal", stop)
    for _ in range(3):
        with pytest.raises(preemption.Interrupted):
            run.run(tree(**SEVERAL, steps_per_call="3"), str(tmp_path))
    assert not left
    run.run(tree(**SEVERAL, steps_per_call="3"), str(tmp_path))
    assert_same_run(several, tmp_path)
    assert "last bits" not in capsys.readouterr().out


def test_a_resume_under_another_count_says_so(several, tmp_path, capsys):
    shutil.copytree(several, tmp_path / "run")
    for name in ("DONE", "checkpoints/11"):
        path = tmp_path / "run" / "student" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.run(tree(**SEVERAL), str(tmp_path / "run"))
    message = (
        "student: steps_per_call was 3 and is 1: from here on the last bits may differ from those of an unbroken run"
    )
    assert message in capsys.readouterr().out
    assert_close(several, tmp_path / "run")


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_auto(backend, monkeypatch, tmp_path):
    """As many as lie between two steps that are due; one where a loop over convolutions is slow."""
    (_, plan) = (prepared := run.prepare(tree(**SEVERAL), str(tmp_path))).plans
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert steps.steps_per_call(prepared.recipe, plan) == {"cpu": 1, "gpu": 4}[backend]
    streamed = replace(prepared.recipe, data=replace(prepared.recipe.data, stream=True))
    assert steps.steps_per_call(streamed, plan) == 1
    assert steps.steps_per_call(replace(prepared.recipe, steps_per_call="99"), plan) == 4


@pytest.mark.parametrize(("count", "more"), [("0", {}), ("2.5", {}), ("many", {}), ("2", {"data__stream": True})])
def test_what_is_refused(count, more, tmp_path):
    with pytest.raises(InputError, match=f"^config.steps_per_call: must be auto.*, got '{count}'"):
        run.prepare(tree(**more, steps_per_call=count), str(tmp_path))


@pytest.mark.parametrize("count", ["1", "3"])
def test_nothing_is_read_back_between_steps_that_are_due(count, monkeypatch, tmp_path):
    """Nor is anything sent to the devices but by an explicit device_put: a batch's indices."""
    guarded, take, due, value = [False], steps.Steps.take, phase.PhaseRun._due, ArrayImpl._value

    def guard(on):
        guarded[0] = on
        for way in ("host_to_device", "device_to_host"):
            jax.config.update(f"jax_transfer_guard_{way}", "disallow" if on else "allow")

    def guarded_take(self, loops, step):
        guard(True)
        return take(self, loops, step)

    def guarded_due(self, step):
        guard(not any(due(self, step)))
        return due(self, step)

    def read(array):  # jax's guard does not see that a CPU's memory is read
        assert not guarded[0] or threading.current_thread() is not threading.main_thread(), "an array is read back"
        return value.fget(array)

    monkeypatch.setattr(steps.Steps, "take", guarded_take)
    monkeypatch.setattr(phase.PhaseRun, "_due", guarded_due)
    monkeypatch.setattr(ArrayImpl, "_value", property(read))
    try:
        run.run(tree(**SEVERAL, steps_per_call=count), str(tmp_path))
    finally:
        guard(False)


def test_memory_of_the_state_is_used_again(tmp_path):
    prepared = run.prepare(tree(**SEVERAL), str(tmp_path))
    plan, layout = prepared.plans[0], prepared.layout
    compiled = CompiledPhase(plan)
    loop = compiled.loop_state(compiled.init(layout.put(jax.random.key(0)), (), {}))
    source = batches_of(prepared.recipe, layout, prepared.dataset)
    recipe = replace(prepared.recipe, steps_per_call="2")
    several = steps.Steps(recipe, plan, compiled, source, (), (loop,), (layout.put(jax.random.key(1)),))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(loop.state))
    for program in (compiled.train, several.several):
        assert program.memory_analysis().alias_size_in_bytes >= size
    (after,), step = several.take((loop,), 0)
    assert step == 2 and all(leaf.is_deleted() for leaf in jax.tree.leaves(loop.state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_what_a_machine_says(monkeypatch):
    here = {"platform": "cpu", "cpu_kernels": "default", "steps_per_call": 1}
    assert machine.difference(here, here) is machine.difference({}, here) is None  # {}: of an older version
    there = {**here, "cpu_kernels": "REDUCE"}
    assert machine.difference(there, here) == "cpu_kernels was REDUCE and is default"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=REDUCE")
    assert machine.describe_device()["cpu_kernels"] == "REDUCE"
    assert machine.kernels_line() == (
        "CPU kernels: convolutions by Eigen, in place of YNNPACK "
        "(XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=REDUCE)"
    )
    monkeypatch.setenv("XLA_FLAGS", "")
    assert machine.kernels_line() is None and machine.describe_device()["cpu_kernels"] == "default"


def test_deterministic_is_refused_where_it_comes_too_late(monkeypatch, tmp_path):
    run.prepare(tree(deterministic=True), str(tmp_path))  # a CPU is anyway
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    with pytest.raises(InputError, match="^config.deterministic: True, but XLA_FLAGS does not say --xla_gpu_determ"):
        run.prepare(tree(deterministic=True), str(tmp_path))
