"""Checks that need several devices; tests/distributed/test_parallel.py runs it with forced CPU devices.

python -m tests.distributed.devices N PART ...
"""

import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kd_jax
from kd_jax import methods, models
from kd_jax.distributed.mesh import Layout
from kd_jax.engine.dot import dot, loss_dependencies
from kd_jax.engine.objective import objective, split_losses
from kd_jax.models.network import Network
from kd_jax.models.outside import FunctionNetwork, LogitsTable
from kd_jax.plan.trace import step_inputs
from kd_jax.tasks import CLASSIFICATION
from kd_jax.train.compiled import Teachers
from kd_jax.typing import Distiller, Outputs, Variables, Vars
from tests.tiny import TinyNet, in_place

BATCH, STEPS = 16, 10
STUDENT = TinyNet(num_classes=10)
SKD = methods.skd(bound=0.5, simplifier="batch", student_temperature=None)
DISTILLER = methods.chain(skd=SKD, ce=methods.ce(weight=0.1), kd=methods.kd(weight=0.9))
KEY = jax.random.key(0)
LABELS = np.arange(48) % 10


def batches():
    """Inputs and teacher logits of every step."""
    for i in range(STEPS):
        k = jax.random.split(jax.random.fold_in(KEY, i), 3)
        batch = {"image": jax.random.normal(k[0], (BATCH, 8, 8, 3)), "label": jax.random.randint(k[1], (BATCH,), 0, 10)}
        yield batch, Outputs((), None, None, 3 * jax.random.normal(k[2], (BATCH, 10)))


def start(tx):
    context = kd_jax.make_init_context(STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=BATCH)
    return kd_jax.init_state(KEY, student=STUDENT, distiller=DISTILLER, tx=tx, context=context)


def step_of(layout, tx):
    def step(state, taught, batch, key):
        parts = {"student": STUDENT, "distiller": DISTILLER, "tx": tx, "axis_name": layout.axis_name}
        return kd_jax.train_step(state, taught, batch, key, **parts)

    return compiled(layout, step)


def compiled(layout, step):
    places = {"ins": "rbbr", "outs": "rr"}
    return layout.jit(layout.jit_step(step, **places), **places)


def run(layout, tx, steps=STEPS):
    state, step, losses = layout.put(start(tx)), step_of(layout, tx), []
    for _, (batch, taught) in zip(range(steps), batches(), strict=False):
        state, metrics = step(state, taught, batch, KEY)
        losses.append(float(metrics["loss"].total / metrics["loss"].count))
    return jax.tree.map(np.asarray, state), losses


def drawn(key, shapes):
    """Normal numbers in these shapes."""
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves))
    normal = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, normal)


def full_batches(batch, count, views=True):
    """Inputs with a strong view, and all that a teacher says, of `count` steps; the batches share no example."""
    outputs = kd_jax.make_init_context(
        STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=batch
    ).view_shapes.teachers[0]
    for i in range(count):
        key = jax.random.fold_in(KEY, i)
        image = jax.random.normal(key, (2, batch, 8, 8, 3))
        taught = [drawn(jax.random.fold_in(key, j), outputs) for j in range(2)]
        index = batch * i + jax.random.permutation(key, jnp.arange(batch, dtype=jnp.int32))
        inputs = {"image": image[0], "label": jnp.asarray(LABELS)[index], "index": index}
        if views:
            inputs["views"] = {"strong": {"image": image[1], "teachers": (taught[1],)}}
        yield (taught[0],), inputs


def prepared(distiller, batch, tx, **how):
    """InitContext, and an initial state, of a chain that reads an index, labels and a strong view."""
    fields = {"labels": LABELS, "num_examples": len(LABELS), "needs": distiller.needs, **how.pop("fields", {})}
    context = kd_jax.make_init_context(STUDENT, (STUDENT,), image_shape=(8, 8, 3), batch_size=batch, **fields)
    init = partial(kd_jax.init_state, student=STUDENT, distiller=distiller, context=context, **how)
    return context, jax.jit(partial(init, tx=tx))


@cache
def classics_parts():
    """CRD, MLLD and DML on two views under DOT, with an average of the student: the step, its first state, batches."""
    crd = methods.crd(negatives=8, dim=4)
    distiller = methods.chain(ce=methods.ce(), crd=crd, mlld=methods.mlld(), dml=methods.dml(peer="resnet8"))
    parts, task_terms = {"student": STUDENT, "distiller": distiller}, frozenset({"ce"})
    context, init = prepared(distiller, BATCH, optax.sgd(0.02), ema=True)
    shapes = jax.eval_shape(init, KEY)

    def part(i, params, state, taught, batch, key):
        given = (params, state.policy, state, taught, batch, key)
        return split_losses(partial(objective, **parts), *given, task_terms=task_terms, mask=jnp.ones(BATCH))[0][i]

    rest = (shapes, *step_inputs(context, distiller.needs, CLASSIFICATION), KEY)
    pair = tuple(loss_dependencies(partial(part, i), shapes.params, *rest) for i in range(2))
    tx = dot(lambda step: 0.02, dependencies=pair, delta=0.05)
    state = prepared(distiller, BATCH, tx, ema=True)[1](KEY)
    step = partial(kd_jax.train_step, **parts, tx=tx, task_terms=task_terms, ema=0.5)
    return step, jax.tree.map(np.asarray, state), [*full_batches(BATCH, 3)]


