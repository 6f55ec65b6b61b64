"""The scripts that start several processes: what they would run, what they refuse, and local.sh for real."""

import os
import shlex
import shutil
import signal
import subprocess

import pytest

from kd_jax.train.evaluate import saved
from tests.conftest import ROOT
from tests.distributed.test_processes import SHORT, end, errors, far, rows, start, wait_for_rows

LAUNCH = ROOT / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh", "gke_jobset.sh")
RUN = ["--config=configs/kd.py", "--config.student.refine.x='a b'", "--workdir=gs://bucket/run"]
POD = ["--name=pod", "--zone=z"]
SET = ["--name=run", "--image=i", "--hosts=4", "--accelerator=a", "--topology=4x4"]


def launch(script, *args, **env):
    command = ["bash", str(LAUNCH / script), *args]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=60)


def dry(script, *args, **env):
    done = launch(script, "--dry_run", *args, **env) if script != "local.sh" else launch(script, *args, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_shell_can_read_it(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", LAUNCH / script], check=True)


def test_dry_run_of_local():
    lines = dry("local.sh", "2", "--dry_run", *RUN)
    assert len(lines) == 2
    for i, line in enumerate(lines):
        assert line[1:5] == [str(LAUNCH / "train.py"), *RUN]
        assert line[5] == lines[0][5] and line[5].startswith("--coordinator=127.0.0.1:")
        assert line[6:] == ["--num_processes=2", f"--process_id={i}"]
    (alone,) = dry("local.sh", "1", "--dry_run", *RUN, "--", "--dry_run")  # the second one is train.py's
    assert alone[2:] == [*RUN, "--dry_run"]
    shared = dry("local.sh", "2", *RUN, "--dry_run", CUDA_VISIBLE_DEVICES="0,1,4,5")
    assert [line[:2] for line in shared] == [["env", f"CUDA_VISIBLE_DEVICES={devices}"] for devices in ("0,1", "4,5")]


def test_dry_run_of_slurm():
    (line,) = dry("slurm.sbatch", *RUN)
    assert line[0] == "srun" and line[-len(RUN) - 1 :] == [str(LAUNCH / "train.py"), *RUN]


def test_dry_run_of_tpu_pod():
    pack, copy, ssh = dry("tpu_pod.sh", *POD, *RUN)
    assert pack[:4] == ["git", "-C", str(ROOT), "archive"] and "pod:kd_jax.tar.gz" in copy
    assert ssh[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"] and "--worker=all" in ssh
    remote = shlex.split(ssh[-1])
    assert remote[-len(RUN) - 1 :] == ["launch/train.py", *RUN] and "KD_JAX_SEVERAL=1" in remote


def test_dry_run_of_gke():
    yaml = pytest.importorskip("yaml")
    plain = [RUN[0], RUN[2]]
    done = launch("gke_jobset.sh", "--dry_run", *SET, *plain)
    assert (done.returncode, done.stderr) == (0, "") and "${" not in done.stdout
    jobset = yaml.safe_load(done.stdout)
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "run")
    assert (
        jobset["spec"]["network"]["enableDNSHostnames"] is True and jobset["spec"]["failurePolicy"]["maxRestarts"] > 0
    )
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    (container,) = job["template"]["spec"]["containers"]
    assert container["image"] == "i" and container["resources"]["limits"] == {"google.com/tpu": 4}
    command = shlex.split(container["args"][0])
    assert command[:5] == ["exec", "python", "launch/train.py", *plain]
    assert command[5:] == [
        "--coordinator=run-host-0-0.run:8476", "--num_processes=4", "--process_id=$JOB_COMPLETION_INDEX",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "args", "message"),
    [
        ("local.sh", [], "the first argument is the number of processes, not ''"),
        ("local.sh", ["0", *RUN], "number of processes, not '0'"),
        ("local.sh", ["2"], "--config and --workdir are missing"),
        ("local.sh", ["2", *RUN, "--process_id=1"], "--process_id is for it to say"),
        ("slurm.sbatch", RUN[:1], "--workdir=... is missing"),
        ("slurm.sbatch", RUN, "not a job; submit it: sbatch"),
        ("tpu_pod.sh", [*POD[:1], *RUN], "--zone=... is missing"),
        ("tpu_pod.sh", [*POD, RUN[0], "--workdir=runs/x"], "--workdir=runs/x: must be seen by all workers"),
        ("tpu_pod.sh", [*POD, *RUN, "x"], "x: unexpected argument"),
        ("gke_jobset.sh", [*SET[:2], *SET[3:], *RUN], "no quotes"),
        ("gke_jobset.sh", [*SET[:2], *SET[3:], RUN[0], RUN[2]], "--hosts=... is missing"),
        ("gke_jobset.sh", [*SET, "--chips=four", RUN[0], RUN[2]], "--chips=four: must be a number"),
        ("gke_jobset.sh", [*SET, RUN[0], "--workdir=runs/x"], "--workdir=runs/x: must be seen by all pods"),
    ],
)
def test_refusals(script, args, message):
    done = launch(script, *args, SLURM_JOB_ID="")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def children(pid):
    """Processes below a process, the nearest first."""
    pids = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in pids] + [below for child in pids for below in children(child)]


@pytest.mark.full
def test_two_on_this_machine_one_lost_and_again(tmp_path):
    """local.sh runs two processes. The second one is killed: all end within a minute, with one line. The same command
    again: they resume and finish, as one process with four devices does that nobody interrupts."""
    two, one = tmp_path / "two", tmp_path / "one"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"

    def local():
        command = ["bash", str(LAUNCH / "local.sh"), "2", *SHORT, f"--workdir={two}"]
        env = {**os.environ, "XLA_FLAGS": flags, "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)

    running = local()
    wait_for_rows(two, 4, running)
    victim = next(
        pid for pid in children(running.pid)
        if "--process_id=1" in open(f"/proc/{pid}/cmdline").read()
    )  # fmt: skip
    os.kill(victim, signal.SIGKILL)
    (code,), (said,) = end(running)
    assert code == 137
    (line,) = errors(said)
    assert line.startswith("error: process 0 of 2: process 1 is gone") and "started again, all" in line
    assert "Traceback" not in said and "Check failure" not in said
    codes, said = end(local(), start(one, devices=4, recipe=SHORT))
    assert codes == [0, 0] and "teacher: resumed at step" in said[0] and "resumed" not in said[1], said[0][-3000:]
    for phase in ("teacher", "student"):
        (_, ours, a), (_, theirs, b) = (saved(str(home), phase=phase) for home in (one, two))
        assert a == b and far(ours, theirs) < 1e-4
    assert rows(one) == rows(two) and len(set(rows(two))) == len(rows(two))
