"""Several seeds in one run: each is what its own run would be, in its numbers, its rows and its results."""

import json
import re
import statistics

import jax
import numpy as np
import pytest

from configs import ab, compose, sokd_fitnet
from kd_jax import InputError, recipes
from kd_jax.engine import seeds
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.interop import exchange
from kd_jax.models import load_torch
from kd_jax.train import phase, run
from kd_jax.train.dry_run import dry_run
from kd_jax.train.evaluate import evaluate, saved
from tests.conftest import shrunk
from tests.plan.test_trace import calls, counting  # noqa: F401
from tests.train.resuming import assert_resumes, last_state, plain, rows
from tests.train.test_banks_runs import SMALL

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

TWO = {"seed": 5, "seeds": 2}
FIGURES = ("loss", "top1", "top5")


def tree(**changes):
    """CRD's banks, MLLD's strong views, a peer, and the student's average as a second teacher."""
    extra = {"student__ema": 0.9, "student__teacher": "phase:teacher,ema", "student__terms__dml__peer": "resnet8"}
    lengths = {"student__steps": 5, "checkpoint__every": 2, "log__every": 2}
    config_tree = compose.get_config("crd+mlld+kd+dml,resnet8,resnet8,smoke")
    return plain(shrunk(config_tree, **{**SMALL, **extra, **lengths, **changes}))


def search(**changes):
    config_tree = sokd_fitnet.get_config("resnet8,resnet8,smoke")
    config_tree.student.refine.dafa.search_epochs, config_tree.student.refine.dafa.stages = 1, (2,)
    # by its weights of 1000 it runs away within three steps (test loss 33), and rounding grows with it
    config_tree.student.refine.dam.weight = config_tree.student.terms.fitnet.weight = 1.0
    return plain(shrunk(config_tree, **{"student__steps": 3, **changes}))


def alone(config_tree, seed, home):
    """The separate run of one seed: on the same data, in the same order, with the same teacher."""
    config_tree = json.loads(json.dumps(config_tree))
    config_tree["student"]["teacher"] = config_tree["student"]["teacher"].replace(
        "phase:teacher", f"checkpoint:{home / 'teacher'}"
    )
    data = {**config_tree["data"], "seed": config_tree["seed"]}
    return {**config_tree, "phases": ["student"], "data": data, "seed": seed, "seeds": 1}


def state_of(folder, seed=None):
    """Every saved leaf of the student's last step: of one of its seeds, or of the only one."""
    leaves = last_state(folder, "student")
    if seed is None:
        return leaves
    of_seed = {k.replace(f"['{seed}']", "", 1): v for k, v in leaves.items() if f"['{seed}']" in k}
    assert 2 * len(of_seed) == len(leaves)
    return of_seed


def student_rows(folder, seed=None):
    chosen = [row for row in rows(folder) if row["phase"] == "student" and row.get("seed") == seed]
    return [{key: value for key, value in row.items() if key != "seed"} for row in chosen]


def assert_close(one, two, rtol=1e-3):
    """Equal to float tolerance: every leaf against its largest value. The gradient of a bias in front of a BatchNorm is
    rounding alone: those are left out."""
    assert one.keys() == two.keys()
    for key in one:
        if not re.search(r"\['conv\d'\]\['bias'\]", key):
            atol = rtol * np.abs(two[key]).max(initial=1e-2, where=np.isfinite(two[key]))
            np.testing.assert_allclose(one[key], two[key], rtol=0, atol=atol, err_msg=key)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    return folder, run.run(tree(**TWO), str(folder))


@pytest.mark.parametrize("seed", [5, 6])
def test_each_seed_has_the_bits_of_its_own_run(home, tmp_path, seed):
    folder, summary = home
    single = run.run(alone(tree(**TWO), seed, folder), str(tmp_path))["phases"]["student"]
    together, separate = state_of(folder, seed), state_of(tmp_path)
    assert together.keys() == separate.keys()
    for key in together:
        np.testing.assert_array_equal(together[key], separate[key], err_msg=key)
    assert student_rows(folder, seed) == student_rows(tmp_path)
    (entry,) = (one for one in summary["phases"]["student"]["seeds"] if one["seed"] == seed)
    assert {key: single[key] for key in entry if key != "seed"} == {k: v for k, v in entry.items() if k != "seed"}


