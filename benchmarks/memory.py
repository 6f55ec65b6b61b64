"""Resident memory of a long run: a tiny student is trained by SKD for --steps steps, with saves and evaluations; memory
after a tenth of them, after all, and the ratio."""

import gc
import resource
import sys
import tempfile
from pathlib import Path

from record import Goal, Measured, Table, at_least


def resident() -> int:
    """Bytes of this process in memory now; where the system does not say, the most it ever had."""
    gc.collect()
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def flags(parser) -> None:
    parser.add_argument("--steps", type=int, default=5000)


def check(flags, parser) -> None:
    at_least(parser, flags, steps=100)


def measure(flags) -> Measured:
    from configs import skd
    from kd_jax.tools import environment
    from kd_jax.train import batches, run

    environment.keep_memory()  # as the commands do
    steps, config = flags.steps, skd.get_config("resnet8,resnet8,smoke")
    config.data.synthetic.size, config.data.synthetic.classes = 8, 5
    config.data.synthetic.train = 400  # 50 steps an epoch
    config.student.steps = steps + 1  # memory is read where the step after the last one asks for its batch
    config.checkpoint.every, config.log.every = max(steps // 20, 1), 50
    config.student.schedule.milestones = ()
    sizes, train = {}, batches.Resident.train

    def watched(self, step, *rest):
        if step in (steps // 10, steps):
            sizes[step] = resident()
        return train(self, step, *rest)

    batches.Resident.train = watched
    try:
        with tempfile.TemporaryDirectory() as folder:
            run.run(config.to_dict(), folder)
    finally:
        batches.Resident.train = train
    rows = [[step, size / 1e6] for step, size in sizes.items()]
    goal = Goal(f"resident memory after {steps} steps / after {steps // 10}", 1.05, sizes[steps] / sizes[steps // 10])
    return Measured([Table("SKD, resnet8 to resnet8, 8 x 8 pixels", ("steps", "MB"), rows)], [goal])