def classics(layout):
    """The state before and after every step."""
    step, first, inputs = classics_parts()
    state, step = layout.put(first), compiled(layout, partial(step, axis_name=layout.axis_name))
    history = [first]
    for taught, batch in inputs:
        state, _ = step(state, taught, batch, KEY)
        history.append(jax.tree.map(np.asarray, state))
    return history


def check_classics(n):
    """Global scope: n devices are one, in all that the state holds."""
    one, many = classics(Layout((1,))), classics(Layout((n,)))
    last = one[-1]
    shared = jax.tree.leaves(last.params["student"])
    assert set(last.stats["method"]) == {"crd", "dml"} and last.ema
    assert len(jax.tree.leaves(last.opt)) >= len(jax.tree.leaves(last.params)) + len(shared)  # two buffers
    for a, b in zip(one[1:], many[1:], strict=True):
        for name in ("params", "opt", "ema"):
            assert far(getattr(a, name), getattr(b, name)) < 1e-4, name
        for name in ("student", "method"):
            assert far(a.stats[name], b.stats[name]) < 1e-4, name
        for seat in ("student", "teacher"):
            ours, theirs = (x.stats["method"]["crd"]["bank"][seat] for x in (a, b))
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert far(one[1].params, last.params) > 1e-3


def check_statistics(n):
    """Device scope: each step writes the rows of the whole batch, once and on every device; what it does not change
    keeps its bits, also where a mean over the devices would round."""
    batch, n = 12, min(n, 3)
    layout, tx = Layout((n,), "device"), optax.sgd(0.02)
    alone = methods.chain(paraphraser=methods.paraphraser())
    given = jax.eval_shape(prepared(alone, batch, tx)[1], KEY)
    given = {"paraphraser": Vars(drawn(KEY, given.params["method"]["paraphraser"]), {}, {})}
    crd = methods.crd(negatives=8, dim=4)
    none = Vars({}, {"n": jnp.int32(0)}, {})
    count = Distiller(lambda *_: none, lambda vars, view, *_: (view, {}, {}, {"n": vars.stats["n"] + 1}))
    distiller = methods.chain(ft=methods.ft(), crd=crd, again=methods.paraphraser(batch_norm=True), count=count)
    _, init = prepared(distiller, batch, tx, trains="method", fields={"initial_vars": given})
    state = layout.put(init(KEY))
    step = partial(kd_jax.train_step, student=STUDENT, distiller=distiller, tx=tx, trains="method")
    step = compiled(layout, partial(step, axis_name=layout.axis_name))
    for taught, inputs in full_batches(batch, 2, views=False):
        before = jax.tree.map(np.asarray, state)
        state, _ = step(state, taught, inputs, KEY)
        for leaf in jax.tree.leaves((state.params, state.stats, state.opt)):
            copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
            assert len(copies) == n and all(np.array_equal(copies[0], copy) for copy in copies)
        after, method_stats = jax.tree.map(np.asarray, state), (before.stats["method"], state.stats["method"])
        for a, b in (
            (before.params["student"], after.params["student"]),
            (before.stats["student"], after.stats["student"]),
            *((x["ft"]["encoder"], y["ft"]["encoder"]) for x, y in [method_stats]),
            *((x["crd"]["negatives"], y["crd"]["negatives"]) for x, y in [method_stats]),
        ):
            assert jax.tree.leaves(a) and jax.tree.all(jax.tree.map(np.array_equal, a, b))
        assert method_stats[1]["count"]["n"] == after.step and method_stats[1]["count"]["n"].dtype == jnp.int32
        assert all(x.dtype == jnp.int32 for x in method_stats[1]["crd"]["negatives"])
        assert far(method_stats[0]["ft"]["translator"], method_stats[1]["ft"]["translator"]) > 1e-3
        index = np.asarray(inputs["index"])
        said = {"student": models.apply(STUDENT, state.student, inputs["image"])[0].pooled, "teacher": taught[0].pooled}
        for seat, features in said.items():
            rows = [x["crd"]["bank"][seat] for x in method_stats]
            assert np.array_equal(np.delete(rows[0], index, axis=0), np.delete(rows[1], index, axis=0))
            head = before.params["method"]["crd"][seat]
            unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
            expected = unit(0.5 * rows[0][index] + 0.5 * unit(features @ head["kernel"] + head["bias"]))
            np.testing.assert_allclose(rows[1][index], expected, atol=1e-5)


