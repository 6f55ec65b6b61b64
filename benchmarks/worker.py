"""Calls timed side by side, in processes of their own: A B C A B C ... of two compilers' settings, or of two libraries
that would not share one process.

The parent starts a `Worker` a process; the child builds its calls and `serve`s them: it names them in one line of
JSON, and from then on runs the one that a line of its input names, and answers with seconds. While one computes,
the others wait."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

PAUSE = 0.05  # seconds before a call: threads of the process before may still spin


class NotAvailable(Exception):
    """What a worker, or a part of a benchmark, cannot measure here; the message says why."""


class Worker:
    """A child process that takes the calls it `serve`s."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None, cwd: str | None = None):
        """env: on top of this process's. Raises NotAvailable where the child ends before it is ready."""
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **(env or {})}, cwd=cwd,
        )  # fmt: skip
        ready = self._read()
        self.calls, self.facts = ready["calls"], ready["facts"]

    def __call__(self, name: str) -> float:
        """Seconds that a call took, as the child has measured them. Raises NotAvailable where it failed."""
        time.sleep(PAUSE)
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise NotAvailable(answer["error"])
        return answer["seconds"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        self.close()
        text = text.partition("\nException ignored in ")[0]  # what fails after that, while Python ends, is no reason
        lines = [line for line in text.splitlines() if line.strip()]
        raise NotAvailable(lines[-1].strip()[:300] if lines else "the process ended without a word")


def serve(calls: dict[str, Callable[[], Any]], facts: dict | None = None, out=None) -> None:
    """In the child: take the calls that the parent asks for, until it is gone.

    Args:
      calls: name -> what to do and to wait for. One that returns a number has timed itself.
      facts: what else the parent is to know; JSON.
      out: what `quiet` returned.
    """
    print(json.dumps({"calls": [*calls], "facts": facts or {}}), file=out, flush=True)
    for line in sys.stdin:
        try:
            answer = {"seconds": timed(calls[line.strip()])}
        except Exception as e:  # of one call; the others go on
            answer = {"error": f"{type(e).__name__}: {' '.join(str(e).split())}"[:300]}
        print(json.dumps(answer), file=out, flush=True)


def quiet():
    """In the child, first: keep the parent's stream for answers; whatever else is printed goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def timed(call: Callable[[], Any]) -> float:
    """Seconds of a call: what it returns where that is a number, else by the clock."""
    began = time.perf_counter()
    result = call()
    return result if isinstance(result, float) else time.perf_counter() - began


def rounds(
    contenders: dict[str, Callable[[], Any]], count: int, warm: int = 2, failed: dict[str, str] | None = None
) -> dict[str, list[float]]:
    """Seconds of every call, in turns A B C A B C ...

    Args:
      contenders: name -> call; one that returns a number has timed itself.
      count: turns that count.
      warm: turns before these, in which programs compile.
      failed: takes the names of calls that raise NotAvailable, and why; they are called no more.
    """
    spent, contenders = {name: [] for name in contenders}, dict(contenders)
    for turn in range(-warm, count):
        for name, call in [*contenders.items()]:
            try:
                seconds = timed(call)
            except NotAvailable as e:
                if failed is None:
                    raise
                failed[name] = str(e)
                spent.pop(name), contenders.pop(name)
                continue
            if turn >= 0:
                spent[name].append(seconds)
    return spent


def ratio(spent: dict[str, list[float]], one: str, other: str) -> float | None:
    """The median over the rounds of what one took over what the other took in the same round; None where one of them
    was not measured."""
    if not (spent.get(one) and spent.get(other)):
        return None
    return statistics.median(a / b for a, b in zip(spent[one], spent[other], strict=True))
