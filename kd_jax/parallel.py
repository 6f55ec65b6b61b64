"""The mesh, the shardings, and the only jit of the project.

scope "global": one program over all devices. The batch is split along the axis "data", everything
else is replicated, and XLA makes statistics over the batch (BatchNorm, SKD's attention) global.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_jax.typing import InputError, PyTree


class Layout:
    """Where things live on the devices, and programs compiled for that."""

    def __init__(self, mesh: tuple[int, ...] = ()):
        """mesh: () for all devices, or (n,) for the first n."""
        devices = jax.devices()
        count = mesh[0] if mesh else len(devices)
        if count > len(devices):
            raise InputError(f"config.parallel.mesh: {mesh} asks for {count} devices, there are {len(devices)}")
        # Auto: make_mesh's default, Explicit, refuses some gradients
        self.mesh: Mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:count])
        self.count = count
        self._shardings = {
            "r": NamedSharding(self.mesh, PartitionSpec()),
            "b": NamedSharding(self.mesh, PartitionSpec("data")),
        }

    def put(self, tree: PyTree, where: str = "r") -> PyTree:
        """Place a tree on the devices: "r" replicated, "b" split along its first axis."""
        return jax.device_put(tree, self._shardings[where])

    def like(self, shapes: PyTree) -> PyTree:
        """Shapes with the replicated sharding, for a restore."""
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self._shardings["r"]), shapes)

    def jit(self, function, *, ins: str, outs: str, donate: tuple[int, ...] = ()):
        """Compile. ins and outs: one letter an argument and a result, "r" or "b"."""
        outs = tuple(self._shardings[letter] for letter in outs)
        return jax.jit(
            function,
            in_shardings=tuple(self._shardings[letter] for letter in ins),
            out_shardings=outs if len(outs) > 1 else outs[0],
            donate_argnums=donate,
        )