def check_outside(n):
    for mesh in ((n,), (n // 2, 2)) if n > 1 else ():
        check_outside_teachers(Layout(mesh))


def check_outside_teachers(layout):
    """A function sees the whole batch, wherever its rows lie, and a table the index; each teacher is what it is on one
    device."""

    def call(parameters, image):
        logits = image.mean((1, 2)) @ parameters["weights"]
        return Outputs((image,), None, None, logits - logits.mean(0))

    weights = jax.random.normal(KEY, (3, 512))
    like = jax.ShapeDtypeStruct(weights.shape, weights.dtype)
    image = jax.random.uniform(KEY, (BATCH, 8, 8, 3))
    batch = {"image": image, "index": jnp.arange(BATCH, dtype=jnp.int32)[::-1] * 2}
    variables = Variables({"weights": weights}, {})
    function = FunctionNetwork(call, (("weights", like),), jax.eval_shape(call, variables.params, image))
    table = np.arange(48 * 512).reshape(48, 512).astype(np.float16)
    tables = {"train": table, "test": -table[:40]}
    networks = [
        Network("outside", model, 512, (8, 8, 3), (0.0,) * 3, (1.0,) * 3) for model in (function, LogitsTable(512))
    ]
    taught = layout.put((variables, Variables({}, tables)), "s")
    assert layout.fsdp == 1 or not taught[0].params["weights"].is_fully_replicated
    teach = Teachers(layout, networks, frozenset({"teacher.stages"}))
    for split, rows in tables.items():
        outputs, looked_up = teach(taught, layout.put(batch, "b"), split)
        expected = call(variables.params, image)
        for ours, theirs in zip((*outputs.stages, outputs.logits), (image, expected.logits), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_array_equal(looked_up.logits, rows[batch["index"]].astype(np.float32))
        assert len(looked_up.logits.sharding.device_set) == layout.count and not looked_up.logits.is_fully_replicated


def check_stochastic_depth(n):
    """Which examples skip which blocks does not depend on the devices."""
    sizes = {"width": 8, "heads": 2, "patch": 4, "blocks": (1, 1)}
    model = models.create("vit_tiny_patch16_224", 10, **sizes, drop_path=0.5)
    parts = {"student": model, "distiller": methods.chain(ce=methods.ce()), "tx": optax.sgd(0.1)}
    context = kd_jax.make_init_context(model, (), image_shape=(8, 8, 3), batch_size=BATCH)
    first, (batch, _) = jax.jit(lambda: kd_jax.init_state(KEY, context=context, **parts))(), next(batches())
    one, many = (
        compiled(layout, partial(kd_jax.train_step, **parts))(layout.put(first), (), batch, KEY)[0].params
        for layout in (Layout((1,)), Layout((n,)))
    )
    assert far(one, many) < 1e-5 < far(one, first.params)


def far(a, b):
    """Relative distance of two trees."""
    flat = [np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)]) for t in (a, b)]
    return np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0])


def check_scopes(n):
    tx = optax.sgd(0.02, momentum=0.9)
    one, losses = run(Layout((1,)), tx)
    assert losses[-1] != losses[0]
    # global scope: n devices are one
    many, theirs = run(Layout((n,)), tx)
    assert far(one.params, many.params) < 1e-4 and far(one.stats, many.stats) < 1e-4
    np.testing.assert_allclose(losses, theirs, rtol=1e-4)
    # on one device the two scopes are the same
    alone, theirs = run(Layout((1,), "device"), tx)
    assert far(one.params, alone.params) < 1e-5
    np.testing.assert_allclose(losses, theirs, rtol=1e-5)
    # device scope: the average of what each shard would do by itself
    plain = optax.sgd(1.0)  # so that a step's change is the gradient
    mapped, _ = run(Layout((n,), "device"), plain, steps=1)
    (batch, taught), first = next(batches()), start(plain)
    step, shards = step_of(Layout((1,)), plain), []
    for i in range(n):
        cut = lambda x, i=i: x[i * BATCH // n : (i + 1) * BATCH // n]  # noqa: E731
        part = {k: cut(v) for k, v in batch.items()}
        outputs = taught._replace(logits=cut(taught.logits))
        shards.append(step(first, outputs, part, KEY)[0])
    mean = jax.tree.map(lambda *x: np.mean(x, axis=0), *[(s.params, s.stats) for s in shards])
    assert far(mean, (mapped.params, mapped.stats)) < 1e-5
    if n > 1:  # and that is another step than the global one: BatchNorm and attention see less
        assert far(run(Layout((n,)), plain, steps=1)[0].params, mapped.params) > 1e-4
    assert jnp.all(mapped.step == 1)


PARTS = {
    "scopes": check_scopes,
    "classics": check_classics,
    "statistics": check_statistics,
    "stochastic_depth": check_stochastic_depth,
    "outside": check_outside,
}

if __name__ == "__main__":
    with in_place():
        for part in sys.argv[2:]:
            PARTS[part](int(sys.argv[1]))
    print("same")
