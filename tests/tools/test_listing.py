"""What launch/list.py prints, and that the multiply-adds in it are counted right."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from kd_jax import InputError, data, methods, models, recipes
from kd_jax.models.base import multiply_adds
from kd_jax.tools import config_file, listing
from kd_jax.typing import Outputs
from tests.conftest import ROOT

COLUMNS = 140


def command(*args, cwd=ROOT):
    """With no device to be had: a listing asks for none."""
    env = {**os.environ, "JAX_PLATFORMS": "no_such_platform"}
    script = [sys.executable, str(ROOT / "launch" / "list.py"), *args]
    return subprocess.run(script, capture_output=True, text=True, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def printed():
    """Part -> its lines."""
    done = command()
    assert done.returncode == 0 and done.stderr == "", done.stderr[-3000:]
    assert max(map(len, done.stdout.splitlines())) <= COLUMNS
    parts = [done.stdout[done.stdout.index(f"{name}: ") :].split("\n\n")[1] for name in PARTS]
    return {name: part.splitlines() for name, part in zip(PARTS, parts, strict=True)}


PARTS = ("models", "methods", "configs", "data")


def names(lines):
    """The first column, the head left out."""
    return [line.split()[0] for line in lines[1:] if not line.startswith(" ")]


def test_every_name_appears(printed):
    assert names(printed["models"]) == list(models.MODELS)
    assert names(printed["methods"]) == [*methods.REFINERS, *methods.CRITERIA]
    files = sorted(p for p in (ROOT / "configs").glob("*.py") if "def get_config" in p.read_text())
    takes = {p.name: "TEACHER,STUDENT" for p in files} | {"compose.py": "METHODS,TEACHER,STUDENT"}
    takes |= {"ema_teacher.py": "STUDENT", "unlabelled.py": "STUDENT", "multi_teacher.py": "TEACHER+TEACHER,STUDENT"}
    assert names(printed["configs"]) == [f"configs/{name}:{takes[name]}" for name in takes]
    said = [line.partition("  ")[0].split(", ") for line in printed["data"][1:]]
    assert sum(said, []) == [*data.SOURCES, "folder:DIR", "tfds:NAME"]


def test_models(printed):
    row = {line.split()[0]: line.split()[1:] for line in printed["models"]}
    stages = ["32x32x32", "32x32x64", "16x16x128", "8x8x256"]
    assert row["resnet8x4"] == ["1,233,540", "177,071,104", "256", "yes", *stages]
    assert row["MobileNetV2"][2:] == ["1280", "no", "16x16x16", "16x16x12", "8x8x16", "4x4x48", "2x2x160"]


def test_other_classes_and_images(monkeypatch):
    monkeypatch.setattr(models, "MODELS", {"resnet8": models.MODELS["resnet8"]})
    title, _, _, row = listing.list_models(10, 8).splitlines()
    assert title == "models: 10 classes, one image of 8x8x3"
    cost = f"{resnet(8, (16, 16, 32, 64), size=8, classes=10):,}"
    assert row.split() == ["resnet8", "78,042", cost, "64", "yes", "8x8x16", "8x8x16", "4x4x32", "2x2x64"]


def test_methods(printed):
    text = " ".join(" ".join(printed["methods"]).split())
    for kind, make in {**methods.REFINERS, **methods.CRITERIA}.items():
        for keyword, value in recipes.member(kind).items():
            said = f" {keyword}=" + ("''" if value == "" else str(value))
            assert said in text or keyword == "kind", (kind, keyword)
        assert ("Reference" not in make.__doc__) or listing.reference(make.__doc__)[:40] in text
    row = {line.split()[0]: line.split()[1:] for line in printed["methods"][1:] if not line.startswith(" ")}
    assert row["skd"][:2] == ["refiner", "match"] and row["ce"][:2] == ["criterion", "labels"]
    assert 'Neural Network", 2015, arXiv 1503.02531.' in text and "Differs" not in text and "Raises" not in text


def test_configs(printed, monkeypatch):
    monkeypatch.chdir(ROOT)
    spelled, text = names(printed["configs"]), " ".join(" ".join(printed["configs"]).split())
    for one in spelled:
        config_dict = config_file.load(one.partition(":")[0])
        phases = ", ".join(f"{name}={config_dict[name].model}" for name in config_dict.phases)
        said = text[text.index(one) :].partition("phases: ")[2]
        assert said == phases or said.startswith(f"{phases} configs/")
        for word, example in (("TEACHER", "wrn_16_1"), ("STUDENT", "resnet14"), ("METHODS", "sokd+dkd")):
            one = one.replace(word, example)
        config_dict = config_file.load(one)
        assert {config_dict[name].model for name in config_dict.phases} <= {
            "wrn_16_1",
            "resnet14",
            "graft:resnet14+wrn_16_1",
        }
        assert "resnet14" in config_dict.student.model if "student" in config_dict.phases else "wrn_16_1" in one


def test_a_config_of_ones_own(tmp_path):
    (tmp_path / "a.py").write_text('"""Mine. Not shown.\n\nNor this."""\nfrom configs.kd import get_config\n')
    (tmp_path / "helper.py").write_text("x = 1\n")
    said = listing.list_configs(tmp_path)
    assert "a.py:TEACHER,STUDENT  Mine.\n" in said and "shown" not in said and "helper" not in said
    (tmp_path / "b.py").write_text("def get_config(arg=''):\n    return 1 / 0\n")
    with pytest.raises(InputError, match=r"b.py: ZeroDivisionError: division by zero"):
        listing.list_configs(tmp_path)


def test_one_part_from_anywhere(tmp_path):
    done = command("--only=configs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("configs: ") and not any(f"\n{name}: " in done.stdout for name in PARTS)
    spelled = next(line.split(":")[0] for line in done.stdout.splitlines() if "/skd.py" in line)
    assert (tmp_path / spelled).resolve() == ROOT / "configs" / "skd.py"  # as typed there


@pytest.mark.parametrize(
    "flag, message",
    {
        "--only=modles": "--only=modles: not a part; did you mean models? known: models, methods, configs, data, comb",
        "--only=x": "--only=x: not a part; known: models, methods, configs, data, combinations",
        "--image_size=0": "--image_size",
        "--num_classes=0": "--num_classes",
    }.items(),
)
def test_wrong_input_is_one_line_and_exit_2(flag, message):
    done = command(flag)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_texts():
    assert (
        listing.first_sentence("One of\n  two (Ng et al. 2015): T = 4. Two.\n\nThree.")
        == "One of two (Ng et al. 2015): T = 4."
    )
    assert listing.first_sentence("Uses `match`. More.") == "Uses `match`." and listing.first_sentence(None) == ""
    assert listing.reference("X.\n\nReference: A, B,\n  2015.\nDiffers: C.") == "A, B, 2015."
    assert listing.reference("X.") == ""
    text = listing.table(("n", "size", "what"), [("ab", "1", "x\ny"), ("c", "1,000", "")], right=(1,))
    assert text == "n    size  what\nab      1  x\n           y\nc   1,000"


class Tiny(nn.Module):
    """Plain, grouped, depthwise and a classifier; 8 x 8 x 3 in."""

    @nn.compact
    def __call__(self, x, train=False, after=-1):
        x = nn.relu(nn.Conv(8, (3, 3), padding=1)(x))
        x = nn.remat(nn.Conv)(16, (3, 3), (2, 2), padding=1, feature_group_count=4)(x)
        x = nn.jit(nn.Conv)(16, (3, 1), padding="VALID", feature_group_count=16)(x)
        pooled = x.mean((1, 2))
        return Outputs((x,), None, pooled, nn.Dense(5)(pooled))


def test_a_count_by_hand():
    plain = 8 * 8 * 8 * (3 * 3 * 3)
    grouped = 4 * 4 * 16 * (3 * 3 * 2)
    depthwise = 2 * 4 * 16 * (3 * 1 * 1)
    assert models.count_multiply_adds(Tiny(), (8, 8, 3)) == plain + grouped + depthwise + 16 * 5


def test_products_and_calls():
    a, b = jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5))

    def count(f, *args):
        return multiply_adds(jax.make_jaxpr(f)(*args))

    batched = 2 * 3 * 4 * 5
    assert count(lambda a, b: a @ b, a, b) == batched
    assert count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b).sum(), a, b) == batched
    assert count(lambda a, b: jnp.tensordot(a, b, ((0, 2), (0, 1))), a, b) == 3 * 5 * 2 * 4
    assert count(jax.jit(jax.checkpoint(lambda a, b: a @ b)), a, b) == batched
    square = jnp.zeros((3, 3))
    assert count(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=7)[0], square) == 7 * 27
    choose = [lambda x: x @ x, lambda x: x @ x @ x]
    assert count(lambda i, x: jax.lax.switch(i, choose, x), 0, square) == 3 * 27


def resnet(depth, widths, size=32, classes=100):
    """The published architecture: 6 n + 2 layers, projections where the width changes."""
    n = (depth - 2) // 6
    total = size**2 * 9 * 3 * widths[0] + widths[-1] * classes
    for i in (1, 2, 3):
        here, before, width = (size // 2 ** (i - 1)) ** 2, widths[i - 1], widths[i]
        first = 9 * before * width + (before * width if before != width else 0)
        total += here * (first + (2 * n - 1) * 9 * width**2)
    return total


@pytest.mark.parametrize("name, depth, wide", [("resnet20", 20, 1), ("resnet8x4", 8, 4), ("resnet32x4", 32, 4)])
def test_resnets_by_formula(name, depth, wide):
    widths = (16, 16, 32, 64) if wide == 1 else (32, 64, 128, 256)
    assert models.count_multiply_adds(models.create(name, 100), (32, 32, 3)) == resnet(depth, widths)


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2", "ResNet50"])
def test_against_kernels_and_maps(name):
    """Every value of a kernel is used once at each place of the layer's output."""
    model = models.create(name, 100)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    def layers(key, image):
        variables = model.init(key, image)
        options = {
            "mutable": ["intermediates"],
            "capture_intermediates": lambda m, _: isinstance(m, nn.Conv | nn.Dense),
        }
        return variables["params"], model.apply(variables, image, **options)[1]["intermediates"]

    params, outputs = jax.eval_shape(layers, jax.random.key(0), image)
    maps = {path[:-1]: out[0].shape[1:-1] for path, out in flatten_dict(outputs).items()}
    kernels = {path[:-1]: leaf.size for path, leaf in flatten_dict(params).items() if path[-1] == "kernel"}
    assert maps.keys() == kernels.keys()
    slow = sum(size * (maps[path][0] ** 2 if maps[path] else 1) for path, size in kernels.items())
    assert models.count_multiply_adds(model, (32, 32, 3)) == slow
