"""The commands as a user types them: exit codes, one line an error, and every config for two steps."""

import importlib
import json
import shutil
import subprocess
import sys
from functools import partial

import pytest

from kd_jax import InputError
from kd_jax.distributed.preemption import Interrupted
from kd_jax.engine.metrics import NonFiniteError
from kd_jax.storage.checkpoints import StorageError
from kd_jax.tools import cli
from kd_jax.train import run
from tests.commands import launch
from tests.conftest import ROOT, shrunk

CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if "def get_config" in p.read_text())
SMALL = [f"--config.data.synthetic.{k}={v}" for k, v in {"size": 8, "classes": 5, "train": 16, "test": 9}.items()]


train = partial(launch, "train")


def test_every_config_is_tested():
    assert {"quickstart", "kd", "dkd", "skd", "skd_dkd", "compose"} <= set(CONFIGS)


def spelled(name):
    first = {"compose": "sftn+skd+dist,resnet8,", "ema_teacher": "", "unlabelled": ""}.get(name, "resnet8,")
    return f"{first}resnet8,smoke"


@pytest.mark.parametrize("name", CONFIGS)
def test_phases_share_nothing(name):
    """A flag for one phase changes that phase alone."""
    config_dict = importlib.import_module(f"configs.{name}").get_config(spelled(name))
    before = config_dict.to_json()
    parts = [getattr(config_dict[phase], group) for phase in config_dict.phases for group in ("terms", "refine")]
    members = [member for part in parts for member in part.values()]
    assert len({id(x) for x in (*parts, *members)}) == len(parts) + len(members)
    for member in members:
        member.kind = member.kind + "!"
    assert config_dict.to_json().count('!"') == len(members) and before.count('!"') == 0


