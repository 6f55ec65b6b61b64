"""The mesh, the shardings, and the only jit of the project.

scope "global": one program over all devices. The batch is split along the axis "data", everything
else is replicated, and XLA makes what is over the batch (BatchNorm, SKD's attention, and losses about
the batch: SP, CC, RKD, PKT, DIST) global.
scope "device": every device runs the step on its part of the batch (shard_map), with statistics,
attention and such losses of its own, as the papers' one-GPU batches; gradients and running statistics
are averaged.
On one device the two are the same.
"""

import jax
import numpy as np
from jax import export as jax_export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_jax.typing import InputError, PyTree


class Layout:
    """Where things live on the devices, and programs compiled for that."""

    def __init__(self, mesh: tuple[int, ...] = (), scope: str = "global"):
        """mesh: () for all devices, or (n,) for the first n. scope: "global" or "device"."""
        devices = jax.devices()
        count = mesh[0] if mesh else len(devices)
        if count > len(devices):
            raise InputError(f"config.parallel.mesh: {mesh} asks for {count} devices, there are {len(devices)}")
        # Auto: make_mesh's default, Explicit, refuses some gradients
        self.mesh: Mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])
        self.count, self.scope = count, scope
        self._shardings = {
            "r": NamedSharding(self.mesh, PartitionSpec()),
            "b": NamedSharding(self.mesh, PartitionSpec("data")),
        }

    def put(self, tree: PyTree, where: str = "r") -> PyTree:
        """Place a tree on the devices: "r" replicated, "b" split along its first axis. Of several processes all
        bring the same tree."""
        sharding = self._shardings[where]
        if sharding.is_fully_addressable:
            return jax.device_put(tree, sharding)
        return jax.tree.map(lambda x: _spread(x, sharding), tree)

    def whole(self, tree: PyTree) -> PyTree:
        """What is split over the devices, as numpy arrays."""
        if not self._shardings["b"].is_fully_addressable:
            tree = self.jit(lambda tree: tree, ins="b", outs="r")(tree)
        return jax.tree.map(np.asarray, tree)

    def like(self, shapes: PyTree) -> PyTree:
        """Shapes with the replicated sharding, for a restore."""
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self._shardings["r"]), shapes)

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step has to average by itself: only in scope "device"."""
        return "data" if self.scope == "device" else None

    def jit(self, function, *, ins: str, outs: str, donate: tuple[int, ...] = ()):
        """Compile. ins and outs: one letter an argument and a result, "r" or "b"."""
        outs = tuple(self._shardings[letter] for letter in outs)
        return jax.jit(
            function,
            in_shardings=tuple(self._shardings[letter] for letter in ins),
            out_shardings=outs if len(outs) > 1 else outs[0],
            donate_argnums=donate,
        )

    def jit_step(self, function, *, ins: str, outs: str, donate: tuple[int, ...] = ()):
        """Compile a training step, in which examples may mix: as `jit`, or a program a device."""
        if self.scope == "device":
            specs = [tuple(self._shardings[letter].spec for letter in letters) for letters in (ins, outs)]
            # check_vma=True would sum the gradients of replicated parameters before our own mean
            mapped = {"in_specs": specs[0], "out_specs": specs[1] if len(outs) > 1 else specs[1][0], "check_vma": False}
            function = jax.shard_map(function, mesh=self.mesh, **mapped)
        return self.jit(function, ins=ins, outs=outs, donate=donate)


def _spread(x, sharding: NamedSharding) -> jax.Array:
    """An array over the devices of all processes, of which each places its own part."""
    if jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
        made = _spread(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(made, impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def portable(function, shape: tuple[int, ...]) -> bytes:
    """`function` of float32 batches (any size, *shape) as serialised StableHLO for CPU, GPU and TPU; read
    back by jax.export.deserialize(...).call."""
    batch = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("batch"), *shape), jax.numpy.float32)
    return jax_export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(batch).serialize()
