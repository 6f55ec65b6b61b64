"""What refiners make of logits after a run: against the distiller itself, applied to what the run has saved."""

import numpy as np
import pytest
from jax import nn
from jax import numpy as jnp

from configs import compose, kd, sokd_fitnet
from kd_jax import config, methods
from kd_jax.plan.distiller import match_refiners
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.storage.networks import read_method
from kd_jax.storage.workdir import resolve_path
from kd_jax.tools import report
from kd_jax.train import run
from kd_jax.train.predict import predict
from kd_jax.typing import Vars
from tests.conftest import make_view, shrunk, tree
from tests.train.resuming import plain

pytestmark = pytest.mark.usefixtures("tiny_resnet8", "shared_programs")


def refined(folder, said, label, refiner, **how):
    """The pair after a refiner with the variables that a run has saved; of the logits of the first batch."""
    reader = Checkpoints(resolve_path(str(folder)) / "student", read_only=True)
    vars = read_method(reader, **how)
    reader.close()
    view = make_view(said.logits[:8], said.teacher[:8], said.labels[:8], step=40)
    return refiner.apply(Vars(vars.params.get(label, {}), vars.stats.get(label, {}), {}), view, None, False)[0].match


@pytest.mark.parametrize("simplifier", ["classes", pytest.param("batch", marks=pytest.mark.full)])
def test_they_are_those_of_the_distiller(tmp_path, simplifier):
    how = {"student__refine__skd__simplifier": simplifier, "student__refine__skd__rate": 100.0}
    run.run(plain(tree(student__steps=4, student__optim__lr=1.0, **how)), str(tmp_path))
    said = predict(str(tmp_path), phase="student")
    drawn = said.targets
    assert drawn.image.shape == (8, 8, 8, 3) and drawn.image.min() >= 0 and drawn.image.max() <= 1
    np.testing.assert_array_equal(drawn.label, said.labels[:8])
    match = refined(tmp_path, said, "skd", methods.skd(simplifier=simplifier))
    assert abs(drawn.target - drawn.softened).max() > 1e-3  # the simplifier has learned something
    expected = {"teacher": said.teacher[:8], "softened": said.teacher[:8] / 4, "target": match.teacher / 4,
                "student": said.logits[:8]}  # fmt: skip
    for name, logits in expected.items():
        np.testing.assert_allclose(getattr(drawn, name), nn.softmax(jnp.asarray(logits)), atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(drawn.temperatures, np.tile([4, 1], (8, 1)))
    assert predict(str(tmp_path), phase="teacher").targets is None


def test_any_refiner_of_logits_counts(tmp_path):
    """A temperature for each example, of both sides; what a report says of it."""
    config_tree = plain(shrunk(compose.get_config("normkd+kd,resnet8,resnet8,smoke")))
    run.run(config_tree, str(tmp_path / "run"))
    said = predict(str(tmp_path / "run"), phase="student")
    match = refined(tmp_path / "run", said, "normkd", methods.normkd())
    np.testing.assert_allclose(said.targets.temperatures, np.tile(match.temperature, 2), rtol=1e-5)
    np.testing.assert_allclose(said.targets.target, nn.softmax(match.teacher / match.temperature), atol=2e-6)
    np.testing.assert_allclose(said.targets.student, nn.softmax(match.student / match.temperature), atol=2e-6)
    written = report.report([str(tmp_path / "run")], out=str(tmp_path / "out"), predictions=True)
    assert "report_targets_1.png" in {path.name for path in written}
    assert "one a class; first seed of the row" in (tmp_path / "out" / "report.html").read_text()


def test_which_refiners_count():
    def of(config_tree):
        return match_refiners(config.parse(plain(config_tree)).phases[-1], 5)

    assert of(kd.get_config("resnet8,resnet8,smoke").to_dict()) is None
    assert of(sokd_fitnet.get_config("resnet8,resnet8,smoke").to_dict()) is None  # these refine maps
    assert of(compose.get_config("sokd+ctkd+kd,resnet8,resnet8,smoke").to_dict()).refines == {"match.temperature"}


@pytest.mark.full  # that none counts: above
def test_a_run_without_refiners_has_none(tmp_path):
    run.run(plain(shrunk(kd.get_config("resnet8,resnet8,smoke"))), str(tmp_path / "run"))
    assert predict(str(tmp_path / "run"), phase="student").targets is None
    written = report.report([str(tmp_path / "run")], out=str(tmp_path / "out"), predictions=True)
    assert not [path for path in written if "targets" in path.name]


@pytest.mark.full
def test_of_one_of_several_seeds_and_a_teacher_that_moves(tmp_path):
    changes = {"seeds": 2, "student__ema": 0.5, "student__teacher": "phase:teacher,ema", "student__steps": 3}
    run.run(plain(tree(**changes)), str(tmp_path))
    one, two = (predict(str(tmp_path), phase="student", seed=seed).targets for seed in (0, 1))
    assert abs(one.student - two.student).max() > 1e-3 and abs(one.teacher - two.teacher).max() > 1e-4