@pytest.mark.full
def test_vmapped_as_on_a_gpu_they_are_the_same(home, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "vmaps", lambda: True)
    config_tree = alone(tree(**TWO), 5, home[0])
    run.run({**config_tree, "seeds": 2}, str(tmp_path))
    for seed in (5, 6):
        assert_close(state_of(tmp_path, seed), state_of(home[0], seed))
    one, two = state_of(tmp_path, 5), state_of(tmp_path, 6)
    assert any(np.abs(one[key] - two[key]).max() > 0.01 for key in one if "conv1" in key)


def test_they_resume_bit_for_bit(home, tmp_path):
    """Stopped between two saves, and killed after that."""
    assert_resumes(tree(**TWO), home[0], tmp_path, [(5, False), (2, True)], ["teacher", "student"])


def test_rows_and_results(home):
    folder, summary = home
    keys = [(r["phase"], r["split"], r["step"], r.get("seed")) for r in rows(folder)]
    assert len(set(keys)) == len(keys)
    assert [key[2:] for key in keys if key[:2] == ("student", "train")] == [(s, n) for s in (2, 4, 5) for n in (5, 6)]
    assert all(key[3] is None for key in keys if key[0] == "teacher")
    teacher, student = (summary["phases"][name] for name in ("teacher", "student"))
    assert "seeds" not in teacher and "top1_std" not in teacher
    entries = student["seeds"]
    assert [entry["seed"] for entry in entries] == [5, 6]
    for entry in entries:
        tests = [row for row in student_rows(folder, entry["seed"]) if row["split"] == "test"]
        assert entry["top1_last"] == tests[-1]["top1"] and entry["agreement_last"] == tests[-1]["agreement"]
        assert entry["top1_best"] == max(row["top1"] for row in tests)
    last = [entry["top1_last"] for entry in entries]
    assert student["top1_last"] == statistics.fmean(last) and student["top1_std"] == statistics.stdev(last)
    peer = student["networks"]["dml"]
    assert peer["top1_last"] == statistics.fmean(entry["top1_last"] for entry in peer["seeds"])
    report = (folder / "report.md").read_text()
    assert f"| student | resnet8 | {student['top1_last']:.2%} ± {student['top1_std']:.2%} |" in report
    assert "Seeds 5 to 6, mean ± deviation" in report


@pytest.mark.parametrize("network", ["", "dml"])
def test_every_seed_is_evaluated_and_exported(home, tmp_path, network, capsys):
    folder, _ = home
    for seed in (5, 6):
        measured = evaluate(str(folder), network=network, seed=seed)
        last = student_rows(folder, seed)[-1]
        last = last if not network else {key: last["networks"][f"{network}/{key}"] for key in FIGURES}
        assert {key: measured[key] for key in FIGURES} == {key: last[key] for key in FIGURES}
        described, variables, _ = saved(str(folder), network=network, seed=seed)
        file = str(tmp_path / f"{seed}.safetensors")
        exchange.export(described, variables, format="safetensors", out=file)
        again = load_torch(file, described.model, described.image_shape)
        assert all(map(np.array_equal, jax.tree.leaves(variables), jax.tree.leaves(again)))
    assert "--seed" not in capsys.readouterr().out
    first, second = (saved(str(folder), network=network, seed=seed)[1] for seed in (5, 6))
    assert not np.array_equal(first.params["conv1"]["kernel"], second.params["conv1"]["kernel"])
    default = saved(str(folder), network=network)[1]
    np.testing.assert_array_equal(default.params["conv1"]["kernel"], first.params["conv1"]["kernel"])
    assert "seed 5 of 5, 6; --seed chooses" in capsys.readouterr().out
    assert evaluate(str(folder), network=network, seed=6, best=True)["step"] == 5
    saved(str(folder), phase="teacher", seed=5)  # the run's own


def test_a_seed_that_is_not_there(home):
    folder, _ = home
    with pytest.raises(InputError, match=r"^--seed=7: not in .*; accepted: 5, 6$"):
        saved(str(folder), seed=7)
    with pytest.raises(InputError, match="accepted: none, it holds one network, of seed 5$"):
        saved(str(folder), phase="teacher", seed=6)


@pytest.mark.full
@pytest.mark.usefixtures("simple_operations")
@pytest.mark.parametrize("vmapped", [False, True])
def test_a_search_of_every_seed(tmp_path, monkeypatch, vmapped):
    monkeypatch.setattr(seeds, "vmaps", lambda: vmapped)
    run.run(search(**TWO), str(tmp_path / "two"))
    run.run(alone(search(**TWO), 6, tmp_path / "two"), str(tmp_path / "one"))
    together, separate = state_of(tmp_path / "two", 6), state_of(tmp_path / "one")
    assert any("['policy']" in key for key in together)
    assert_close(together, separate, rtol=1e-3 if vmapped else 0)
    first = state_of(tmp_path / "two", 5)
    assert any(not np.array_equal(first[key], together[key]) for key in first if "['policy']" in key)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(set(compose.PARTS) - {"crd", "mlld", "dml", "sokd"}))
