"""The runs of a sweep, each in a process of its own: started when what they need is there, stopped by a signal, and
what became of them."""

import fcntl
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from kd_jax.distributed.parent import STARTER
from kd_jax.distributed.preemption import Interrupted, stop_on_signal
from kd_jax.storage import files
from kd_jax.storage.metrics_log import MetricsLog, as_text
from kd_jax.storage.workdir import read_summary
from kd_jax.tools.sweep_shared import Job
from kd_jax.typing import InputError, first_line

OUTPUT = "output.txt"  # in a run's folder: what its process has printed
PROMPT = "$ "  # there before the command of every start
PAUSE = 0.1  # seconds between looks at the processes
WAIT = 5.0  # seconds until a run that another sweep trains is looked at again
DONE, FAILED, BUSY = "done", "failed", "busy"


@dataclass
class Runner:
    """Runs jobs.

    home: folder of the sweep. train: the script that trains. count: how many at once. say: takes a line when a job
    has ended. until: time on the monotonic clock from which on no job starts. outcomes: folder -> DONE, or why it
    failed. seconds: of the jobs that this process has run to their end. left: jobs that the time did not reach.
    """

    home: Path
    train: Path
    count: int
    say: Callable[[Job, str], None]
    until: float = math.inf
    outcomes: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)

    def run(self, jobs: Iterable[Job]) -> None:
        """Run all jobs that are not done yet, as far as the time reaches; one that fails stops only those that need it.

        Raises:
          Interrupted: SIGTERM, SIGINT or SIGHUP came; the processes have saved and ended.
        """
        waiting, running, again = list(jobs), {}, {}
        with stop_on_signal() as stop:
            while waiting or running:
                number = stop(0)
                if number is not None:
                    _end(running)
                    raise Interrupted(number, f"sweep {self.home}")
                self._collect(running, waiting, again)
                if time.monotonic() >= self.until:
                    self.left += [job for job in waiting if not is_done(self.home, job)]
                    waiting.clear()
                self._start_next(running, waiting, again)
                time.sleep(PAUSE)

    def _start_next(self, running: dict, waiting: list[Job], again: dict[str, float]) -> None:
        """Start the first job whose needs are there, or say what became of it without."""
        if len(running) >= self.count:
            return
        for job in waiting:
            failed = [need for need in job.needs if self.outcomes.get(need, DONE) != DONE]
            if failed:
                self._ended(job, f"{FAILED}: {failed[0]} failed", waiting)
            elif all(need in self.outcomes for need in job.needs) and time.monotonic() >= again.get(job.folder, 0):
                if is_done(self.home, job):
                    self._ended(job, DONE, waiting)
                else:
                    self._try(job, running, waiting)
            else:
                continue
            return

    def _try(self, job: Job, running: dict, waiting: list[Job]) -> None:
        """Start a job; where its folder or its needs do not allow it, it has failed."""
        try:
            running[job.folder] = (job, *self._start(job))
            waiting.remove(job)
        except (OSError, InputError) as e:
            self._ended(job, f"{FAILED}: {first_line(e)}", waiting)

    def _start(self, job: Job) -> tuple[subprocess.Popen, float]:
        folder = self.home / job.folder
        link(self.home, job)
        command = command_of(self.home, self.train, job)
        with open(folder / OUTPUT, "a", errors="backslashreplace") as output:
            print(PROMPT + shlex.join(command), file=output, flush=True)
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, STARTER: str(os.getpid())},
            )  # fmt: skip
        return process, time.monotonic()

    def _collect(self, running: dict, waiting: list[Job], again: dict[str, float]) -> None:
        for folder, (job, process, began) in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[folder]
            if code == 0 and is_done(self.home, job):
                self.seconds.append(time.monotonic() - began)
                self._ended(job, DONE, waiting)
            elif code == 2 and (
                is_held(self.home / folder) or is_done(self.home, job)
            ):  # by a process of another sweep
                again[folder] = time.monotonic() + WAIT
                waiting.append(job)
            else:
                self._ended(
                    job, f"{FAILED}: {printed_error(self.home / folder / OUTPUT) or f'exit code {code}'}", waiting
                )

    def _ended(self, job: Job, outcome: str, waiting: list[Job]) -> None:
        if outcome == DONE:
            try:
                read_summary(self.home / job.folder)
            except InputError as e:
                outcome = f"{FAILED}: {e}"
        if job in waiting:
            waiting.remove(job)
        self.outcomes[job.folder] = outcome
        self.say(job, outcome)


def command_of(home: Path, train: Path, job: Job) -> list[str]:
    """What a job runs; anyone may run it by hand."""
    return [sys.executable, str(train), f"--config={job.cell.config}", f"--workdir={home / job.folder}", *job.flags]


def is_done(home: Path, job: Job) -> bool:
    """Whether a job has ended well: its summary is written last."""
    return (home / job.folder / "summary.json").exists()


def is_held(folder: Path) -> bool:
    """Whether a process runs there now."""
    try:
        with open(folder / ".lock", "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no file, or no locks
        return False
    return False


def link(home: Path, job: Job) -> None:
    """Give a job's folder the phases that others have trained, and their rows, where it has none of its own."""
    folder = home / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for phase, source in job.links.items():
        place = folder / phase
        if not place.exists():
            place.unlink(missing_ok=True)  # a link to what is gone
            with suppress(FileExistsError):  # another sweep has been here
                place.symlink_to(os.path.relpath(home / source / phase, folder), target_is_directory=True)
        rows += MetricsLog(epath.Path(home / source / "metrics.jsonl")).of(phase)
    if rows and not (folder / "metrics.jsonl").exists():
        files.write_text(folder / "metrics.jsonl", as_text(rows), shared=True)


def printed_error(output: Path) -> str:
    """The error that the last process of a run has printed, "" if none."""
    lines = output.read_text(errors="replace").splitlines() if output.exists() else []
    starts = [i for i, line in enumerate(lines) if line.startswith(PROMPT)]
    errors = [line for line in lines[starts[-1] if starts else 0 :] if line.startswith("error: ")]
    return errors[0].removeprefix("error: ") if errors else ""


def _end(running: dict) -> None:
    """Have the processes save and end."""
    for _, process, _ in running.values():
        process.send_signal(signal.SIGTERM)
    for _, process, _ in running.values():
        process.wait()
