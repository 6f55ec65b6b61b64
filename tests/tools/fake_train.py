"""In place of launch/train.py, in tests of what a sweep does with processes: holds its folder, and is done at once.

FAKE in the environment: seconds:S, how long it takes; fail:TEXT, whether it fails where TEXT stands in its folder;
late:1, whether one that finds its folder held leaves a file there and says so when it no longer is.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

(home,) = (Path(argument.partition("=")[2]) for argument in sys.argv if argument.startswith("--workdir="))
named = [argument.partition("=")[2] for argument in sys.argv if "--config.phases=" in argument]
name = (named or ["student"])[0].split(",")[-1]
how = dict(part.split(":") for part in os.environ.get("FAKE", "").split(",") if part)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with open(home / ".lock", "a+") as lock:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if "late" in how:
            (home / "late").touch()
            fcntl.flock(lock, fcntl.LOCK_EX)
        print("error: another run holds it")
        sys.exit(2)
    with open(home / "starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(float(how.get("seconds", 0)))
    if how.get("fail") and how["fail"] in str(home):
        print("error: config.student: something is wrong")
        sys.exit(2)
    (home / name).mkdir(exist_ok=True)
    (home / "metrics.jsonl").touch()
    phases = {name: {"top1_last": 0.5, "folder": str(home)}}
    (home / "summary.json").write_text(json.dumps({"phases": phases}))
