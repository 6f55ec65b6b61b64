"""Preparing phases (AB, FSP, FT) and grafts (SimKD) in whole runs: what passes from one to the next, and resuming."""

import jax
import numpy as np
import pytest
from etils import epath

from configs import ab, fsp, ft, kd, simkd
from kd_jax import InputError
from kd_jax.interop import exchange
from kd_jax.models.graft import HEAD, head_of
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import read_method
from kd_jax.train import phase, run
from kd_jax.train.dry_run import dry_run
from kd_jax.train.evaluate import evaluate, saved
from tests.conftest import shrunk
from tests.train.resuming import assert_resumes, plain, rows

pytestmark = pytest.mark.usefixtures("tiny_resnet8")

FULL = pytest.mark.full
CONFIGS = {"ab": ab, "fsp": fsp, "ft": ft, "simkd": simkd}
PAIRS = {"ab": "resnet8x4,resnet8", "fsp": "resnet8,resnet8", "ft": "resnet8x4,resnet8", "simkd": "resnet8x4,resnet8"}
BEFORE = {"ab": "pretrain", "fsp": "pretrain", "ft": "paraphrase", "simkd": None}
LONG = {"student__steps": 5, "checkpoint__every": 2, "checkpoint__keep": 9, "log__every": 2}


def tree(name, pair="", **changes):
    config_dict = CONFIGS[name].get_config(f"{pair or PAIRS[name]},smoke")
    return plain(shrunk(config_dict, **changes))


def longer(name, **changes):
    before = {f"{BEFORE[name]}__steps": 5} if BEFORE[name] else {}
    return tree(name, **LONG, **before, **changes)


