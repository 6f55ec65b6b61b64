"""A function as a network: found by name, called with its parameters or without, refused in one line."""

import sys
from pathlib import Path
from textwrap import dedent

import jax
import numpy as np
import pytest

from kd_jax import InputError, models
from kd_jax.interop import python_function
from kd_jax.models.network import Network
from kd_jax.plan import teachers

SHAPE, CLASSES, BATCH = (8, 8, 3), 5, 4
IMAGES = jax.random.uniform(jax.random.key(0), (BATCH, *SHAPE))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes the module `mine` into the current directory; it is imported anew after each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text, name="mine"):
        (tmp_path / f"{name}.py").write_text("import jax\nimport jax.numpy as jnp\n" + dedent(text))
        sys.modules.pop(name, None)

    yield write
    sys.modules.pop("mine", None)


def read(where="mine:teacher"):
    return python_function.read(where, num_classes=CLASSES, image_shape=SHAPE, batch_size=BATCH)


def outputs(function):
    return jax.jit(models.apply, static_argnums=0)(function.model, function.loaded.variables, IMAGES)[0]


LINEAR = """
    def teacher(num_classes, image_shape):
        weights = jnp.full((image_shape[-1], num_classes), 0.5)
        def logits(params, images):
            return images.mean((1, 2)) @ params["weights"]
        logits.params = {"weights": weights}
        return logits

    def closed(num_classes, image_shape):
        logits = teacher(num_classes, image_shape)
        return lambda images: logits(logits.params, images)
"""


def test_parameters_that_are_offered_are_variables(write):
    path = list(sys.path)
    write(LINEAR)
    offered, closed = read(), read("mine:closed")
    assert sys.path == path
    assert jax.tree.map(np.shape, offered.loaded.variables.params) == {"['weights']": (3, 5)}
    assert closed.loaded.variables.params == {} and (offered.closed_over, closed.closed_over) == (0, 60)
    for function in (offered, closed):
        np.testing.assert_allclose(outputs(function).logits, IMAGES.mean((1, 2)) @ np.full((3, 5), 0.5), rtol=1e-6)
    zeros = jax.tree.map(np.zeros_like, offered.loaded.variables)
    assert not models.apply(offered.model, zeros, IMAGES)[0].logits.any()  # they are what the function reads
    variables, shapes = models.shapes(offered.model, SHAPE, batch=7)
    assert shapes.logits.shape == (7, 5) and variables.params["['weights']"].shape == (3, 5)


def test_the_digest_is_of_source_name_parameters_and_constants(write):
    """What the function loads from elsewhere counts, whether it offers it or not."""
    write(LINEAR)
    digests = [read(where).loaded.digest for where in ("mine:teacher", "mine:teacher", "mine:closed")]
    write(LINEAR + "    # another source\n")
    digests.append(read().loaded.digest)
    for value in ("0.5", "0.25"):
        Path("weights.txt").write_text(value)
        write(LINEAR.replace("0.5", "float(open('weights.txt').read())"))
        digests += [read().loaded.digest, read("mine:closed").loaded.digest]
    assert digests[0] == digests[1] and len(set(digests[1:])) == len(digests) - 1


def test_large_constants_are_worth_a_note(write):
    write("""
        def teacher(num_classes, image_shape):
            weights = jnp.zeros((400_000, num_classes))
            run = lambda weights, images: images.mean((1, 2)) @ weights[:3]
            run.params = weights
            return run

        def closed(num_classes, image_shape):
            run = teacher(num_classes, image_shape)
            return lambda images: run(run.params, images)
    """)
    like = Network("", None, CLASSES, SHAPE, (), ())
    notes = [teachers.from_python(f"mine:{name}", like, BATCH).note for name in ("teacher", "closed")]
    assert notes == ["", "closes over 8 MB, constants of the program; offered as its `params` they are arguments"]


def test_nnx(write):
    """A network with BatchNorm and Dropout, whose state holds random keys; as parameters or as it is."""
    write("""
        from flax import nnx

        class Net(nnx.Module):
            def __init__(self, channels, classes, rngs):
                self.conv = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
                self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
                self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
                self.head = nnx.Linear(4, classes, rngs=rngs)

            def __call__(self, images):
                stage = nnx.relu(self.norm(self.conv(images)))
                pooled = self.drop(stage.mean((1, 2)))
                return {"logits": self.head(pooled), "pooled": pooled, "stages": [stage]}

        def closed(num_classes, image_shape):
            return Net(image_shape[-1], num_classes, nnx.Rngs(0))

        def teacher(num_classes, image_shape):
            graph, params = nnx.split(closed(num_classes, image_shape))
            run = lambda params, images: nnx.merge(graph, params)(images)
            run.params = params
            return run
    """)
    offered, closed = read(), read("mine:closed")
    assert len(offered.loaded.variables.params) == 10 and closed.closed_over > 600
    one, other = outputs(offered), outputs(closed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, other)
    assert [x.shape for x in one.stages] == [(4, 8, 8, 4)] and one.pooled.shape == (4, 4) and one.preacts is None
    assert read().loaded.digest == offered.loaded.digest


