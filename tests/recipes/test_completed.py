"""A run of an older version: what it could not have yet has its default, and is told apart as all else."""

import json

import pytest

from kd_jax import InputError, config, methods, recipes
from kd_jax.storage.workdir import Workdir, difference
from tests.conftest import tree


def compared(old, new):
    return difference(recipes.completed(old), recipes.completed(new))


def test_keys_that_an_older_run_lacks():
    new = tree()
    old = {k: v for k, v in json.loads(json.dumps(new)).items() if k not in ("precision", "eval")}
    for phase in ("teacher", "student"):
        old[phase] = {k: v for k, v in old[phase].items() if k not in ("accumulate", "remat")}
        old[phase]["optim"] = {k: v for k, v in old[phase]["optim"].items() if k != "clip"}
    del old["data"]["synthetic"]["channels"], old["data"]["strong"]["ops"]
    assert compared(old, new) is None and config.parse(old) == config.parse(new)
    assert compared(old, tree(precision="bfloat16")) == "precision is 'float32' there and 'bfloat16' here"
    assert compared(old, tree(student__optim__clip=1.0)) == "student.optim.clip is 0.0 there and 1.0 here"


def test_keywords_of_members_that_an_older_run_lacks():
    new = tree()
    old = json.loads(json.dumps(new))
    del old["student"]["refine"]["skd"]["simplifier"], old["student"]["terms"]["kd"]["temperature"]
    del old["student"]["terms"]["ce"]["teacher"], old["student"]["terms"]["ce"]["kind"]
    assert compared(old, new) is None
    default = recipes.signature("skd")["simplifier"].default
    other = tree(student__refine__skd__simplifier="batch")
    assert compared(old, other) == f"student.refine.skd.simplifier is {default!r} there and 'batch' here"


def test_strings_of_older_runs_are_tuples(monkeypatch):
    def staged(*, stages: tuple[int, ...] = (), pairs: tuple[str, ...] = (), temperatures: tuple[float, ...] = (3.0,)):
        return methods.ce()

    monkeypatch.setitem(methods.CRITERIA, "staged", staged)
    given = {"stages": (1, 2), "pairs": ("1:1", "2:2"), "temperatures": (2.0, 6.0)}
    new = tree(student__terms__staged=recipes.member("staged", **given))
    old = json.loads(json.dumps(new))
    old["student"]["terms"]["staged"] |= {"stages": "1,2", "pairs": "1:1,2:2", "temperatures": "2,6"}
    assert compared(old, new) is None
    old["student"]["terms"]["staged"] |= {"stages": "1"}
    assert compared(old, new) == "student.terms.staged.stages is [1] there and [1, 2] here"


def test_nothing_of_another_run_is_lost():
    """Completing is no check: what it does not understand is compared as it stands."""
    odd = {"seed": 99, "extra": {"model": 3, "refine": 2, "refine_order": [], "terms": {"x": 3, "y": {"kind": "gone"}}}}
    assert recipes.completed(odd)["extra"]["terms"] == odd["extra"]["terms"]
    assert compared(odd, tree()) is not None


def test_the_folder_of_an_older_run_is_taken_up(tmp_path):
    new = tree()
    old = json.loads(json.dumps(new))
    del old["precision"], old["student"]["accumulate"], old["student"]["refine"]["skd"]["simplifier"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    Workdir(str(tmp_path), new, recipes.completed).check(overwrite=False)
    with pytest.raises(InputError, match="holds another run: config.student.accumulate is 1 there and 2 here"):
        Workdir(str(tmp_path), tree(student__accumulate=2), recipes.completed).check(overwrite=False)
