"""The process in which benchmarks/gpu.py measures: it reads [PART, SECONDS] a line, and answers when that is done."""

import json
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.path.append(str(HERE / "stand_ins"))  # last: the real ones go first

import gpu_parts  # noqa: E402
import record  # noqa: E402
import worker  # noqa: E402


class Bench:
    """What a part measures with, and the file it writes to."""

    def __init__(self, asked: dict):
        self.tiny, self.asked, self.began = asked["tiny"], asked, time.monotonic()
        self.file, self.end = Path(asked["out"]) / "gpu.jsonl", 0.0
        self.part, self.scratch = "", Path(os.environ["TMPDIR"])

    @property
    def pair(self) -> str:
        return "resnet8,resnet8" if self.tiny else "resnet32x4,resnet8x4"

    def size(self, whole: int, tiny: int) -> int:
        return tiny if self.tiny else whole

    def left(self) -> float:
        """Seconds of the part's time."""
        return self.end - time.monotonic()

    def write(self, **line) -> None:
        """A line of the file, at once."""
        line = {"part": self.part, **line, "at": round(time.monotonic() - self.began, 1)}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(json.dumps(line), file=sys.stderr, flush=True)

    def each(self, measure) -> None:
        """Every row of the part: `measure` gives its figures; one that fails is written with its error."""
        for row in gpu_parts.PARTS[self.part].rows:
            if self.left() <= 0:
                self.write(row=row, error="no time was left")
                continue
            try:
                self.write(row=row, values=measure(*row.values()))
            except Exception as e:
                self.fail(e, row=row)

    def fail(self, error: Exception, **where) -> None:
        traceback.print_exception(error)
        self.write(**where, error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])


def environment(bench: Bench) -> None:
    """The first line: the machine."""
    bench.part = "environment"
    bench.write(command=bench.asked["command"], tiny=bench.tiny, **record.machine())


def run_part(bench: Bench, part: str, seconds: float) -> None:
    import gpu_runs
    import gpu_steps

    gpu_runs.without_reports()
    bench.part, bench.end = part, time.monotonic() + seconds
    try:
        {**gpu_steps.PARTS, **gpu_runs.PARTS}[part](bench)
    except Exception as e:
        bench.fail(e)


def main() -> None:
    answers, bench = worker.quiet(), Bench(json.loads(sys.argv[1]))
    begin = partial(environment, bench)
    for line in sys.stdin:
        part, seconds = json.loads(line)
        start = time.monotonic()
        if begin:
            begin()
            begin = None
        run_part(bench, part, seconds - (time.monotonic() - start))
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