@pytest.mark.full  # tests/test_documented.py trains by this command
def test_a_config_takes_two_steps(tmp_path):
    done = train("--config=configs/kd.py:wrn_16_1,resnet8,smoke", f"--workdir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    check_two_steps(tmp_path)


# made of what other configs bring; quickstart runs by itself, the rest is built by test_phases_share_nothing
TWICE = ("quickstart", "skd_dkd", "skd_sokd", "sokd_ablation", "sftn_vs_kd", "crd_kd", "compose")
# whole runs of these stand in tests/train: all kinds of phases, states and networks
ELSEWHERE = (
    "ab", "crd", "dml", "dot", "ema_teacher", "ft", "mlld", "multi_teacher", "sftn", "simkd", "sokd_fitnet",
    "unlabelled",
)  # fmt: skip
QUICK = ("ctkd", "kd", "reviewkd", "skd")


OF_TRANSFORMERS = ("deit",)  # whose student has to be one: tests/recipes/test_deit.py


@pytest.mark.usefixtures("tiny_resnet8", "programs")
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in TWICE + ELSEWHERE + QUICK + OF_TRANSFORMERS])
def test_every_other_config_is_planned(name, tmp_path):
    config_dict = importlib.import_module(f"configs.{name}").get_config(spelled(name))
    plans = run.prepare(json.loads(json.dumps(shrunk(config_dict))), str(tmp_path)).plans
    assert [plan.name for plan in plans] == [*config_dict.phases] and plans[-1].traced.metrics["loss"].total.shape == ()


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The phase that most configs begin with, run once: its configuration, and its folder."""
    config_dict, home = (
        importlib.import_module("configs.kd").get_config(spelled("kd")),
        tmp_path_factory.mktemp("taught"),
    )
    config_dict.phases = ("teacher",)
    run.run(json.loads(json.dumps(shrunk(config_dict))), str(home))
    check_two_steps(home, ["teacher"])
    return config_dict.teacher.to_json(), home / "teacher"


@pytest.mark.usefixtures("tiny_resnet8", "programs")
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.full) for n in CONFIGS if n not in OF_TRANSFORMERS],
)
def test_every_config_takes_two_steps(name, tmp_path, taught, capfd):
    config_dict = importlib.import_module(f"configs.{name}").get_config(spelled(name))
    if name == "sokd_ablation":
        config_dict.phases = ("teacher", "both")  # the rest in test-all
    for phase in config_dict.phases:
        if "dafa" in config_dict[phase].refine:
            config_dict[phase].refine.dafa.stages = (2,)  # a third of the compiling
    trained = "teacher" in config_dict.phases and config_dict.teacher.to_json() == taught[0]
    if trained:
        shutil.copytree(taught[1], tmp_path / "teacher")
    run.run(json.loads(json.dumps(shrunk(config_dict))), str(tmp_path))
    assert capfd.readouterr().err == ""
    check_two_steps(tmp_path, [p for p in config_dict.phases if not (trained and p == "teacher")])


def check_two_steps(tmp_path, phases=("teacher", "student")):
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for phase in phases:
        steps = [(r["split"], r["step"]) for r in rows if r["phase"] == phase]
        assert steps == [("train", 1), ("train", 2), ("test", 2)]


@pytest.mark.full
def test_the_whole_ablation(tmp_path):
    done = train("--config=configs/sokd_ablation.py:resnet8,resnet8,smoke", f"--workdir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.full
def test_the_default_pair_under_smoke(tmp_path):
    done = train("--config=configs/skd_dkd.py:smoke", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr[-3000:]
    phases = json.loads((tmp_path / "summary.json").read_text())["phases"]
    assert (phases["teacher"]["params"], phases["student"]["params"]) == (7_433_860, 1_233_540)


def test_overrides_reach_a_run_from_anywhere(tmp_path):
    literal = ["bound=None", "normalize=False", "rate=1"]
    changed = [f"--config.student.refine.skd.{x}" for x in literal] + [
        "--config.student.optim.lr=0.01",
        "--config.seed=3",
    ]
    config = ROOT / "configs" / "skd.py"
    done = train(f"--config={config}:resnet8,resnet8,smoke", "--workdir=here", *SMALL, *changed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    home = tmp_path / "here"
    assert (home / "summary.json").exists()
    written = json.loads((home / "config.json").read_text())
    assert written["student"]["refine"]["skd"]["bound"] is None and written["student"]["refine"]["skd"]["rate"] == 1.0
    assert written["student"]["optim"]["lr"] == 0.01 and written["seed"] == 3
    rows = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert "skd/at_bound" not in rows[-2]["logs"]


SKD = "--config=configs/skd.py:resnet8,resnet8,smoke"
WRONG = {
    "no config": ([], "--config: missing"),
    "no workdir": ([SKD], "--workdir: missing"),
    "no such file": (["--config=configs/none.py"], "--config: no file configs/none.py"),
    "config argument": (["--config=configs/skd.py:resnet20"], "config argument 'resnet20': give TEACHER,STUDENT"),
    "unknown model in the argument": (
        ["--config=configs/skd.py:resnet20,resnt8"],
        "unknown model 'resnt8'; did you mean resnet8",
    ),
    "unknown flag": ([SKD, "--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
    "stray word": ([SKD, "--workdir=x", "go"], "go: unexpected argument"),
    "unknown key": (
        [SKD, "--config.student.refine.skd.temprature=2"],
        "config.student.refine.skd.temprature: unknown key; did you mean temperature? known: anchor,",
    ),
    "unknown section": ([SKD, "--config.pupil.epochs=2"], "config.pupil: unknown key; known: checkpoint,"),
    "below a value": ([SKD, "--config.seed.x=2"], "config.seed.x: unknown key; known: none, it is a value"),
    "wrong type": ([SKD, "--config.student.optim.lr=fast"], "config.student.optim.lr=fast"),
    "none where there is none": (
        [SKD, "--config.student.optim.lr=None"],
        "config.student.optim.lr: must be float, got None",
    ),
    "unknown model": ([SKD, "--config.student.model=resnet9"], "config.student.model: unknown model 'resnet9'"),
    "unknown method": ([SKD, "--config.student.terms.kd.kind=kdd"], "config.student.terms.kd: unknown method 'kdd'"),
    "unknown data": ([SKD, "--config.data.name=minst"], "data.name: unknown data set 'minst'"),
    "temperature": (
        [SKD, "--config.student.refine.skd.temperature=0"],
        "skd: temperature must be a finite number above 0, got 0.0",
    ),
    "kd temperature": (
        [SKD, "--config.student.terms.kd.temperature=-1"],
        "kd: temperature must be a finite number above 0",
    ),
    "missing data": (
        [SKD, "--config.data.name=fashion_mnist", "--config.data.dir=/nowhere"],
        "no train-images-idx3-ubyte.gz in /nowhere",
    ),
    "missing cifar": ([SKD, "--config.data.name=cifar100", "--config.data.dir=/nowhere"], "no CIFAR-100 in /nowhere"),
    "two classes": (
        ["--config=configs/dkd.py:resnet8,resnet8,smoke", "--config.data.synthetic.classes=2"],
        "dkd: needs at least 3 classes, the data has 2",
    ),
    "too many devices": ([SKD, "--config.parallel.mesh=(99,)"], "config.parallel.mesh: (99,) asks for 99 devices"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_exit_2(case, tmp_path):
    args, message = WRONG[case]
    workdir = [] if case in ("no workdir", "stray word") else [f"--workdir={tmp_path / 'run'}"]
    done = train(*args, *workdir)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and not done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["train", "sweep", "cache_teacher"])
def test_a_command_without_flags(name):
    done = launch(name)
    assert done.returncode == 2 and done.stderr.startswith("error: --") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("command", "flag"), [("evaluate", "expect_top1"), ("sweep", "minutes")])
def test_no_number_is_below_nan(command, flag):
    done = launch(command, "--workdir=x", f"--{flag}=nan")
    assert (done.returncode, done.stderr) == (2, f"error: --{flag}=nan: must be a number\n")


def test_the_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    done = train(SKD, f"--workdir={tmp_path / 'file'}", *SMALL)
    assert done.returncode == 2 and "is a file, not a folder" in done.stderr
    (tmp_path / "config.json").write_text('{"half')
    done = train(SKD, f"--workdir={tmp_path}", *SMALL)
    assert done.returncode == 2 and "config.json: not readable JSON" in done.stderr
    (tmp_path / "config.json").write_text('{"seed": 99}')
    done = train(SKD, f"--workdir={tmp_path}", *SMALL)
    assert done.returncode == 2 and "holds another run" in done.stderr


def test_a_loss_that_is_not_finite_is_exit_3(tmp_path):
    done = train(SKD, f"--workdir={tmp_path}", *SMALL, "--config.teacher.optim.lr=1e30", "--config.teacher.steps=6")
    assert done.returncode == 3, done.stderr
    assert "error: phase teacher, step " in done.stderr and done.stderr.count("\n") == 1


VERDICTS = [
    (InputError("config.seed: wrong"), (2, "config.seed: wrong")),
    (NonFiniteError("phase teacher, step 3"), (3, "phase teacher, step 3")),
    (StorageError("run/teacher: cannot save"), (1, "run/teacher: cannot save")),
    (OSError(28, "No space left on device", "x"), (1, "[Errno 28] No space left on device: 'x'")),
    (PermissionError(13, "Permission denied", "x"), (1, "[Errno 13] Permission denied: 'x'")),
    (FileNotFoundError(2, "No such file", "named.pth"), (1, "[Errno 2] No such file: 'named.pth'")),
    (FileNotFoundError(2, "No such file", "ours.json"), (1, None)),
    (FileNotFoundError("ours"), (1, None)),
    (OSError(5, "Input/output error"), (1, None)),
    (ConnectionError("ours"), (1, None)),
    (BrokenPipeError(32, "Broken pipe"), (1, None)),  # some other pipe than stdout
    (ValueError("ours"), (1, None)),
    (ZeroDivisionError("ours"), (1, None)),
    (FloatingPointError("ours"), (1, None)),
    (RuntimeError("ours"), (1, None)),
    (AssertionError("ours"), (1, None)),
]


@pytest.mark.parametrize(("error", "expected"), VERDICTS, ids=lambda x: type(x).__name__)
def test_only_errors_that_say_so_become_one_line(error, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["import_weights.py", "--source=named.pth"])
    assert cli.verdict(error) == expected


def test_a_stop_by_a_signal():
    assert cli.verdict(Interrupted(15, "stopped")) == (143, str(Interrupted(15, "stopped")))


def test_help():
    done = train("--help")
    assert done.returncode == 0 and "--workdir" in done.stdout and "python launch/train.py" in done.stdout


def test_a_reader_that_ends_first():
    code = "from kd_jax.tools import cli; cli.main(lambda: [print('line', flush=True) for _ in range(99999)])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, cwd=ROOT) as running:
        assert running.stdout.readline() == "line\n"
        running.stdout.close()
        said = running.stderr.read()
    assert running.returncode == 1 and said.startswith("error: stdout: closed by its reader") and said.count("\n") == 1
