"""A dry run says what a run would do, and leaves nothing behind."""

import pytest

from kd_jax import InputError
from kd_jax.train.dry_run import dry_run
from tests.conftest import tree


def test_what_it_says(tmp_path, capsys):
    config_tree = tree(student__steps=None, student__epochs=200, student__schedule__warmup_epochs=2.0)
    dry_run(config_tree, str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert not (tmp_path / "run").exists() and not list(tmp_path.iterdir())
    teacher, student = said.split("\n\n")[0].split("teacher: resnet8")[0], said.split("\nstudent: ")[1]
    assert "40 training and 13 test images of (8, 8, 3)" in teacher
    assert student.startswith("resnet8, 77,717 parameters and 880 of its method\n")
    assert "teacher: phase:teacher, resnet8, 77,717 parameters" in student
    assert "images (8, 8, 8, 3); stages 8x8x16, 8x8x16, 4x4x32, 2x2x64; pooled 64; logits (8, 5)" in student
    assert "1,000 steps (5 an epoch); evaluated every 5, saved every 5" in student
    rates = "0.005 at step 0, 0.05 at step 10, 0.005 at step 750, 0.0005 at step 900"
    assert rates in student
    assert "MB of temporaries" in student and "disk for checkpoints: " in student
    first, second = (float(x) for x in student.split("2 steps taken: loss ")[1].split("\n")[0].split(", "))
    assert first != second and 0 < first < 100


def test_it_checks_like_a_run(tmp_path):
    with pytest.raises(InputError, match="config.student.model: unknown model"):
        dry_run(tree(student__model="resnet9"), str(tmp_path))
    (tmp_path / "config.json").write_text('{"seed": 99}')
    with pytest.raises(InputError, match="holds another run"):
        dry_run(tree(), str(tmp_path))


def test_cosine_and_a_teacher_of_another_run(tmp_path, capsys):
    from kd_jax.train import run

    run.run(tree(phases=("teacher",)), str(tmp_path / "a"))
    config_tree = tree(
        phases=("student",), student__teacher=f"checkpoint:{tmp_path / 'a' / 'teacher'}", student__steps=8
    )
    config_tree["student"]["schedule"]["name"] = "cosine"
    capsys.readouterr()
    dry_run(config_tree, str(tmp_path / "b"))
    said = capsys.readouterr().out
    assert "0.05 at step 0, 0.0427 at step 2, 0.025 at step 4, 0.00732 at step 6, 0.0019 at step 7" in said
    assert not (tmp_path / "b").exists()
