"""--config.KEY=VALUE: what it may say, in which order, and what it is refused for."""

import pytest
from ml_collections import config_dict

from kd_jax import InputError, config


def example():
    return config_dict.ConfigDict({
        "lr": 0.1, "ema": config_dict.placeholder(float), "epochs": 3, "nesterov": False, "dir": "", "seed": None,
        "stages": (), "milestones": (1, 2), "names": ("a", "b"), "several": [1],
        "within": {"rate": 0.5, "bound": config_dict.FieldReference(0.2)},
    })  # fmt: skip


def changed(*arguments):
    """What a command line changes."""
    before, after = example(), example().lock()
    assert config.override(after, list(arguments)) == []
    old, new = flatten(before.to_dict()), flatten(after.to_dict())
    return {key: value for key, value in new.items() if (value, type(value)) != (old[key], type(old[key]))}


def flatten(tree):
    return {k: v for k, v in tree.items() if k != "within"} | {f"within.{k}": v for k, v in tree["within"].items()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.lr=0.01"], {"lr": 0.01}),
        (["-config.lr=1"], {"lr": 1.0}),
        (["--config.lr", "-2"], {"lr": -2.0}),
        (["--config.epochs", "-2"], {"epochs": -2}),
        (["--config.within.rate=1e-3"], {"within.rate": 0.001}),
        (["--config.ema=0.9"], {"ema": 0.9}),
        (["--config.ema=None"], {}),
        (["--config.ema=None", "--config.ema=0.9"], {"ema": 0.9}),
        (["--config.ema=0.9", "--config.ema=None"], {}),
        (["--config.ema=0.9", "--config.ema", "None"], {}),
        (["--config.within.bound", "None"], {"within.bound": None}),
        (["--config.within.bound=None", "--config.within.bound=0.4"], {"within.bound": 0.4}),
        (["--config.lr=None", "--config.lr=1"], {"lr": 1.0}),
        (["--config.lr=0.2", "--config.lr=0.3"], {"lr": 0.3}),
        (["--config.dir=/data/noise=None"], {"dir": "/data/noise=None"}),
        (["--config.dir", "/data/noise=None"], {"dir": "/data/noise=None"}),
        (["--config.dir=None"], {"dir": None}),
        (["--config.dir='None'"], {"dir": "'None'"}),
        (["--config.dir=a b\n=c"], {"dir": "a b\n=c"}),
        (["--config.dir="], {}),
        (["--config.nesterov"], {"nesterov": True}),
        (["--config.nesterov=True"], {"nesterov": True}),
        (["--config.nesterov=1", "--noconfig.nesterov"], {}),
        (["--config.nesterov=None", "--config.nesterov"], {"nesterov": True}),
        (["--config.seed=3"], {"seed": 3}),
        (["--config.seed=word"], {"seed": "word"}),
        (["--config.stages=(1, 2)"], {"stages": (1, 2)}),
        (["--config.stages=1,2"], {"stages": (1, 2)}),
        (["--config.stages=(1,)"], {"stages": (1,)}),
        (["--config.stages=(1)"], {"stages": (1,)}),
        (["--config.stages=1"], {"stages": (1,)}),
        (["--config.stages", "-1"], {"stages": (-1,)}),
        (["--config.stages=1:1,2:2"], {"stages": ("1:1", "2:2")}),
        (["--config.stages=('1:1', '2:2')"], {"stages": ("1:1", "2:2")}),
        (["--config.milestones=()"], {"milestones": ()}),
        (["--config.milestones="], {"milestones": ()}),
        (["--config.milestones=[3, 4.5]"], {"milestones": (3, 4.5)}),
        (["--config.milestones[1]=7"], {"milestones": (1, 7)}),
        (["--config.names=teacher,student"], {"names": ("teacher", "student")}),
        (["--config.several=1,2"], {"several": [1, 2]}),
    ],
)  # fmt: skip
def test_values(arguments, expected):
    result = changed(*arguments)
    assert result == expected
    assert {key: type(value) for key, value in result.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.lr=fast"], "--config.lr=fast: must be float"),
        (["--config.lr='0.1'"], "--config.lr='0.1': must be float"),
        (["--config.epochs=2.5"], "--config.epochs=2.5: must be int"),
        (["--config.nesterov=maybe"], "--config.nesterov=maybe: must be true or false"),
        (["--config.stages=(1, 2"], r"--config.stages=\(1, 2: must be a tuple like \(1, 2\) or 1,2"),
        (["--config.within=3"], "--config.within=3: must be one of its keys"),
        (["--config.lr"], "--config.lr: needs a value"),
        (["--config.lr", "--config.epochs=3"], "--config.lr: needs a value"),
        (["--noconfig.lr"], "--noconfig.lr: only a key that is true or false"),
        (["--noconfig.nesterov=1"], "--noconfig.nesterov=1: only a key that is true or false"),
        (["--config.rate=3"], "config.rate: unknown key; known: "),
        (["--config.within.rat=3"], "config.within.rat: unknown key; did you mean rate[?] known: "),
        (["--config.lr.x=3"], "config.lr.x: unknown key; known: none, it is a value"),
        (["--config.milestones[2]=3"], r"--config.milestones\[2\]: no such element; config.milestones is \(1, 2\)"),
        (["--config.lr[0]=3"], r"--config.lr\[0\]: no such element"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(InputError, match=message) as e:
        config.override(example(), arguments)
    assert "\n" not in str(e.value)


def test_other_arguments_stay_in_order():
    arguments = ["--workdir=x", "--config.lr=1", "--overwrite", "--config.epochs", "4", "word", "--", "--config.lr=2"]
    after = example()
    assert config.override(after, arguments) == ["--workdir=x", "--overwrite", "word", "--", "--config.lr=2"]
    assert (after.lr, after.epochs) == (1.0, 4)


def test_a_locked_configuration_stays_locked():
    after = example().lock()
    config.override(after, ["--config.lr=1"])
    assert after.is_locked
