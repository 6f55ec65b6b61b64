"""Shared, tiny, and built once a session. Compiled programs are kept between sessions."""

import gc
import os
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The programs are the same; XLA takes half the time over them. `make test-all` keeps XLA's own emitters.
QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if metadata.version("jaxlib").startswith("0.10."):  # later ones end at a flag that they do not have
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from kd_jax.tools import environment, kernel_library  # noqa: E402

# as the commands do: the tests' process and its children compute alike
kernel_library.choose()
environment.collect_less()

from kd_jax import InitContext, Match, Outputs, View, models, recipes  # noqa: E402
from tests import tiny  # noqa: E402
from tests.shared_programs import sharing  # noqa: E402

settings.register_profile("kd_jax", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("kd_jax")

TINY = {"widths": (4, 4, 8, 16)}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def nets():
    """A teacher and a student, their variables, and a batch they fit."""
    teacher, student = tiny.TinyNet(widths=(8, 16)), tiny.TinyNet(widths=(4, 8))
    image = jax.random.normal(jax.random.key(3), (8, 8, 8, 3))
    init = jax.jit(models.init, static_argnums=0)
    variables = [init(m, jax.random.key(i), image) for i, m in enumerate((teacher, student))]
    batch = {"image": image, "label": jnp.arange(8) % 10}
    return {"teacher": teacher, "student": student, "tv": variables[0], "sv": variables[1], "batch": batch}


@pytest.fixture(scope="module")
def tiny_resnet8():
    """For tests about running: resnet8 is a network of two convolutions, in this process."""
    with tiny.in_place():
        yield


@pytest.fixture(scope="module")
def simple_operations():
    """For tests about a search, and not about what it searches among."""
    with tiny.simple_operations():
        yield


@pytest.fixture(scope="module")
def programs():
    """For a module whose runs are much alike: what they compile is compiled once."""
    with sharing() as shared:
        yield shared


@pytest.fixture
def shared_programs(programs, request):
    """`programs`, in all tests but those that patch what a program may be made of."""
    programs.active = "monkeypatch" not in request.fixturenames
    yield
    programs.active = True


@pytest.fixture(scope="session", autouse=True)
def no_pictures():
    """Runs lay out their pictures but do not draw them, which takes a quarter of a tiny run; test_report.py does."""
    from kd_jax.train import report

    draw = report._png
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_png", lambda figure: b"\x89PNG, not drawn")
        yield draw


@pytest.fixture
def quiet_orbax(monkeypatch):
    """Orbax's failed reads leave coroutines that complain when they are collected: let them do it here."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    gc.collect()


def make_view(student, teacher, labels=None, step=0):
    """A view of bare logits."""
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    outputs = [Outputs((), None, None, z) for z in (student, teacher)]
    labels = jnp.zeros(len(student), jnp.int32) if labels is None else jnp.asarray(labels)
    return View(None, outputs[0], (outputs[1],), Match(student, teacher), labels, None, jnp.int32(step))


def make_init_context(num_classes=10, batch=8):
    z = jnp.zeros((batch, num_classes))
    return InitContext(make_view(z, z), num_classes)


def shrunk(config, **changes) -> dict:
    """A smoke configuration on 8 x 8 images and five classes; `a__b=1` changes config.a.b."""
    config.data.synthetic.size, config.data.synthetic.classes = 8, 5
    config.data.synthetic.train, config.data.synthetic.test = 40, 13
    if "init" in changes:
        changes["student__init__student"] = changes.pop("init")
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        at = config
        for name in path:
            at = at[name]
        with at.unlocked():
            at[last] = value
    return config.to_dict()


def tree(**changes) -> dict:
    """A recipe that trains in a second: two phases of resnet8 on 8 x 8 synthetic images."""
    from configs import skd

    return shrunk(skd.get_config("resnet8,resnet8,smoke"), **changes)


__all__ = ["ROOT", "TINY", "make_init_context", "make_view", "recipes", "shrunk", "tree"]
