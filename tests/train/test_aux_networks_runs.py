"""Networks beside the student (DML's peer, the average), several teachers and DOT in whole runs."""

import jax
import numpy as np
import pytest

from configs import dml, dot, ema_teacher, kd, multi_teacher, sokd_fitnet
from kd_jax import InputError, models, recipes
from kd_jax.interop import exchange
from kd_jax.models.network import normalize
from kd_jax.storage.networks import network_digest
from kd_jax.train import inputs, run
from kd_jax.train.dry_run import dry_run
from kd_jax.train.evaluate import evaluate, saved
from tests.conftest import shrunk
from tests.train.resuming import assert_resumes, plain, rows
from tests.train.test_phases_runs import begun, checked, same

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

FIGURES = ("loss", "top1", "top5")
LONG = {"student__steps": 5, "checkpoint__every": 2, "log__every": 2}


def tree(module, arg="resnet8,resnet8", **changes):
    return plain(shrunk(module.get_config(f"{arg},smoke"), **changes))


def peers(**changes):
    """A student with a peer and an average; then one that learns from the peer and starts from the average."""
    config_dict = dml.get_config("resnet8,resnet8,smoke")
    config_dict.student.ema = 0.5
    terms = {"ce": recipes.member("ce"), "kd": recipes.member("kd")}
    config_dict.second = recipes.phase("resnet8", terms=terms, teacher="phase:student/dml")
    config_dict.second.init.student, config_dict.second.steps, config_dict.second.batch_size = "phase:student/ema", 1, 8
    config_dict.phases = ("student", "second")
    return plain(shrunk(config_dict, **{**LONG, **changes}))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    return folder, *begun(peers(), folder)


def test_every_network_is_measured_and_reported(home):
    folder, summary, _ = home
    test_rows = [row for row in rows(folder) if row["phase"] == "student" and row["split"] == "test"]
    names = {f"{label}/{figure}" for label in ("dml", "ema") for figure in FIGURES}
    assert test_rows and all(set(row["networks"]) == names for row in test_rows)
    assert not any("networks" in row for row in rows(folder) if row not in test_rows)
    networks, last = summary["phases"]["student"]["networks"], test_rows[-1]["networks"]
    assert set(networks) == {"dml", "ema"} and summary["phases"]["second"]["networks"] == {}
    for label, entry in networks.items():
        assert (entry["model"], entry["params"]) == ("resnet8", summary["phases"]["student"]["params"])
        assert (entry["top1_last"], entry["top5_last"]) == (last[f"{label}/top1"], last[f"{label}/top5"])
        assert entry["top1_best"] == max(row["networks"][f"{label}/top1"] for row in test_rows)
        line = f"| student/{label} | resnet8 | {entry['top1_last']:.2%} | {entry['top1_best']:.2%} | - |"
        assert line in (folder / "report.md").read_text()


@pytest.mark.parametrize("label", ["dml", "ema"])
def test_every_network_is_evaluated_and_exported(home, tmp_path, label):
    folder, _, _ = home
    last = [row for row in rows(folder) if row["phase"] == "student"][-1]
    measured = evaluate(str(folder), phase="student", network=label)
    assert (measured["model"], measured["step"]) == ("resnet8", 5)
    assert {key: measured[key] for key in FIGURES} == {key: last["networks"][f"{label}/{key}"] for key in FIGURES}
    assert measured["loss"] != last["loss"]
    network, variables, _ = saved(str(folder), phase="student", network=label)
    file = str(tmp_path / "net.safetensors")
    assert "bit for bit" in exchange.export(network, variables, format="safetensors", out=file)
    again = models.load_torch(file, network.model, network.image_shape)
    same(again, jax.tree.map(np.asarray, variables))
    assert "agree to" in exchange.export(network, variables, format="stablehlo", out=str(tmp_path / "net.bin"))
    compiled = jax.export.deserialize(bytearray((tmp_path / "net.bin").read_bytes()))
    image = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    ours = jax.jit(models.apply, static_argnums=0)(network.model, again, normalize(image, network.mean, network.std))[
        0
    ].logits
    np.testing.assert_allclose(compiled.call(image), ours, rtol=1e-4, atol=1e-4)


def test_a_later_phase_takes_them_up(home):
    folder, summary, first = home
    peer, average, student = (saved(str(folder), phase="student", network=n)[1] for n in ("dml", "ema", ""))
    same(first["second"].student, average)
    teacher = summary["phases"]["second"]["teacher"]
    assert (teacher["origin"], teacher["digest"]) == ("phase:student/dml", network_digest(peer))
    assert teacher["top1"] == summary["phases"]["student"]["networks"]["dml"]["top1_last"]
    assert len({network_digest(each) for each in (peer, average, student)}) == 3