def begun(config_tree, folder):
    """A run, and the state that each of its phases begins with."""
    states, start = {}, phase.PhaseRun._start

    def remember(self, *args):
        loops = start(self, *args)
        states[self.name] = jax.tree.map(np.array, loops[0].state)
        return loops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phase.PhaseRun, "_start", remember)
        return run.run(config_tree, str(folder)), states


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """name -> folder, summary and first states of its run, made when it is first asked for."""
    runs = {}

    def home(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            runs[name] = (folder, *begun(longer(name), folder))
        return runs[name]

    return home


def method_of(folder, name):
    return read_method(Checkpoints(epath.Path(folder / name), read_only=True))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def moved(a, b):
    return [not np.array_equal(*pair) for pair in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]


@pytest.mark.parametrize("name", ["ab", pytest.param("fsp", marks=FULL)])
def test_the_student_starts_from_what_was_prepared(homes, name):
    """Parameters and statistics; the classifier is the one that the preparing phase began with, also not decayed."""
    folder, summary, first = homes(name)
    prepared = saved(str(folder), phase="pretrain")[1]
    same(first["student"].student, prepared)
    fresh = first["pretrain"].student
    same(prepared.params["fc"], fresh.params["fc"])
    body = [{k: v for k, v in network.params.items() if k != "fc"} for network in (prepared, fresh)]
    assert all(moved(*body)) and all(moved(prepared.stats, fresh.stats))
    done = saved(str(folder), phase="student")[1]
    assert all(moved(done.params, prepared.params))


def test_ab_has_connectors_where_shapes_differ(homes):
    assert set(method_of(homes("ab")[0], "pretrain").params["ab"]) == {"stage1", "stage2", "stage3"}
    assert homes("ab")[1]["phases"]["pretrain"]["method_params"] > 0


def test_a_paraphraser_leaves_its_network_alone(homes):
    """Bit for bit, and what it says on the test set is what the teacher says."""
    folder, summary, first = homes("ft")
    teacher = saved(str(folder), phase="teacher")[1]
    same(saved(str(folder), phase="paraphrase")[1], teacher)
    same(first["paraphrase"].student, teacher)
    assert summary["phases"]["paraphrase"]["top1_last"] == summary["phases"]["teacher"]["top1_last"]
    assert all(moved(method_of(folder, "paraphrase").params, first["paraphrase"].params["method"]))
    assert all("student" not in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(first["paraphrase"].opt))


def test_ft_reads_the_encoder_that_was_trained_and_keeps_it(homes):
    folder, _, first = homes("ft")
    trained, student = method_of(folder, "paraphrase").params["paraphraser"], method_of(folder, "student")
    for stats in (first["student"].stats["method"], student.stats):
        same(stats["ft"]["encoder"]["params"], trained["encoder"])
    assert set(student.params["ft"]) == {"translator"} and all(moved(student.params, first["student"].params["method"]))


def test_a_paraphraser_of_another_run(homes, tmp_path):
    """init.method=checkpoint:DIR: the student that this gives is the other run's, bit for bit."""
    folder = homes("ft")[0]
    origins = {"teacher": f"checkpoint:{folder / 'teacher'}", "init__method": f"checkpoint:{folder / 'paraphrase'}"}
    config_tree = longer("ft", phases=("student",), **{f"student__{key}": origin for key, origin in origins.items()})
    run.run(config_tree, str(tmp_path / "run"))
    same(*(saved(str(home), phase="student")[1] for home in (folder, tmp_path / "run")))
    dry_run(config_tree, str(tmp_path / "dry"))


@pytest.mark.parametrize(("name", "calls"), [
    ("ft", [(6, True), (6, False)]),
    pytest.param("ab", [(5, False), (5, True)], marks=FULL),
    pytest.param("fsp", [(5, True), (5, False)], marks=FULL),
    pytest.param("simkd", [(5, False)], marks=FULL),
])  # fmt: skip
def test_it_resumes_bit_for_bit(homes, tmp_path, name, calls):
    """Stopped in the preparing phase and again in the student's, once by a signal and once killed."""
    names = [key for key in ("teacher", BEFORE[name], "student") if key]
    states = assert_resumes(longer(name), homes(name)[0], tmp_path, calls, names)
    parts = {
        "ab": ("pretrain", ["['method']['params']['ab']", "['method']['stats']['ab']", "trace"]),
        "fsp": ("pretrain", ["trace"]),
        "ft": ("student", ["['method']['stats']['ft']['encoder']", "['method']['stats']['ft']['translator']"]),
        "simkd": ("student", [f"['stats']['{HEAD}']['kernel']", "transfer.7"]),
    }
    where, wanted = parts[name]
    assert all(any(part in key for key in states[where]) for part in wanted)


def test_a_graft_has_its_teachers_classifier_from_start_to_end(homes):
    folder, _, first = homes("simkd")
    teacher, graft = (saved(str(folder), phase=key)[1] for key in ("teacher", "student"))
    same(first["student"].stats["student"][HEAD], head_of(teacher))
    same(graft.stats[HEAD], head_of(teacher))
    fresh = first["student"].student
    same(graft.params["student"]["fc"], fresh.params["student"]["fc"])  # nothing reads it: it does not decay either
    projector = [{k: v for k, v in network.params.items() if k != "student"} for network in (graft, fresh)]
    assert len(projector[0]) == 6 and all(moved(*projector))


def test_a_graft_is_measured_exported_and_teaches(homes, tmp_path):
    """As a teacher by its file or its checkpoint, and as what another graft starts from."""
    folder, summary, _ = homes("simkd")
    name, last = "graft:resnet8+resnet8x4", rows(folder)[-1]
    measured = evaluate(str(folder))
    assert measured["model"] == name and {key: measured[key] for key in ("loss", "top1", "top5")} == {
        key: last[key] for key in ("loss", "top1", "top5")
    }
    network, variables, _ = saved(str(folder))
    for form in ("safetensors", "torch", "stablehlo"):
        said = exchange.export(network, variables, format=form, out=str(tmp_path / f"graft.{form}"))
        assert "bit for bit the same" in said or "agree to" in said
    config_tree = plain(shrunk(kd.get_config("resnet8,resnet8,smoke"), phases=("student",)))
    teachers = []
    for origin in (f"weights:{tmp_path / 'graft.safetensors'}", f"checkpoint:{folder / 'student'}"):
        config_tree["student"]["teacher"] = origin
        teachers.append(run.run(config_tree, str(tmp_path / str(len(teachers))))["phases"]["student"]["teacher"])
    assert teachers[0]["digest"] == teachers[1]["digest"]
    assert teachers[0]["top1"] == teachers[1]["top1"] == summary["phases"]["student"]["top1_last"]
    config_tree = longer("simkd", phases=("student",), student__teacher=f"checkpoint:{folder / 'teacher'}")
    config_tree["student"]["init"]["student"] = f"weights:{tmp_path / 'graft.torch'}"
    same(begun(config_tree, tmp_path / "again")[1]["student"].student, variables)


def checked(config_tree, folder, message):
    """Refused in one line, before anything is written."""
    with pytest.raises(InputError, match=message) as e:
        run.run(config_tree, str(folder / "run"))
    assert "\n" not in str(e.value) and not (folder / "run").exists()


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("ft", {"student__init__method": ""},
     'config.student.terms.ft: ft: there is no trained paraphraser: give init.method="phase'),
    ("ft", {"student__init__method": "phase:teacher"}, "config.student.init.method: phase:teacher: holds nothing; no"),
    ("ft", {"student__init__method": "phase:nobody"}, r"config.student.init.method: must be phase:NAME of an earlier"),
    ("ft", {"student__init__method": "phase:student"}, r"config.student.init.method: must be phase:NAME of an earlier"),
    ("ft", {"student__init__method": "phase:paraphrase/x"},
     "config.student.init.method: phase:paraphrase/x: known: phase:"),
    ("ft", {"student__init__method": "paraphrase"},
     "config.student.init.method: must be empty, phase:NAME or checkpoint"),
    ("ft", {"student__init__method": "checkpoint:/nowhere"}, "config.student.init.method: no checkpoints in /nowhere"),
    ("ft", {"student__model": "resnet8x4", "paraphrase__model": "resnet8"},
     "config.paraphrase.init.student: .*resnet8x4"),
    ("ft", {"paraphrase__init__student": "", "paraphrase__model": "resnet8"},
     "config.student.terms.ft: ft: .*maps of width 16"),
    ("ft", {"paraphrase__terms": {"ce": {"weight": 1.0}}}, "config.paraphrase.trains: method, but no member has param"),
    ("ft", {"paraphrase__terms__paraphraser__rate": 0.001},
     "config.paraphrase.terms.paraphraser: paraphraser: rate 0.001 of the last"),
    ("ft", {"paraphrase__trains": "none"}, "config.paraphrase.trains: must be all or method, got 'none'"),
    ("ab", {"student__init__method": "phase:pretrain"},
     "config.student.init.method: phase:pretrain: holds ab; no member of this"),
    ("ab", {"student__init__student": "phase:teacher"},
     "config.student.init.student: phase:teacher: is a resnet8x4, but"),
    ("ab", {"pretrain__teacher": ""}, "config.pretrain.teacher: none, but the phase's refiners or terms need one"),
    ("ab", {"pretrain__model": "MobileNetV2"}, "config.pretrain.terms.ab: needs pre-activation features"),
    ("ab", {"pretrain__terms__ab__margin": -1.0}, "config.pretrain.terms.ab: ab: margin must be"),
    ("fsp", {"pretrain__model": "resnet8x4"},
     "config.pretrain.terms.fsp: fsp: stages of equal widths wanted, the student has 8"),
    ("simkd", {"student__model": "resnet8"},
     r"config.student.terms.simkd: simkd: the student is no graft on this teacher: .*graft:STUDENT\+TEACHER"),
    ("simkd", {"student__teacher": "", "student__terms": {"ce": {"weight": 1.0}}},
     "config.student.teacher: none, but graft:resnet8.resnet8x4 takes its classifier from there"),
    ("simkd", {"student__model": "graft:resnet8+resnet8"},
     "config.student.terms.simkd: simkd: the student is no graft on this teacher: "),
    ("simkd", {"student__model": "graft:resnet8"}, r"config.student.model: model 'graft:resnet8': a graft is spelled"),
    ("simkd", {"student__model": "graft:resnet8+nobody"}, "config.student.model: unknown model 'nobody'"),
    ("fsp", {"student__model": "graft:resnet8+resnet14", "student__init__student": ""},
     "config.student.model: graft:resnet8.resnet14 is grafted on a resnet14, but .*teacher is phase:teacher, a"),
    ("simkd", {"student__teacher": ""}, "config.student.teacher: none, but the phase's refiners or terms need one"),
    ("simkd", {"student__teacher": "ema", "student__ema": 0.9},
     "config.student.model: .* is grafted on a resnet8x4, but"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, name, changes, message):
    checked(tree(name, **changes), tmp_path, message)


def test_a_method_that_was_not_trained_there(homes, tmp_path):
    """A finished phase that holds other members; one that holds none."""
    folder = homes("ft")[0]
    for where, message in (("student", "ft: there is no trained paraphraser"), ("teacher", "config.student")):
        config_tree = longer("ft", student__init__method=f"checkpoint:{folder / where}")
        checked(config_tree, tmp_path, message)
    plainly = plain(shrunk(kd.get_config("resnet8,resnet8,smoke"), student__init__method="phase:teacher"))
    checked(plainly, tmp_path, "config.student.init.method: phase:teacher: ")


@pytest.mark.parametrize("name", ["ft", *(pytest.param(name, marks=FULL) for name in ("ab", "fsp", "simkd"))])
def test_a_dry_run(tmp_path, capsys, name):
    dry_run(tree(name), str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert said.count("2 steps taken: loss ") == (2 if BEFORE[name] is None else 3) and not (tmp_path / "run").exists()
