"""What the trace of a phase's step shows that the user should hear of."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from flax import linen as nn

from kd_jax import config


@contextmanager
def single_value_norms() -> Iterator[list[str]]:
    """While a training step is traced within it: which batch normalizations have a single value a channel.

    Such a layer's mean is that value and its variance 0, so that its output is its bias, whatever the image. The
    layers see the rows that they will see in the run: a device's with `parallel.scope=device`, a part's with
    `accumulate`. Layers in eval mode are left out. A trace that jax has in its cache shows nothing.

    Yields:
      A list that fills with the layers' names ("layer3.0.bn1"), each once; those of the network and of its method.
    """
    names = []

    def intercept(call, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.BatchNorm) and context.method_name == "__call__" and args:
            fixed = nn.merge_param("use_running_average", module.use_running_average, kwargs.get("use_running_average"))
            name = ".".join(module.path) or type(module).__name__
            if not fixed and _values_a_channel(module, args[0].shape) == 1 and name not in names:
                names.append(name)
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield names


def _values_a_channel(module: nn.BatchNorm, shape: tuple[int, ...]) -> int:
    """Of how many values such a layer takes the mean, for an input of that shape."""
    axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
    return math.prod(shape) // math.prod(shape[axis] for axis in axes)


def single_value_warning(phase: config.Phase, names: list[str]) -> str | None:
    """One line on what `single_value_norms` yielded; None where that is nothing.

    Args:
      phase: whose step was traced.
      names: of the layers.
    """
    if not names:
        return None
    layers = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
    return (
        f"warning: {phase.name}: batch normalization over a single value a channel in {layers}: what it returns does "
        f"not depend on the image; raise config.{phase.name}.batch_size ({phase.batch_size}), lower "
        f"config.{phase.name}.accumulate ({phase.accumulate}), or take fewer devices or config.parallel.scope=global"
    )