def test_peer_and_average_resume_bit_for_bit(home, tmp_path):
    state = assert_resumes(peers(), home[0], tmp_path, [(3, False), (2, True)], ["student", "second"])["student"]
    parts = ("['method']['params']['dml']['peer']", "['method']['stats']['dml']['peer']", "['ema']['params']")
    assert all(any(part in key for key in state) for part in (*parts, "['ema']['stats']"))
    assert any("trace" in key and "['dml']['peer']" in key for key in state)


def test_an_average_with_decay_0_is_the_student_and_teaches_what_it_says(tmp_path, host_patch):
    steps, train = [], inputs.StepInputs.train

    def remember(self, step, states):
        taught, batch = train(self, step, states)
        network = self._plan.network
        image = normalize(batch["image"], network.mean, network.std)
        ours = jax.jit(models.apply, static_argnums=0)(network.model, states[0].student, image)[0].logits
        steps.append((step, np.asarray(taught[0].logits), np.asarray(ours), len(taught)))
        return taught, batch

    host_patch.setattr(inputs.StepInputs, "train", remember)
    summary = run.run(tree(ema_teacher, "resnet8", **LONG, student__ema=0.0), str(tmp_path))["phases"]["student"]
    assert [step for step, *_ in steps] == [0, 1, 2, 3, 4]
    for _, taught, ours, count in steps:
        assert count == 1
        np.testing.assert_allclose(taught, ours, rtol=1e-4, atol=1e-5)
    assert not np.allclose(steps[0][1], steps[-1][1], atol=1e-3)  # it moves
    assert summary["teacher"] == {"origin": "ema", "digest": "ema", "top1": None} and not summary["agreement_last"]
    student, average = (evaluate(str(tmp_path), network=name) for name in ("", "ema"))
    assert student == average
    same(*(saved(str(tmp_path), network=name)[1] for name in ("", "ema")))
    test_rows = [row for row in rows(tmp_path) if row["split"] == "test"]
    assert all(row["networks"][f"ema/{key}"] == row[key] for row in test_rows for key in FIGURES)


def student_of(config_tree, folder):
    run.run(config_tree, str(folder))
    return saved(str(folder), phase="student")[1]


@pytest.fixture(scope="module")
def plainly(tmp_path_factory):
    """The student of one teacher by KD under SGD."""
    return student_of(tree(kd, **LONG), tmp_path_factory.mktemp("kd"))


@pytest.mark.parametrize("alone", [False, True])
def test_several_teachers_of_which_there_is_one(plainly, tmp_path, alone):
    """The recipe of several with one is that of one, exactly; also where a term asks for that one by its number."""
    config_tree = tree(multi_teacher, **LONG)
    if alone:
        terms = config_tree["student"]["terms"]
        terms["kd"]["weight"], terms["kd_0"]["weight"] = 0.0, terms["kd"]["weight"]
    same(student_of(config_tree, tmp_path), plainly)


def test_two_teachers_and_a_term_for_each(tmp_path):
    config_tree = tree(multi_teacher, "resnet8+resnet14,resnet8")
    config_tree["student"]["terms"]["kd_1"]["weight"] = 0.5
    for label, teacher in (("kd_0", 0), ("kd_1", 1)):
        assert config_tree["student"]["terms"][label]["teacher"] == teacher
    summary = run.run(config_tree, str(tmp_path))["phases"]
    assert set(rows(tmp_path)[-2]["terms"]) == {"ce", "kd", "kd_1"}
    teacher_row = summary["student"]["teacher"]
    assert teacher_row["origin"] == "phase:teacher_0,phase:teacher_1" and teacher_row["digest"].count(",") == 1


def test_terms_that_read_no_teacher_may_name_one(tmp_path):
    """All KD off: teachers are still compared with, and nothing asks for what is not there."""
    config_tree = tree(multi_teacher)
    config_tree["student"]["terms"]["kd"]["weight"] = 0.0
    config_tree["student"]["terms"]["ce"]["teacher"] = 0
    assert run.run(config_tree, str(tmp_path))["phases"]["student"]["agreement_last"] is not None


@pytest.mark.full  # the optimiser by itself: plan/test_optimizers.py
def test_dot_without_delta_is_sgd(plainly, tmp_path):
    """The recipe dot with optim.delta=0: the same bits."""
    same(student_of(tree(dot, **LONG, student__optim__delta=0.0), tmp_path / "a"), plainly)
    other = student_of(tree(dot, **LONG), tmp_path / "b")
    assert not np.array_equal(other.params["fc"]["kernel"], plainly.params["fc"]["kernel"])


@pytest.mark.full  # of one that does not: test_sokd_runs.py
def test_maps_are_drawn_beside_a_teacher_that_moves(tmp_path):
    config = sokd_fitnet.get_config("resnet8,resnet8,smoke")
    config.student.refine.dam.weight = config.student.terms.fitnet.weight = 1.0
    taught_by = {"student__ema": 0.5, "student__teacher": "ema", "student__refine_order": ("dam",)}
    config_tree = plain(shrunk(config, phases=("student",), **taught_by))
    run.run(config_tree, str(tmp_path))
    assert (tmp_path / "student" / "maps.png").read_bytes().startswith(b"\x89PNG")


