"""The commands that stand in the pages, and a page of them in order, at toy size, in a process of its own.

Data are small files of the true layout, networks of two or three layers have the published names, recipes are those of
`smoke`, numbers of epochs are 1, of seeds 2. Everything else of a command is as it stands.
"""

import gzip
import os
import pickle
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags

from kd_jax import data, models
from kd_jax.tools import environment, sweep_jobs
from kd_jax.train import report
from tests import tiny
from tests.commands import FORKS
from tests.conftest import ROOT
from tests.data.test_data import cifar_batch, idx
from tests.data.test_folder import fill
from tests.shared_programs import sharing

PROGRAMS = "python|bash|sbatch|make(?= quickstart| test| lint| clean)|pip|apt-get|unzip"
TYPED = re.compile(rf"^(?: {{4}})?((?:{PROGRAMS}) .*)$", re.M)  # a line of its own
QUOTED = re.compile(rf"`((?:{PROGRAMS}) [^`]*|launch/\w+\.py [^`]*--(?:workdir|data_dir)=[^`]*)`")
SIZES = {"size": 8, "classes": 100, "train": 40, "test": 13}
SYNTHETIC = [f"--config.data.synthetic.{key}={value}" for key, value in SIZES.items()]
BLOCKS = (1, 1, 1, 1)
QUICKSTART = re.search(r"\$\(BIN\)/(python launch/train\.py .*)", (ROOT / "Makefile").read_text())[1]
NETWORKS = {  # every other one: a TinyNet
    **{name: partial(tiny.TinyNet, widths=(8, 16)) for name in ("resnet8x4", "resnet32x4")},
    **{
        name: partial(models.MODELS[name], blocks=BLOCKS, widths=(4, 4, 8, 8, 16))
        for name in ("imagenet_ResNet18", "imagenet_ResNet34")
    },
    **{
        name: partial(models.MODELS[name], width=12, heads=3, blocks=BLOCKS, patch=4)
        for name in ("vit_small_patch16_224", "deit_tiny_distilled_patch16_224")
    },
}
WEIGHTS = {  # a page's file -> the network that it holds
    "resnet32x4_vanilla/ckpt_epoch_240.pth": "resnet32x4",
    "FILE.pth": "resnet32x4",
    "CKPT.pth": "resnet32x4",
    "resnet34.pth": "imagenet_ResNet34",
}


def commands(page: Path) -> list[str]:
    """Lines of code and quoted commands of a page, in its order, each once."""
    text = page.read_text().replace("\\\n", " ")
    places = sorted((match.start(1), match[1]) for pattern in (TYPED, QUOTED) for match in pattern.finditer(text))
    lines = [re.sub(r"\s+", " ", line.partition(" # ")[0]).strip() for _, line in places]
    return list(dict.fromkeys(part.strip() for line in lines for part in line.split("&&")))


def small(command: str) -> list[str]:
    """The script and the arguments of a command of launch/, made small."""
    words = shlex.split(command.removeprefix("python "))
    words = [re.sub(r"^(--(?:config|sweep)=[^:]*\.py)(:?)(.*)$", _smoke, word) for word in words]
    words = [re.sub(r"(epochs|sample)=\d+$", r"\1=1", word) for word in words]
    words = [re.sub(r"^(--seeds)=[3-9]$", r"\1=2", word) for word in words]
    fewest = 40 if "--config.data.name=cifar100" in words else 30  # one a class at least
    words = [re.sub(r"(data\.subset)=\d+$", rf"\1={fewest}", word) for word in words]
    if any(word.startswith("--sweep=") for word in words) and not any(word.startswith("--seeds=") for word in words):
        words.append("--seeds=1")
    words = [re.sub(r"^--expect_top1=.*", "--expect_top1=0", word) for word in words]
    if "--config.data.name=fashion_mnist" in words:
        words.append("--config.data.dir=fashion")
    if any(word.startswith(("--config=", "--sweep=")) for word in words):
        words += SYNTHETIC
    return words