def test_every_other_method_vmapped(tmp_path, monkeypatch, name):
    """Two steps of two seeds: vmapped, and one by one, on teachers that are the same."""
    pair = "resnet8,resnet8" if name == "fsp" else "resnet8x4,resnet8"  # its maps are of one width
    config_tree, ends = plain(shrunk(compose.get_config(f"{name},{pair},smoke"), **TWO)), []
    for vmapped in (False, True):
        monkeypatch.setattr(seeds, "vmaps", lambda vmapped=vmapped: vmapped)
        run.run(config_tree, str(tmp_path / str(vmapped)))
        ends.append([state_of(tmp_path / str(vmapped), seed) for seed in (5, 6)])
    for one, two in zip(*ends, strict=True):
        assert_close(one, two)


def test_a_phase_starts_each_seed_from_its_own(tmp_path, capsys):
    """AB's own phase trains every seed; a third phase learns from the first of its teacher's seeds."""
    config_tree = ab.get_config("resnet8,resnet8,smoke")
    config_tree.second = recipes.phase("resnet8", terms={"kd": recipes.member("kd")}, teacher="phase:student")
    config_tree.second.init.student, config_tree.second.steps, config_tree.second.batch_size = "phase:student", 1, 8
    config_tree.student.optim.lr = config_tree.second.optim.lr = 1e-30
    config_tree.phases = (*config_tree.phases, "second")
    summary = run.run(plain(shrunk(config_tree, **TWO, student__optim__weight_decay=0.0)), str(tmp_path))
    before, student, second = (
        [saved(str(tmp_path), phase=name, seed=seed)[1].params["conv1"]["kernel"] for seed in (5, 6)]
        for name in ("pretrain", "student", "second")
    )
    for i in range(2):
        np.testing.assert_allclose(before[i], student[i], atol=1e-20)
        np.testing.assert_allclose(student[i], second[i], atol=1e-20)
    assert np.abs(before[0] - before[1]).max() > 0.01
    assert "second: teacher phase:student has several seeds; that of seed 5 teaches all" in capsys.readouterr().out
    first = summary["phases"]["student"]["seeds"][0]
    assert summary["phases"]["second"]["teacher"]["top1"] == first["top1_last"]


def test_a_loss_that_is_not_finite_names_the_seed(home, tmp_path, host_patch):
    start = phase.PhaseRun._start_seed

    def broken(self, compiled, teachers, seed, *rest):
        loop = start(self, compiled, teachers, seed, *rest)
        params = jax.tree.map(lambda x: x * (np.nan if seed == 6 else 1), loop.state.params)
        return loop._replace(state=loop.state._replace(params=params))

    host_patch.setattr(phase.PhaseRun, "_start_seed", broken)
    config_tree = {**alone(tree(**TWO), 5, home[0]), "seeds": 2}
    with pytest.raises(NonFiniteError, match="phase student, seed 6, step 1: the loss is not finite"):
        run.run(config_tree, str(tmp_path))


@pytest.mark.parametrize("vmapped", [False, True])
def test_the_step_is_traced_once(calls, tmp_path, monkeypatch, capsys, vmapped):  # noqa: F811
    monkeypatch.setattr(seeds, "vmaps", lambda: vmapped)
    config_tree = compose.get_config("kd,resnet8,resnet8,smoke")
    config_tree.student.terms.counting = recipes.member("counting")
    dry_run(plain(shrunk(config_tree, **TWO)), str(tmp_path / "run"))
    assert calls == [True]
    assert "seeds 5 to 6 together" in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "message"), [
    ({"seeds": 0}, r"config.seeds: must be 1 to 2147483643 \(seed is 5\), got 0"),
    ({"seeds": 2**31 - 5 + 1}, "config.seeds: must be 1 to 2147483643"),
    ({"phases": ("teacher",)}, "config.seeds: must be 1 where no phase that trains has a teacher"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run.run(tree(**{**TWO, **changes}), str(tmp_path / "run"))


def test_seeds_are_part_of_what_a_run_is(home):
    with pytest.raises(InputError, match="holds another run: config.seeds is 2 there and 3 here"):
        run.run(tree(**{**TWO, "seeds": 3}), str(home[0]))
