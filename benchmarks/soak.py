"""Kill runs at random moments, resume them, and compare them with a run that nobody killed.

python benchmarks/soak.py [--kills=100] [--seed=0] [--jobs=1]

A small SKD recipe (two phases of resnet8 on 8 x 8 synthetic images) runs once unbroken. Then it runs in
other folders, where SIGKILL or SIGTERM ends it: before a random step, some milliseconds into a save, at the
end of a phase or of the run, or after a random time. The same command resumes it, is ended again, and so on
until it finishes, in as many runs as --kills kills take. Each finished run is compared with the unbroken
one: metrics.jsonl byte for byte, every leaf of the last checkpoint of each phase bit for bit, as Orbax
alone reads them.

Prints a line for each kill and each run, and last
kills: N (SIGKILL n, SIGTERM n; n during a save), runs: K, identical: I of K
Exit code 1 if a run differs or fails; its folder is then kept and named.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from kills import ROOT, STEPS, Failed, attempt, draw

PARTS = ("kernel", "stats", "trace", "['skd']", "extra")  # BatchNorm's, momentum, simplifier, sums of metrics


class Parser(argparse.ArgumentParser):
    """One line and exit code 2 for wrong flags."""

    def error(self, message):
        self.exit(2, f"error: {message}; --help shows what is accepted\n")


class Soak:
    """The unbroken run, and the runs that are compared with it, under one count of kills."""

    def __init__(self, folder: Path, kills: int, seed: int):
        self.folder, self.kills, self.seed = folder, kills, seed
        self.lock, self.left, self.numbers = threading.Lock(), kills, count(1)
        self.died, self.in_save, self.outcomes = Counter(), 0, []
        self.unbroken = folder / "unbroken"
        attempt(self.unbroken)
        self.expected = contents(self.unbroken)
        for part in PARTS:  # else the comparison would be blind to it
            assert any(part in name for name in self.expected), part

    def worker(self) -> None:
        """Whole runs, one after the other, until no kill is left."""
        while self.left:
            self.one(next(self.numbers))

    def one(self, number: int) -> None:
        """One run: killed and resumed until it finishes, then compared."""
        home, rng = self.folder / f"run{number}", random.Random(f"{self.seed}/{number}")
        try:
            while self.killed(number, home, rng):
                pass
            difference = self.difference(home)
        except Failed as e:
            difference = f"failed: {e}"
        print(f"run {number}: {f'{difference}, see {home}' if difference else 'identical'}", flush=True)
        if not difference:
            shutil.rmtree(home)
        self.outcomes.append(difference)

    def killed(self, number: int, home: Path, rng: random.Random) -> bool:
        """One attempt; whether it was killed, not finished."""
        with self.lock:
            kill = draw(rng) if self.left else None
            self.left -= kill is not None
        death = attempt(home, kill, self.unbroken / "config.json")
        with self.lock:
            if death is None:  # it finished before its moment came
                self.left += kill is not None
                return False
            self.died[death.signal] += 1
            self.in_save += death.in_save
            during = ", during a save" if death.in_save else ""
            print(f"{self.died.total()}/{self.kills} run {number}: {death.signal} ({kill}){during}", flush=True)
        return True

    def difference(self, home: Path) -> str | None:
        """What is not as in the unbroken run."""
        with self.lock:
            now = contents(home)
        names = [n for n in {**self.expected, **now} if self.expected.get(n) != now.get(n)]
        return f"differs in {names[0]} and {len(names) - 1} more" if names else None


def contents(home: Path) -> dict[str, object]:
    """Everything of a finished run that has to be the same: rows, and leaves as (type, shape, bytes)."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    parts = {"metrics.jsonl": (home / "metrics.jsonl").read_bytes()}
    for phase in STEPS:
        steps = (int(p.name) for p in (home / phase / "checkpoints").iterdir() if p.name.isdigit())
        last = home / phase / "checkpoints" / str(max(steps))
        for item in ("network", "training"):
            for path, leaf in jax.tree_util.tree_leaves_with_path(ocp.StandardCheckpointer().restore(last / item)):
                array = np.asarray(leaf)
                name = f"{phase} step {last.name} {item}{jax.tree_util.keystr(path)}"
                parts[name] = str(array.dtype), array.shape, array.tobytes()
    return parts


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=100, help="how many kills in all, at least 1")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, choices=(1, 2), help="runs at once")
    flags = parser.parse_args()
    if flags.kills < 1:
        parser.error(f"--kills={flags.kills}: must be at least 1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))  # resuming need not compile
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    folder = Path(tempfile.mkdtemp(prefix="soak"))
    try:
        soak = Soak(folder, flags.kills, flags.seed)
    except Failed as e:
        print(f"error: the unbroken run: {e}, see {folder}", file=sys.stderr)
        return 1
    with ThreadPoolExecutor(flags.jobs) as pool:
        for done in [pool.submit(soak.worker) for _ in range(flags.jobs)]:
            done.result()
    runs, same = len(soak.outcomes), soak.outcomes.count(None)
    by_signal = f"SIGKILL {soak.died['SIGKILL']}, SIGTERM {soak.died['SIGTERM']}; {soak.in_save} during a save"
    print(f"kills: {soak.died.total()} ({by_signal}), runs: {runs}, identical: {same} of {runs}")
    if same == runs:
        shutil.rmtree(folder)
    return int(same < runs)


if __name__ == "__main__":
    sys.exit(main())