def _smoke(match: re.Match) -> str:
    return f"{match[1]}:{match[3]}{',' if match[3] else ''}smoke"


def run_page(lines: list[str], folder: Path) -> str:
    """Run commands of launch/ in order. Returns what they printed up to the first that failed, "" if none failed."""
    for name in ("launch", "configs"):
        (folder / name).symlink_to(ROOT / name)
    process = FORKS.Process(target=_work, args=(lines, str(folder)))
    process.start()
    process.join()
    output = (folder / "output.txt").read_text()[-4000:]
    return "" if process.exitcode == 0 else f"{output}\nexit code {process.exitcode}"


def _work(lines: list[str], folder: str) -> None:
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    with pytest.MonkeyPatch.context() as patch, sharing():
        for name in models.MODELS:
            patch.setitem(models.MODELS, name, NETWORKS.get(name, tiny.TinyNet))
        patch.setattr(environment, "prepare", lambda: None)  # as tests.conftest has prepared it
        patch.setattr(sweep_jobs, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": RunHere}))
        patch.setattr(report, "_png", lambda figure: b"\x89PNG, not drawn")
        _write_inputs(Path(folder), " ".join(lines))
        for line in lines:
            print(line, flush=True)
            words = small(line)
            print("as", *words, flush=True)
            if code := run_here(words):
                sys.exit(code)
            for word in words if "--dry_run" not in words else ():
                name, _, value = word.partition("=")
                assert name not in ("--workdir", "--out") or os.path.exists(value), word


def run_here(words: list[str]) -> int:
    """A script of launch/ in this process. Returns its exit code."""
    with no_flags():
        sys.argv[:] = words
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as e:
            return e.code or 0
    return 0


class RunHere:
    """What a sweep starts in a process of its own, in this one: what was compiled for one run serves the others."""

    def __init__(self, command: list[str], *, stdout, **_):
        self.code = run_here(command[1:])

    def poll(self) -> int:
        return self.code


@contextmanager
def no_flags():
    """While inside, a script may define its flags, whatever another one has defined."""
    defined = flags.FLAGS._flags()
    before, arguments = dict(defined), list(sys.argv)
    for name in set(defined) - PLAIN:
        del defined[name]
    try:
        yield
    finally:
        defined.clear()
        defined.update(before)
        sys.argv[:] = arguments


PLAIN = set(flags.FLAGS._flags())  # absl's


def _write_inputs(folder: Path, text: str) -> None:
    """Data sets, a recipe of one's own, and the weights that a text names."""
    rng = np.random.default_rng(0)
    (folder / "fashion").mkdir()
    for split, n in (("train", SIZES["train"]), ("t10k", SIZES["test"])):
        images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / "fashion" / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    cifar = folder / "runs" / "pairs" / "cifar-100-python"
    cifar.mkdir(parents=True)
    for name in ("train", "test"):
        pixels, labels = cifar_batch(rng, SIZES[name], 100)
        (cifar / name).write_bytes(pickle.dumps({b"data": pixels, b"fine_labels": labels}, protocol=2))
    fill(folder / "DIR", rng, {"images": SIZES["train"]})
    fill(folder / "data" / "clipart", rng, {name: SIZES["train"] // 2 for name in "abc"})
    drawings = data.load(f"folder:{folder / 'data' / 'clipart'}")
    tables = {"logits": drawings.train, "test_logits": drawings.test}
    np.savez(folder / "runs" / "clipart.npz", **{name: np.eye(3)[part.labels] for name, part in tables.items()})
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own.md").read_text(), re.S)
    last = next(i for i, block in enumerate(blocks) if "def get_config" in block)
    (folder / "mine").mkdir()
    (folder / "mine" / "config.py").write_text("\n".join(blocks[: last + 1]))
    for path, name in WEIGHTS.items():
        if path not in text:
            continue
        model = models.create(name, SIZES["classes"])
        variables = jax.jit(partial(models.init, model))(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
        (folder / path).parent.mkdir(exist_ok=True)
        models.save_torch(str(folder / path), model, variables)
