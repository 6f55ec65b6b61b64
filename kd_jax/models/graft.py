"""SimKD's network: a student whose last map, projected, is read by a teacher's classifier.

Spelled `graft:STUDENT+TEACHER` where a model's name is asked for.

Reference: Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", 2022,
arXiv 2203.14001.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.basic import conv, head, norm, torch_default
from kd_jax.losses.common import pool_to
from kd_jax.models.base import DISTILL_HEAD, Net
from kd_jax.models.vit import VisionTransformer
from kd_jax.typing import Array, InputError, Outputs, Variables

PREFIX, JOINT = "graft:", "+"
HEAD = "teacher_head"


class Head(nn.Module):
    """A linear layer of zeros that is stored among the statistics, so that no optimiser changes it."""

    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.variable("batch_stats", "kernel", jnp.zeros, (x.shape[-1], self.num_classes))
        return x @ kernel.value + self.variable("batch_stats", "bias", jnp.zeros, self.num_classes).value


class Graft(Net):
    """The student up to its last stage, a projector to the width of the teacher's, pool, the teacher's classifier.

    The projector is a 1x1 convolution to a part of the teacher's width, a 3x3 one, and a 1x1 one to the whole width,
    each with BatchNorm and ReLU. Before it, average pooling shrinks the student's map along each axis on which it is
    larger than the teacher's. `stages` are the student's, then the projected map; `preacts` likewise, or None where the
    student has none. The student's variables are all kept under "student", although the layers behind its last stage
    are not used. The classifier is no parameter: its {"kernel", "bias"} are among the statistics under "teacher_head".
    They are zeros until `with_head` puts the teacher's there.

    student, teacher: networks; only the shape of the teacher's last map is used. factor: divides the teacher's width
    to give the width of the inner maps. num_classes: K.

    Differs: as in the published code, the projector takes the last stage even of a student whose classifier reads
    another map that is computed from it (MobileNetV2, ShuffleV2, wide residual networks). Where the input is a map
    (B, H, W, C), the image is assumed to be larger by a power of two.
    """

    student: nn.Module
    teacher: nn.Module
    factor: int = 2
    num_classes: int = 100

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        student = _free(self.student)
        student_shapes, stages = _outputs(student), ()
        preacts = None if student_shapes.preacts is None else ()
        if after < len(student_shapes.stages):
            outputs = self.student(x, train=train, after=after)
            height, width, channels = last_map(_free(self.teacher), _image(student, x.shape[1:], after))
            last = outputs.stages[-1] if outputs.stages else x
            last = pool_to(last, (min(last.shape[1], height), min(last.shape[2], width)))
            preact = self._project(last, channels, train)
            x = nn.relu(preact)
            stages, preacts = (*outputs.stages, x), None if preacts is None else (*outputs.preacts, preact)
        return Outputs(stages, preacts, *head(x, Head(self.num_classes, name=HEAD)))

    def _project(self, x: Array, width: int, train: bool) -> Array:
        """The projector without its last ReLU; its layers are named as in the published code."""
        inner = width // self.factor
        for i, (channels, size) in enumerate(((inner, 1), (inner, 3), (width, 1))):
            layer = conv(channels, size, kernel_init=torch_default, name=f"transfer.{3 * i}")
            x = norm(f"transfer.{3 * i + 1}", train)(layer(nn.relu(x) if i else x))
        return x


def last_map(model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3)) -> tuple[int, int, int]:
    """(H, W, C) of the map whose mean a network's classifier reads: its last stage, behind the ReLU.

    Raises:
      InputError: the classifier reads a map that is none of the stages.
    """
    out = _outputs(model, image_shape)
    if not out.ends_in_a_stage:
        raise InputError(f"graft: a {type(model).__name__} cannot be the teacher: its classifier reads no stage of it")
    return out.stages[-1].shape[1:]


def _free(model: nn.Module) -> nn.Module:
    """A copy of a network that belongs to no other module."""
    return model.clone(parent=None, name=None)


@lru_cache(maxsize=64)
def _outputs(model: nn.Module, image_shape: tuple[int, ...] = (32, 32, 3)) -> Outputs:
    """Shapes of what a network returns for one image (H, W, C)."""
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], image)


def _image(model: nn.Module, shape: tuple[int, ...], after: int) -> tuple[int, ...]:
    """(H, W, C) of an image from which a network computes this stage."""
    if after < 0:
        return shape
    rows, columns, _ = shape
    for times in (32, 16, 8, 4, 2, 1):
        image = (rows * times, columns * times, 3)
        if _outputs(model, image).stages[after].shape[1:] == shape:
            return image
    raise ValueError(f"graft: stage {after} of a {type(model).__name__} is never {'x'.join(map(str, shape))}")


def head_of(variables: Variables) -> dict[str, Array]:
    """A network's classifier, {"kernel" (D, K), "bias" (K,)}; of two tokens the class token's.

    Raises:
      InputError: not exactly one linear layer stands at the top of its parameters.
    """
    if HEAD in variables.stats:
        return dict(variables.stats[HEAD])
    layers = [v for name, v in variables.params.items() if isinstance(v, Mapping) and name != DISTILL_HEAD]
    classifiers = [v for v in layers if len(getattr(v.get("kernel"), "shape", ())) == 2]
    if len(classifiers) != 1:
        raise InputError(f"a network with one classifier wanted, these variables have {len(classifiers)}")
    return {name: classifiers[0][name] for name in ("kernel", "bias")}


def with_head(variables: Variables, classifier: dict[str, Array]) -> Variables:
    """The variables of a graft with a teacher's classifier among them.

    Raises:
      InputError: variables of no graft, or a classifier of another shape.
    """
    wanted, given = ({k: v.shape for k, v in tree.items()} for tree in (variables.stats.get(HEAD, {}), classifier))
    if wanted != given:
        raise InputError(f"graft: a classifier of shapes {wanted or 'none'} wanted, got {given}")
    return variables._replace(stats={**variables.stats, HEAD: classifier})


def parse(name: str) -> tuple[str, str] | None:
    """Names of the student and the teacher in "graft:STUDENT+TEACHER" (letter case does not matter); None for the
    name of another network.

    Raises:
      InputError: a graft of anything but two networks.
    """
    if not name.lower().startswith(PREFIX):
        return None
    names = tuple(part.strip() for part in name[len(PREFIX) :].split(JOINT))
    if len(names) != 2 or not all(names) or any(part.lower().startswith(PREFIX) for part in names):
        raise InputError(f"model {name!r}: a graft is spelled {PREFIX}STUDENT{JOINT}TEACHER, of two networks")
    return names


def create_graft(name: str, num_classes: int, create: Callable[..., nn.Module], *, factor: int = 2) -> Graft:
    """The network "graft:STUDENT+TEACHER" with `num_classes` outputs.

    Args:
      name: as `parse` takes it.
      num_classes: K.
      create: (name, num_classes) -> network, for the two.
      factor: from 1 to the teacher's width.

    Raises:
      InputError: a name of no graft, an unknown network, a student with tokens, a teacher whose classifier reads none
        of its stages, a factor out of range.
    """
    names = parse(name)
    if names is None:
        raise InputError(f"model {name!r}: a graft is spelled {PREFIX}STUDENT{JOINT}TEACHER, of two networks")
    student, teacher = (create(part, num_classes) for part in names)
    if isinstance(student, VisionTransformer):
        raise InputError(f"model {name!r}: {names[0]} has tokens; a graft needs a student with feature maps")
    try:
        width = last_map(teacher)[-1]
    except InputError as e:
        raise InputError(f"model {name!r}: {e}") from e
    if not 1 <= factor <= width:
        raise InputError(f"model {name!r}: factor must be from 1 to the teacher's width {width}, got {factor}")
    return Graft(student, teacher, factor, num_classes)
