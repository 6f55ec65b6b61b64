"""A config file: executed once, and what it raises is named with its line."""

import pytest

from kd_jax import InputError
from kd_jax.tools import config_file
from tests.commands import launch_fresh
from tests.conftest import ROOT
from tests.tools.test_cli import train

BROKEN = {
    "what it raises": ('"""A file."""\n\n\ndef get_config(arg=""):\n    return {}["lr"]\n', "line 5: KeyError: 'lr'"),
    "what its import raises": ("import math\nmath.sqrt(-1)\n", "line 2: ValueError: "),
    "of a library's error its own line": (
        "import json\n\ndef get_config():\n    text = '{'\n    return json.loads(text)\n",
        "line 5: JSONDecodeError: ",
    ),
    "a missing package": ("import no_such_package\n", "line 1: ModuleNotFoundError: No module named 'no_such_package'"),
    "wrong syntax": ("def get_config(:\n    pass\n", "line 1: SyntaxError: "),
    "an exit": ("import sys\n\nsys.exit(0)\n", "line 3: SystemExit: 0"),
    "an error of several lines": ("def get_config():\n    raise TypeError('one\\ntwo')\n", "line 2: TypeError: one"),
    "no get_config": ("x = 3\n", "has no function get_config"),
    "no ConfigDict": ("def get_config():\n    return 3\n", "returns a int, not a ConfigDict"),
    "no argument taken": ("def get_config():\n    return 3\n", "TypeError: get_config() takes 0 positional arguments"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_line(case, tmp_path):
    source, message = BROKEN[case]
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(InputError) as e:
        config_file.load(f"{path}:resnet8" if case == "no argument taken" else str(path))
    assert str(e.value).startswith("--config: ") and str(path) in str(e.value)
    assert message in str(e.value) and "\n" not in str(e.value)


def test_what_a_file_refuses_itself_stays_as_it_is():
    with pytest.raises(InputError, match="^config argument 'resnet20': give TEACHER,STUDENT"):
        config_file.load(f"{ROOT / 'configs' / 'skd.py'}:resnet20")
    with pytest.raises(InputError, match="^--config: no file nowhere.py; "):
        config_file.load("nowhere.py:smoke")


def test_a_file_is_executed_once_and_the_last_word_counts(tmp_path):
    count, path = tmp_path / "count", tmp_path / "mine.py"
    path.write_text(
        f"from configs import skd\n\ndef get_config(arg):\n    print(arg, file=open({str(count)!r}, 'a'))\n"
        "    return skd.get_config(arg)\n"
    )
    changes = ["student.ema=None", "student.ema=7", "data.dir=/data/noise=None", "log.tensorboard"]
    flags = [f"--config.{change}" for change in changes]
    done = train("--config", f"{path}:resnet8,resnet8,smoke", f"--workdir={tmp_path / 'run'}", *flags)
    assert count.read_text() == "resnet8,resnet8,smoke\n"
    refusal = "error: config.student.ema: must be at least 0 and below 1, or None, got 7.0\n"
    assert (done.returncode, done.stderr) == (2, refusal)


def test_debug_keeps_the_traceback_of_a_wrong_input(tmp_path):
    done = launch_fresh("train", "--config=nowhere.py", f"--workdir={tmp_path}", KD_JAX_DEBUG="1")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback") and "error: --config: no file nowhere.py" in done.stderr