WRONG = [
    (kd, {"student__optim__delta": 0.05}, "config.student.optim.delta: must be 0 unless optim.name is dot or deepkd"),
    (dot, {"student__optim__delta": 0.1}, "config.student.optim.delta: must be at least 0 and below 0.1"),
    (dot, {"student__optim__delta": -0.01}, "config.student.optim.delta: must be at least 0"),
    (dot, {"student__optim__nesterov": True}, "config.student.optim.nesterov: must be False unless"),
    (dot, {"student__terms": {"kd": {"weight": 1.0}}},
     "config.student.optim.delta: 0.075, but accepted is 0, or terms of both kinds: the task's loss .ce., and others$"),
    (dot, {"student__terms": {"ce": {}}},
     "config.student.optim.delta: 0.075, but accepted is 0, or terms of both kinds: the task's loss .ce., and others$"),
    (kd, {"student__optim__name": "DOT"},
     "config.student.optim.name: unknown name 'DOT'; did you mean dot. known: sgd, adamw, dot"),
    (kd, {"student__teacher": "ema"}, "config.student.teacher: must be another one unless student.ema, its decay"),
    (kd, {"student__teacher": "ema:0.9"}, "config.student.teacher: must be phase:NAME, .* or ema"),
    (kd, {"student__ema": 1.0}, "config.student.ema: must be at least 0 and below 1, or None, got 1.0"),
    (kd, {"student__teacher": "phase:teacher/ema"}, "config.student.teacher: phase:teacher/ema: known: phase:teacher"),
    (kd, {"student__teacher": "phase:student/ema", "student__ema": 0.5},
     "config.student.teacher: must be phase:NAME of an"),
    (kd, {"init": "phase:teacher/ema"}, "config.student.init.student: .*unknown label 'ema' in teacher"),
    (kd, {"student__terms__kd__teacher": 1}, "config.student.terms.kd.teacher: 1, counted from 0; .* teachers is 1"),
    (kd, {"student__terms__kd__teacher": -1}, "config.student.terms.kd.teacher: must be the number of a teacher"),
    (sokd_fitnet, {"student__terms__fitnet__teacher": 0},
     "config.student.terms.fitnet.teacher: 0, but dam refines what terms without it read"),
    (kd, {"student__trains": "method"}, "config.student.trains: method, but no member has parameters of its own"),
    (dml, {"student__terms__dml__peer": "resnet9"}, "config.student.terms.dml: unknown model 'resnet9'"),
    (dml, {"student__terms__dml__peer": "graft:resnet8+resnet8"},
     "config.student.terms.dml: dml: peer must be a network"),
    (dml, {"student__terms__dml__temperature": 0.0}, "config.student.terms.dml: dml: temperature must be"),
    (dml, {"student__terms__dml__teacher": 0}, "config.student.terms.dml.teacher: 0, counted from 0; .* teachers is 0"),
    (dml, {"student__terms__ema": {"kind": "dml", "peer": "resnet8"}, "student__ema": 0.5},
     "config.student.terms: must be labelled otherwise where student.ema is given: so is the average, got 'ema'"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "changes", "message"), WRONG)
def test_what_is_wrong_is_named(tmp_path, module, changes, message):
    checked(tree(module, **changes), tmp_path, message)


def test_unknown_networks(home, tmp_path):
    folder, _, _ = home
    for key in ("teacher", "init__student"):
        message = f"config.second.{key.replace('__', '.')}: phase:student/kd: .*known: .*dml.*ema"
        checked(peers(**{f"second__{key}": "phase:student/kd"}), tmp_path, message)
    checked(
        peers(second__model="resnet14"),
        tmp_path,
        "phase:student/ema: is a resnet8, but config.second.model is resnet14",
    )
    for wrong in ("kd", "DML"):
        with pytest.raises(InputError, match=f"no network '{wrong}' beside its own; known: dml, ema"):
            evaluate(str(folder), phase="student", network=wrong)
    with pytest.raises(InputError, match="no network 'ema' beside its own; known: none"):
        saved(str(folder), network="ema")


DRY = {
    "peers": peers, "ema_teacher": lambda: tree(ema_teacher, "resnet8"), "dml": lambda: tree(dml),
    "multi_teacher": lambda: tree(multi_teacher, "resnet8+resnet14,resnet8"), "dot": lambda: tree(dot),
}  # fmt: skip


@pytest.mark.parametrize("name", ["peers", *(pytest.param(name, marks=pytest.mark.full) for name in [*DRY][1:])])
def test_a_dry_run(tmp_path, capsys, name):
    config_tree = DRY[name]()
    dry_run(config_tree, str(tmp_path / "run"))
    assert capsys.readouterr().out.count("2 steps taken: loss ") == len(config_tree["phases"])
    assert not (tmp_path / "run").exists()
