"""All that one call on one GPU can answer, most valuable first.

python benchmarks/gpu.py --minutes=8 --out=DIR [--parts=equal,step,...] [--torch_python=python3] [--mdistiller=DIR]
                         [--grace=20] [--tiny]
    Appends a line of JSON to DIR/gpu.jsonl as soon as a figure is there. benchmarks/gpu_parts.py lists the parts;
    each has a share of the minutes, and what one leaves over the next ones get. A part that does not end in its
    time, with some grace, is killed, a part that fails is written with its error, and the next one goes on. Needs
    no data set, and no packages but jax, flax, optax, orbax and what these bring. Beside PyTorch where
    --torch_python has torch. --tiny rehearses all of it with small networks on any device; its figures mean
    nothing.
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import gpu_parts  # noqa: E402
import record  # noqa: E402

GRACE = 20.0  # seconds that a part may take beyond its time before it is killed
ENV = {  # for the workers; they share the card with PyTorch's, and a restarted one compiles nothing twice
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
}
QUICK = "--xla_backend_optimization_level=0"  # compiles faster, for a rehearsal


def parsed() -> argparse.Namespace:
    parser = record.Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(gpu_parts.PARTS), help="joined by commas")
    parser.add_argument("--torch_python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--mdistiller", default="", help="a checkout of mdistiller, for PyTorch's step of every method")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds")
    parser.add_argument("--tiny", action="store_true")
    flags = parser.parse_args()
    flags.parts = flags.parts.split(",")
    for name in flags.parts:
        if name not in gpu_parts.PARTS:
            parser.error(f"--parts: unknown part {name!r}; known: {', '.join(gpu_parts.PARTS)}")
    if flags.minutes <= 0:
        parser.error(f"--minutes={flags.minutes:g}: must be above 0")
    return flags


class Child:
    """The process that measures, one part after the other; a new one where it was killed or has died."""

    def __init__(self, flags: argparse.Namespace, scratch: str):
        asked = {"out": str(flags.out.resolve()), "tiny": flags.tiny, "torch_python": flags.torch_python}
        asked |= {"mdistiller": flags.mdistiller, "command": record.command()}
        self._command = [sys.executable, str(HERE / "gpu_worker.py"), json.dumps(asked)]
        quick = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()} if flags.tiny else {}
        self._env = {
            **os.environ,
            **ENV,
            **quick,
            "JAX_COMPILATION_CACHE_DIR": os.path.join(scratch, "xla"),
            "TMPDIR": scratch,
        }
        self._process = None

    def measure(self, part: str, seconds: float, grace: float) -> str:
        """Measure a part; "" where that worked, else in words what went wrong."""
        if self._process is None:
            kinds = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
            self._process = subprocess.Popen(self._command, env=self._env, **kinds)
        self._process.stdin.write(json.dumps([part, seconds]) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], seconds + grace)[0]:
            self.kill()
            return f"killed: not done {grace:g} seconds after its {seconds:.0f} were over"
        if self._process.stdout.readline():
            return ""
        code = self._process.wait()
        self.kill()
        return f"its process died with exit code {code}"

    def kill(self) -> None:
        """The process and all that it has started."""
        if self._process:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


def main() -> int:
    flags = parsed()
    end, failures = time.monotonic() + 60 * flags.minutes, 0
    flags.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu", ignore_cleanup_errors=True) as scratch:
        child = Child(flags, scratch)
        for i, part in enumerate(flags.parts):
            shares = [gpu_parts.PARTS[name].share for name in flags.parts[i:]]
            seconds = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
            error = child.measure(part, seconds, flags.grace)
            if error:
                failures += 1
                with (flags.out / "gpu.jsonl").open("a") as file:
                    file.write(json.dumps({"part": part, "error": error}) + "\n")
                print(f"{part}: {error}", flush=True)
        child.kill()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