def test_linen_inside_and_outputs(write):
    """A module that is made while the function runs, in half precision; Outputs with all they may have."""
    write("""
        from flax import linen as nn
        from kd_jax import Outputs

        def teacher(num_classes, image_shape):
            def run(images):
                kernel = jnp.ones((3, num_classes))
                x = images.astype(jnp.bfloat16)
                cam = nn.Dense(num_classes, use_bias=False).apply({"params": {"kernel": kernel}}, x)
                return Outputs((x,), (x,), x.mean((1, 2)), cam.mean((1, 2)), cam)
            return run
    """)
    function = read()
    said = outputs(function)
    assert {x.dtype for x in jax.tree.leaves(said)} == {np.dtype(np.float32)}
    assert said.cam.shape == (4, 8, 8, 5) and len(said.preacts) == 1
    shapes = models.shapes(function.model, SHAPE, BATCH)[1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), said) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)


def test_a_function_of_a_package(write, tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import no_such_library\n")
    with pytest.raises(InputError, match="^python:package.mine:teacher: import package.mine: .*No module named 'no_su"):
        read("package.mine:teacher")
    (tmp_path / "package" / "__init__.py").write_text("")
    write(LINEAR, "package/mine")
    assert read("package.mine:teacher").model.outputs.logits.shape == (BATCH, CLASSES)
    for name in ("package", "package.mine"):
        sys.modules.pop(name)


RETURNS = "def teacher(num_classes, image_shape):\n  return lambda images: "
MADE = r"teacher\(5, \(8, 8, 3\)\): "
CALLED = r"called with images \(4, 8, 8, 3\): "
WRONG = {
    "no colon": ("", "mine", "must be python:MODULE:FUNCTION"),
    "no module": ("", "mime:teacher", "import mime: no such module, neither in .* nor installed"),
    "no file": ("", "sys:path", "import sys: no source file that a digest could be made of"),
    "no function": (LINEAR, "mine:teach", "no function teach in .*mine.py; did you mean teacher"),
    "syntax": ("def", "mine:teacher", "import mine: .*mine.py, line 3: SyntaxError: invalid syntax"),
    "no import": ("import no_such_library", "mine:teacher", ".*mine.py, line 3: ModuleNotFoundError: No module named"),
    "exit": ("import sys\nsys.exit()", "mine:teacher", "import mine: .*mine.py, line 4: SystemExit: SystemExit"),
    "exit made": ("def teacher(a, b):\n  raise SystemExit(0)", "mine:teacher", MADE + ".*line 4: SystemExit: 0"),
    "no arguments": ("def teacher(): ...", "mine:teacher", MADE + ".*TypeError: teacher.. takes 0"),
    "made": ("def teacher(a, b):\n  raise OSError('no weights')", "mine:teacher", MADE + ".*line 4: OSError: no weig"),
    "nothing": ("def teacher(a, b): ...", "mine:teacher", MADE + "returns a NoneType; accepted: a function of images"),
    "raises": (RETURNS + "1 / 0", "mine:teacher", CALLED + ".*mine.py, line 4: ZeroDivisionError: division by zero"),
    "numpy": (RETURNS + "float(images[0, 0, 0, 0])", "mine:teacher", CALLED + ".*line 4: ConcretizationTypeError"),
    "classes": (
        RETURNS + "images.mean((1, 2))", "mine:teacher",
        CALLED + r"returns logits of shape \(4, 3\) .*; accepted: floating-point numbers of shape \(4, 5\)$",
    ),
    "batch": (RETURNS + "jnp.zeros((1, num_classes))", "mine:teacher", CALLED + r"returns logits of shape \(1, 5\)"),
    "integers": (RETURNS + "jnp.zeros((4, 5), int)", "mine:teacher", CALLED + ".* and type int32; accepted: floating"),
    "tuple": (RETURNS + "(images, images)", "mine:teacher", CALLED + "returns a tuple as logits; accepted: an array"),
    "no logits": (RETURNS + "{'pooled': images.mean((1, 2))}", "mine:teacher", CALLED + "returns no logits$"),
    "name": (RETURNS + "{'logit': images}", "mine:teacher", CALLED + "returns 'logit'; did you mean logits"),
    "map": (
        RETURNS + "{'logits': jnp.zeros((4, 5)), 'stages': [images[0]]}", "mine:teacher",
        CALLED + r"returns stages of shape \(8, 8, 3\) .* of shape \(4, H, W, C\)$",
    ),
    "preacts": (
        RETURNS + "{'logits': jnp.zeros((4, 5)), 'stages': [], 'preacts': [images]}", "mine:teacher",
        CALLED + "returns preacts; accepted: only with as many stages, and with pooled",
    ),
    "parameters": (
        "def teacher(a, b):\n  f = lambda p, x: x\n  f.params = {'a': [1]}\n  return f", "mine:teacher",
        MADE + r"its params\['a'\]\[0\] is a int; accepted: a tree of arrays",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_line(write, wrong):
    text, where, message = WRONG[wrong]
    write(text)
    with pytest.raises(InputError, match=f"^python:{where}: {message}") as e:
        read(where)
    assert "\n" not in str(e.value) and len(str(e.value)) < 400
