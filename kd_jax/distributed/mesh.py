"""The mesh, the shardings, and the only jit of the project.

scope "global": one program over all devices. The batch is split along the axes of the mesh, and XLA makes what is
over the batch (BatchNorm, SKD's attention, and losses about the batch: SP, CC, RKD, PKT, DIST) global.
scope "device": every device runs the step on its part of the batch (shard_map), with statistics,
attention and such losses of its own, as the papers' one-GPU batches; gradients and running statistics
are averaged.
On one device the two are the same.

The mesh has the axis "data" and, if wanted, "fsdp". Over "fsdp" parameters are split as well: those of the networks
and of the method, the optimiser's state, the average, a policy. A device then keeps 1 / F of them between steps, and
the optimiser's arithmetic is split; within a step the parameters are gathered, and their gradients summed.
Everything else is replicated.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax import export as jax_export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kd_jax.typing import WHOLE, InputError, ParamSharding, PyTree

AXES = ("data", "fsdp")
SMALL = 1024  # values; fewer are not worth a gather: biases, BatchNorm's and LayerNorm's scales, a policy


class Layout:
    """Where things live on the devices, and programs compiled for that.

    Letters say where: "r" replicated; "b" split along the first axis, over all devices, in their order; "s" as
    `split` has it. The devices stand in the order of their processes, so that of P processes each holds 1 / P of a
    batch in one piece.
    """

    def __init__(self, mesh: tuple[int, ...] = (), scope: str = "global"):
        """mesh: () for all devices, (n,) for the first n, (d, f) for d x f of them, parameters split over f.
        scope: "global" or "device"."""
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
        shape = tuple(mesh) or (len(devices),)
        self.count, self.scope, self.fsdp = math.prod(shape), scope, math.prod(shape[1:])
        if self.count > len(devices):
            raise InputError(f"config.parallel.mesh: {mesh} asks for {self.count} devices, there are {len(devices)}")
        names = AXES[: len(shape)]
        # Auto: make_mesh's default, Explicit, refuses some gradients; and make_mesh has an order of its own
        self.mesh = Mesh(np.reshape(devices[: self.count], shape), names, axis_types=(AxisType.Auto,) * len(shape))
        places = {"r": PartitionSpec(), "b": PartitionSpec(names)}
        self._shardings = {letter: NamedSharding(self.mesh, spec) for letter, spec in places.items()}
        # one function for all calls: jit compiles a new one again
        self._replicate = jax.jit(lambda tree: tree, out_shardings=self._shardings["r"])

    def split(self, tree: PyTree) -> PyTree:
        """For arrays or shapes their shardings "s": over "fsdp" along the largest axis that divides by it.

        Whole on every device stay leaves of fewer than 1,024 values, those without such an axis, and what stands
        under `stats`: BatchNorm's statistics are the same everywhere, and banks are read at random.
        """

        def one(path, leaf) -> NamedSharding:
            shape, names = np.shape(leaf), jax.tree_util.keystr(path, simple=True, separator="/").split("/")
            axes = [i for i, n in enumerate(shape) if n % self.fsdp == 0]
            if self.fsdp == 1 or not axes or math.prod(shape) < SMALL or "stats" in names:
                return self._shardings["r"]
            chosen = max(axes, key=lambda i: shape[i])
            return NamedSharding(self.mesh, PartitionSpec(*(None,) * chosen, "fsdp"))

        return jax.tree_util.tree_map_with_path(one, tree)

    @property
    def param_sharding(self) -> ParamSharding | None:
        """How a step gathers parameters and splits their gradients; None where parameters are not split."""
        return ParamSharding(self._gathered, self._split) if self.fsdp > 1 else None

    @property
    def gather(self) -> Callable[[PyTree], PyTree]:
        """What a program does with split parameters before it uses them."""
        return (self.param_sharding or WHOLE).gather

    def _gathered(self, tree: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(tree, self._shardings["r"])

    def _split(self, tree: PyTree) -> PyTree:
        return jax.lax.with_sharding_constraint(tree, self.split(tree))

    def put(self, tree: PyTree, where: str = "r") -> PyTree:
        """Place a tree on the devices. Of several processes all bring the same tree."""
        shardings = self.split(tree) if where == "s" else jax.tree.map(lambda _: self._shardings[where], tree)
        if self._shardings["b"].is_fully_addressable:
            return jax.device_put(tree, shardings)
        return jax.tree.map(_spread, tree, shardings)

    def rows(self, count: int) -> set[int]:
        """Which rows of a batch of so many the devices of this process hold."""
        parts = self._shardings["b"].addressable_devices_indices_map((count,))
        return {row for (part,) in parts.values() for row in range(count)[part]}

    def assemble(self, rows: PyTree) -> PyTree:
        """A batch "b" of which every process brings the rows that its devices hold, as many as each other one."""
        whole = jax.tree.map(lambda x: (len(x) * jax.process_count(), *x.shape[1:]), rows)
        return jax.make_array_from_process_local_data(self._shardings["b"], rows, whole)

    def whole(self, tree: PyTree) -> PyTree:
        """What lives on the devices, in whatever parts, as numpy arrays."""
        if not self._shardings["b"].is_fully_addressable:
            tree = self._replicate(tree)
        return jax.tree.map(np.asarray, tree)

    def like(self, shapes: PyTree) -> PyTree:
        """Shapes with the shardings "s", for a restore."""
        return jax.tree.map(
            lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, self.split(shapes)
        )

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step has to average by itself: only in scope "device"."""
        return "data" if self.scope == "device" else None

    def jit(self, function, *, ins, outs, donate: tuple[int, ...] = ()):
        """Compile.

        Args:
          function: of arrays, pure.
          ins: for every argument a letter, or a tree of letters and shardings; "s" takes it as it was placed.
          outs: likewise for every result, but for "s": that is spelled out by `split`.
          donate: which arguments are used up.
        """
        outs = self._resolved(outs)
        return jax.jit(
            function,
            in_shardings=self._resolved(ins),
            out_shardings=outs if len(outs) > 1 else outs[0],
            donate_argnums=donate,
        )

    def jit_step(self, function, *, ins, outs):
        """Jit a step in which examples may mix, to be called by another compiled function: one program over all
        devices, or in scope "device" one on each. Arguments as for `jit`."""
        if self.scope == "device":
            ins, outs = (jax.tree.map(lambda sharding: sharding.spec, self._resolved(x)) for x in (ins, outs))
            # check_vma=True would sum the gradients of replicated parameters before our own mean
            function = jax.shard_map(function, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False)
        return jax.jit(function)

    def _resolved(self, places) -> tuple:
        """Letters as shardings; None leaves an argument where it lies."""
        shardings = {**self._shardings, "s": self._shardings["r"] if self.fsdp == 1 else None}
        return tuple(jax.tree.map(lambda where: shardings.get(where, where), tuple(places)))


def _spread(x, sharding: NamedSharding) -> jax.Array:
    """An array over the devices of all processes, of which each places its own part."""
    if jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
        key_data = _spread(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(key_data, impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def portable(function, shape: tuple[int, ...]) -> bytes:
    """`function` of float32 batches (any size, *shape) as serialised StableHLO for CPU, GPU and TPU; read
    back by jax.export.deserialize(...).call."""
    batch = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("batch"), *shape), jax.numpy.float32)
    return jax_export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(batch).serialize()
