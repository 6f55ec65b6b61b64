"""Students whose teacher is read from a cache."""

import json

import numpy as np

from configs import dkd, kd, mlld, skd
from kd_jax.train import run
from tests.conftest import shrunk
from tests.train.resuming import last_state, rows, stopping

CONFIGS = {"kd": kd, "dkd": dkd, "skd": skd, "mlld": mlld}
STEPS, PER_EPOCH = 17, 5  # of batches of 8: three epochs and more of 40 images in 18 views


def student(teacher, method="kd", cache="", **changes):
    """A student of a teacher that is there."""
    how = {"phases": ("student",), "student__teacher": teacher, "student__steps": STEPS, "seed": 5}
    how |= {"teacher_check": False, "checkpoint__every": 4, "log__every": 3, "teacher_cache": str(cache)}
    config_dict = CONFIGS[method].get_config("resnet8,resnet8,smoke")
    return json.loads(json.dumps(shrunk(config_dict, **{**how, **changes})))


def trained(home, *args, **changes):
    """What the summary says of the cache."""
    return run.run(student(*args, **changes), str(home))["phases"]["student"]["teacher_cache"]


def stopped(home, step, *args, **changes):
    """A run that a signal stops in a step, which it ends."""
    with stopping(step):
        run.run(student(*args, **changes), str(home))


def assert_same_student(one, two):
    assert rows(one) == rows(two) and rows(one)
    a, b = last_state(one, "student"), last_state(two, "student")
    assert a.keys() == b.keys() and len(a) > 10
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def distinct(teachers, seed=5, steps=STEPS):
    """How many (example, view) a run reads."""
    prepared = run.prepare(student(teachers[0], data__seed=seed), "/nowhere")
    with run.batches_of(prepared.recipe, prepared.layout, prepared.dataset) as source:
        views = [np.stack(source.train_views(step, 8)) for step in range(steps)]
    return len({tuple(pair) for pair in np.concatenate(views, 1).T.tolist()})
