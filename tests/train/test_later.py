"""What is known of the time of later phases: by finished ones with the same networks, and by the present one."""

import pytest

from configs import quickstart
from kd_jax.storage.progress import Later
from kd_jax.train import phase, run
from kd_jax.train.later import later_of
from tests.conftest import shrunk
from tests.train.resuming import plain

ENTRY = {"ms_per_step": 20.0}


def plans_of(tmp_path, **changes):
    config_tree = plain(shrunk(quickstart.get_config("resnet8x4,resnet8,smoke"), **changes))
    return run.prepare(config_tree, str(tmp_path)).plans


def test_by_phases_with_the_same_networks(tiny_resnet8, tmp_path):
    teacher, alone, kd, skd = plans_of(tmp_path, skd__steps=7, kd__steps=5)
    assert later_of(teacher, [alone, kd, skd], []) == Later(unknown=3)
    # SKD has KD's networks; without a teacher's pass a step is another one
    assert later_of(alone, [kd, skd], [(teacher, ENTRY)]) == Later(unknown=2)
    assert later_of(kd, [skd], [(teacher, ENTRY), (alone, ENTRY)]) == Later(steps=7)
    assert later_of(alone, [skd], [(teacher, ENTRY), (kd, ENTRY)]) == Later(seconds=0.14)
    assert later_of(alone, [skd], [(kd, {"ms_per_step": None})]) == Later(unknown=1)  # its weights were loaded
    _, _, kd, skd = plans_of(tmp_path, skd__batch_size=16)
    assert later_of(kd, [skd], []) == Later(unknown=1)


def test_a_run_says_what_is_left(tiny_resnet8, tmp_path, host_patch):
    """To the progress of a phase that trains; here the first one does, and the others end at once."""
    shown, given, result = [], {}, phase.PhaseRun.result

    class Recorded(phase.Progress):
        def __init__(self, name, start, steps, later):
            super().__init__(name, start, steps, later)
            shown.append(later)

    def result_of(self, later):
        given[self.name] = later
        if self.name == "skd":
            raise InterruptedError
        return result(self, later) if self.name == "teacher" else ENTRY

    host_patch.setattr(phase, "Progress", Recorded)
    host_patch.setattr(phase.PhaseRun, "result", result_of)
    config_tree = plain(shrunk(quickstart.get_config("resnet8,resnet8,smoke"), skd__steps=3))
    with pytest.raises(InterruptedError):
        run.run({**config_tree, "phases": ["teacher", "kd", "skd"]}, str(tmp_path / "run"))
    assert shown == [given["teacher"]]
    assert given == {"teacher": Later(unknown=2), "kd": Later(steps=3), "skd": Later()}
