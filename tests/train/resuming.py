"""What a run leaves, and runs that are stopped and started again: one check of all that they leave."""

import json
import signal
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from etils import epath

from kd_jax.distributed.preemption import Interrupted
from kd_jax.storage.checkpoints import Checkpoints
from kd_jax.train import run
from kd_jax.train.batches import _Batches


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def last_state(workdir, name):
    """Every saved leaf of a phase's last step, by path."""
    checkpoints = Checkpoints(epath.Path(workdir / name), read_only=True)
    items, _ = checkpoints.read("network", "training", step=checkpoints.steps()[0])
    leaves = jax.tree_util.tree_leaves_with_path(items)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def plain(config_tree) -> dict:
    """A tree as config.json holds it."""
    return json.loads(json.dumps(config_tree))


@contextmanager
def stopping(call: int, *, kill: bool = False):
    """SIGTERM, or with `kill` an end without a word, where a run reads the batch of its `call`-th training step."""
    train, save, count, savers = _Batches.train, Checkpoints.save, [], set()

    def noted(self, *args):
        savers.add(self)
        save(self, *args)

    def counted(self, *args, **kwargs):
        count.append(None)
        if len(count) == call:
            if kill:
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)
        return train(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Batches, "train", counted)
        patch.setattr(Checkpoints, "save", noted)
        with pytest.raises(KeyboardInterrupt if kill else Interrupted):
            yield
        for saver in savers:  # a process that is killed writes no more: here its last write must be over
            saver.wait()


def assert_resumes(config_tree, whole, folder, calls: list[tuple[int, bool]], phases) -> dict:
    """Stopped where `calls` say (training step of that start, whether it is killed) and started again, a run leaves
    what it leaves in one go: every number of the phases' last states, which are returned, and every row."""
    for call, kill in calls:
        with stopping(call, kill=kill):
            run.run(config_tree, str(folder))
    run.run(config_tree, str(folder))
    states = {name: last_state(folder, name) for name in phases}
    for name, two in states.items():
        one = last_state(whole, name)
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=f"{name} {key}")
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    return states
