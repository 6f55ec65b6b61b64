"""Resident memory of a long run: see benchmarks/step.py --memory."""

import gc
import resource
import sys
import tempfile
from pathlib import Path


def resident() -> int:
    """Bytes of this process in memory now; where the system does not say, the most it ever had."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(steps: int) -> None:
    """Train a tiny student by SKD for `steps` steps, with saves and evaluations; print resident memory
    after a tenth of them, after all, and the ratio."""
    from configs import skd
    from kd_jax.tools import environment
    from kd_jax.train import batches, run

    environment.keep_memory()  # as the commands do

    config = skd.get_config("resnet8,resnet8,smoke")
    config.data.synthetic.size, config.data.synthetic.classes = 8, 5
    config.data.synthetic.train = 400  # 50 steps an epoch
    config.student.steps = steps + 1  # memory is read where the step after the last one asks for its batch
    config.checkpoint.every, config.log.every = max(steps // 20, 1), 50
    config.student.schedule.milestones = ()
    marks, train = {}, batches.Resident.train
    looked_at = {steps // 10, steps}

    def watched(self, step, *rest):
        if step in looked_at:
            marks[step] = resident()
        return train(self, step, *rest)

    batches.Resident.train = watched
    try:
        with tempfile.TemporaryDirectory() as folder:
            run.run(config.to_dict(), folder)
    finally:
        batches.Resident.train = train
    for step, size in marks.items():
        print(f"resident memory after {step:,} steps: {size / 1e6:.1f} MB")
    print(f"ratio: {marks[steps] / marks[steps // 10]:.4f}")
