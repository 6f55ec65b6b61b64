"""DeiT's recipe: its values, two steps of it, a resume with everything that it draws, and what it refuses."""

import json
from functools import partial

import numpy as np
import pytest

from configs import deit, kd
from kd_jax import InputError, models, recipes
from kd_jax.models.vit import VisionTransformer
from kd_jax.train import phase, run
from tests.conftest import shrunk
from tests.train.resuming import last_state

TINY = partial(VisionTransformer, width=8, heads=2, blocks=(1, 1), patch=8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.MODELS, deit.PAIR[0], TINY)
    monkeypatch.setitem(models.MODELS, deit.PAIR[1], partial(TINY, distill_token=True))


def small(config_dict, **changes):
    return json.loads(json.dumps(shrunk(config_dict, data__synthetic__size=16, **changes)))


def test_values():
    """Those of DeiT's table, of the teacher too where it is a transformer."""
    config_dict = deit.get_config()
    assert (config_dict.data.mix.mixup, config_dict.data.mix.cutmix, config_dict.data.mix.switch) == (0.8, 1.0, 0.5)
    assert (config_dict.data.erase.probability, config_dict.data.erase.fill) == (0.25, "pixel")
    for phase_config in (config_dict.teacher, config_dict.student):
        optim, schedule = phase_config.optim, phase_config.schedule
        assert (optim.name, optim.lr, optim.weight_decay, optim.decay_all) == ("adamw", 1e-3, 0.05, False)
        assert (phase_config.epochs, phase_config.batch_size, phase_config.drop_path) == (300, 1024, 0.1)
        assert (schedule.name, schedule.warmup_epochs, phase_config.terms.ce.smoothing) == ("cosine", 5.0, 0.1)
    terms = config_dict.student.terms
    assert (terms.ce.weight, terms.deit.weight, terms.deit.distillation) == (0.5, 0.5, "hard")
    mixed = deit.get_config(f"imagenet_ResNet50,{deit.PAIR[1]}").teacher
    assert (mixed.optim.name, mixed.optim.decay_all, mixed.drop_path) == ("sgd", True, 0.0)


@pytest.mark.full
def test_two_steps(tmp_path, capfd):
    run.run(small(deit.get_config("smoke")), str(tmp_path))
    assert capfd.readouterr().err == ""
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name, terms in (("teacher", {"ce"}), ("student", {"ce", "deit"})):
        mine = [r for r in rows if r["phase"] == name]
        assert [(r["split"], r["step"]) for r in mine] == [("train", 1), ("train", 2), ("test", 2)]
        assert set(mine[0]["terms"]) == terms and np.isfinite(mine[1]["loss"])


@pytest.mark.full
def test_a_resume_has_the_bits_of_an_unbroken_run(tmp_path, monkeypatch):
    """With mixed and erased images, stochastic depth and decay of kernels alone."""
    changes = {"student__steps": 4, "teacher__steps": 1, "checkpoint__every": 2}
    config_tree = small(deit.get_config("smoke"), **changes)
    run.run(config_tree, str(tmp_path / "whole"))
    train = phase.Resident.train

    def killed(self, step, *args):
        if step == 3:
            raise KeyboardInterrupt
        return train(self, step, *args)

    monkeypatch.setattr(phase.Resident, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run.run(config_tree, str(tmp_path / "cut"))
    monkeypatch.setattr(phase.Resident, "train", train)
    run.run(config_tree, str(tmp_path / "cut"))
    one, two = (last_state(tmp_path / name, "student") for name in ("whole", "cut"))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_a_student_without_the_token_is_refused(tmp_path):
    config_dict = deit.get_config(f"{deit.PAIR[0]},{deit.PAIR[0]},smoke")
    message = (
        rf"config.student.terms.deit: needs a distillation token \(student.distill_logits\), which {deit.PAIR[0]} has "
        "not; accepted: another config.student.model"
    )
    with pytest.raises(InputError, match=message):
        run.prepare(small(config_dict), str(tmp_path))


def test_any_method_on_logits_teaches_the_token(tmp_path):
    """KD and a refiner in front of it are planned for a student with the token, and for a teacher with it."""
    config_dict = kd.get_config(f"{deit.PAIR[1]},{deit.PAIR[1]},smoke")
    config_dict.student.refine.lskd = recipes.member("lskd")
    config_dict.student.refine_order = ("lskd",)
    plans = run.prepare(small(config_dict), str(tmp_path)).plans
    assert plans[-1].traced.metrics["loss"].total.shape == ()
