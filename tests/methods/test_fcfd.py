"""FCFD: its paths by hand, what they reduce to, which gradient goes where, the draw, what it refuses."""

from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kd_jax
from kd_jax import InputError, losses, methods, models
from kd_jax.engine.views import student_runner
from kd_jax.layers.bridge import Bridge
from kd_jax.methods.base import NO_VARS
from kd_jax.methods.joined import drawn
from kd_jax.models.outside import FunctionNetwork
from kd_jax.typing import Variables, Vars
from tests.tiny import TinyNet

KEY = jax.random.key(0)
STUDENT, TEACHER = TinyNet(widths=(4, 8)), TinyNet(widths=(8, 16))
IMAGE = jax.random.normal(KEY, (6, 8, 8, 3))
INIT, APPLY = (jax.jit(function, static_argnums=0) for function in (models.init, models.apply))
CROSSINGS = ("to_teacher1", "to_student1", "to_teacher2", "to_student2")
ALL = {"paths": 4, "temperature": 2.0}


def setting_of(student, teacher, train=True):
    """Context, the student's variables, the teacher's, a view."""
    variables = [INIT(net, jax.random.key(i), IMAGE) for i, net in enumerate((student, teacher))]
    stats = jax.tree.map(lambda x: x + 0.3, variables[1].stats)  # as if it had been trained
    variables[1] = variables[1]._replace(stats=stats)
    shape = {"image_shape": (8, 8, 3), "batch_size": 6}
    context = kd_jax.make_init_context(student, (teacher,), **shape, steps_per_epoch=5)
    context = context._replace(teachers=((teacher, variables[1]),))
    teachers = (APPLY(teacher, variables[1], IMAGE)[0],)
    return context, *variables, partial(view_of, context, student, variables[0], teachers, train)


def view_of(context, student, variables, teachers, train, step=0, params=None, stages=None):
    params = variables.params if params is None else params
    run = student_runner(student, params, jax.random.key(0), train)
    outputs, stats = run(variables.stats, IMAGE)
    outputs = outputs if stages is None else outputs._replace(stages=stages)
    match = kd_jax.Match(outputs.logits, teachers[0].logits)
    more = {"apply_student": run, "student_stats": stats, "step": jnp.int32(step), "labels": jnp.arange(6)}
    return context.view_shapes._replace(image=IMAGE, student=outputs, teachers=teachers, match=match, **more)


@pytest.fixture(scope="module")
def setting():
    return setting_of(STUDENT, TEACHER)


@pytest.fixture(scope="module")
def vars(setting):
    """Of all bridges; their BatchNorms and biases are not what they start as."""
    start = jax.jit(lambda: methods.fcfd(**ALL).init(KEY, setting[0]))()
    leaves, tree = jax.tree.flatten(start.params)
    moved = [x + 0.1 * jax.random.normal(jax.random.fold_in(KEY, i), x.shape) for i, x in enumerate(leaves)]
    return start._replace(params=jax.tree.unflatten(tree, moved))


def mse(x, y):
    return ((x - y) ** 2).reshape(6, -1).mean(-1)


def by_hand(setting, vars, normalize=jnp.asarray):
    """The divergence of every path, and the distance of maps of it and of the bridged ones."""
    _, student, teacher, make = setting
    view = make()
    ours, theirs = view.student.stages, view.teachers[0].stages

    def bridged(name, x, end):
        variables = {"params": vars.params[name], "batch_stats": vars.stats[name]}
        return Bridge(end.shape[1:]).apply(variables, x, train=True, mutable=["batch_stats"])[0]

    def gap(i, x):
        pooled = [jnp.maximum(m, 0).mean((1, 2)) for m in (x, theirs[i])]
        return mse(x, theirs[i]) + (mse(*pooled) if i == 3 else 0)

    def kl(student):
        return losses.kd(student=normalize(student), teacher=normalize(view.match.teacher), temperature=2.0)

    values, maps = [], [gap(3, bridged("to_teacher3", ours[3], theirs[3]))]
    for i in (1, 2):
        x = bridged(f"to_teacher{i}", ours[i], theirs[i])
        mixed = models.apply(TEACHER, teacher, x, train=False, after=i)[0]
        maps += [gap(i, x), *(gap(i + 1 + j, m) for j, m in enumerate(mixed.stages))]
        back = bridged(f"to_student{i}", theirs[i], ours[i])
        values += [kl(student=mixed.logits)]
        values += [kl(student=models.apply(STUDENT, student, back, train=True, after=i)[0].logits)]
    return kl(student=view.student.logits), values, sum(maps)


def test_all_paths_are_as_by_hand(setting, vars):
    distiller = methods.fcfd(**ALL, weight=0.5, mixed_weight=3.0, map_weight=2.0, ramp_epochs=4)
    untouched = []

    def apply(vars):
        view = setting[3](step=12)
        after, terms, logs, stats = distiller.apply(vars, view, KEY, True)
        untouched.append(after is view and logs == {})
        return terms, stats

    terms, stats = jax.jit(apply)(vars)
    kl, mixed, maps = jax.jit(partial(by_hand, setting))(vars)
    assert set(terms) == {"kl", "mixed", "maps"} and untouched == [True]
    np.testing.assert_allclose(terms["kl"], 0.5 * kl, rtol=1e-4)
    np.testing.assert_allclose(terms["mixed"], 0.5 * 3 * sum(mixed), rtol=1e-3)
    np.testing.assert_allclose(terms["maps"], 0.5 * 2 * 3 / 4 * maps, rtol=1e-3)  # the third epoch of four
    assert jax.tree.structure(stats) == jax.tree.structure(vars.stats)
    jax.tree.map(np.testing.assert_array_equal, stats["joined"], vars.stats["joined"])
    assert all(np.abs(stats[name]["bn"]["mean"]).max() > 0 for name in vars.params)


def test_paths_are_standardised_as_the_pair_is(setting, vars):
    distiller = methods.chain(lskd=methods.lskd(), fcfd=methods.fcfd(**ALL, map_weight=0.0))
    chained = jax.tree.map(lambda leaves: {"fcfd": leaves}, vars, is_leaf=lambda x: x is not vars)
    terms = jax.jit(lambda: distiller.apply(chained, setting[3](), KEY, True)[1])()
    kl, mixed, _ = jax.jit(partial(by_hand, setting, normalize=losses.standardize))(vars)
    np.testing.assert_allclose(terms["fcfd/kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(terms["fcfd/mixed"], sum(mixed), rtol=1e-3)


def test_a_step_draws_two_different_paths(setting, vars):
    distiller = methods.fcfd(temperature=2.0, map_weight=0.0)
    mixed = jax.jit(lambda key: distiller.apply(vars, setting[3](), key, True)[1]["mixed"])
    values = jax.jit(partial(by_hand, setting))(vars)[1]
    sums = {pair: sum(values[i] for i in pair) for pair in combinations(range(4), 2)}
    for i in range(4):
        value = mixed(jax.random.key(i))
        assert sum(np.allclose(value, wanted, rtol=1e-3) for wanted in sums.values()) == 1


def test_every_choice_is_as_likely():
    functions = [lambda i=i: jnp.eye(4)[i] for i in range(4)]
    counts = jax.jit(jax.vmap(lambda key: drawn(key, functions, 2)))(jax.random.split(KEY, 600))
    assert (counts.sum(1) == 2).all() and (counts.max(1) == 1).all()
    np.testing.assert_allclose(counts.mean(0), 0.5, atol=0.08)
    np.testing.assert_array_equal(drawn(KEY, functions, 4), jnp.ones(4))


def test_without_paths_and_maps_it_is_kd(setting):
    view, distiller = setting[3](), methods.fcfd(paths=0, map_weight=0.0)
    assert distiller.init(KEY, setting[0]) == NO_VARS and distiller.needs == {"match"}
    terms = distiller.apply(NO_VARS, view, KEY, True)[1]
    wanted = methods.kd().apply(NO_VARS, view, KEY, True)[1][""]
    assert set(terms) == {"kl"}
    np.testing.assert_array_equal(terms["kl"], wanted)
    assert methods.fcfd(mixed_weight=0.0, map_weight=0.0).needs == distiller.needs


def test_what_has_no_weight_has_no_bridge(setting):
    init = lambda **how: {*jax.eval_shape(lambda: methods.fcfd(**how).init(KEY, setting[0])).params}  # noqa: E731
    assert init(map_weight=0.0) == {*CROSSINGS}
    assert init(paths=0) == {"to_teacher1", "to_teacher2", "to_teacher3"}


def test_equal_networks_behind_bridges_that_pass_all_on_are_at_0():
    context, variables, _, _ = setting_of(STUDENT, STUDENT, train=False)
    context = context._replace(teachers=((STUDENT, variables),))
    teachers = (APPLY(STUDENT, variables, IMAGE)[0],)
    vars = jax.jit(lambda: methods.fcfd(**ALL).init(KEY, context))()
    passing = lambda n: {"kernel": jnp.zeros((3, 3, n, n)).at[1, 1].set(jnp.eye(n))}  # noqa: E731
    params = {
        name: {"conv": passing(p["bn"]["scale"].size), "bn": {**p["bn"], "scale": p["bn"]["scale"] * (1 + 1e-5) ** 0.5}}
        for name, p in vars.params.items()
    }
    view = view_of(context, STUDENT, variables, teachers, False)
    terms = jax.jit(lambda v: methods.fcfd(**ALL).apply(v, view, KEY, False)[1])(vars._replace(params=params))
    for term in terms.values():
        np.testing.assert_allclose(term, 0, atol=1e-6)


def test_which_gradient_goes_where(setting, vars):
    """Maps move the student's first stages and the bridges to the teacher; paths move all; the teacher, nothing."""
    _, student, _, make = setting
    stages = make().student.stages

    def value(of, params, bridges, stages):
        view = make(params=params, stages=stages)
        terms = methods.fcfd(**ALL).apply(Vars(bridges, vars.stats, {}), view, KEY, True)[1]
        return terms[of].mean()

    def largest(of):
        grads = jax.jit(jax.grad(partial(value, of), argnums=(0, 1, 2)))(student.params, vars.params, stages)
        most = lambda tree: max(float(np.abs(g).max()) for g in jax.tree.leaves(tree))  # noqa: E731
        layers, bridges = ({name: most(part) for name, part in tree.items()} for tree in grads[:2])
        return layers, bridges, [most(g) for g in grads[2]]

    layers, bridges, slopes = largest("maps")
    assert {name for name, g in bridges.items() if g > 0} == {"to_teacher1", "to_teacher2", "to_teacher3"}
    assert [bool(g > 0) for g in slopes] == [False, True, True, True] and not any(layers.values())
    layers, bridges, slopes = largest("mixed")
    assert {name for name, g in bridges.items() if g > 0} == {*CROSSINGS}
    assert [bool(g > 0) for g in slopes] == [False, True, True, False]
    assert layers["fc"] > 0 and layers["conv2"] > 0 and layers["conv1"] == 0  # behind stage 1, by teacher-first paths


@pytest.mark.full
def test_a_step_moves_bridges_and_not_the_teacher(setting):
    distiller = methods.chain(ce=methods.ce(), fcfd=methods.fcfd())
    parts = {"student": STUDENT, "distiller": distiller, "tx": optax.sgd(0.05)}
    state = kd_jax.init_state(KEY, context=setting[0], **parts)
    batch = {"image": IMAGE, "label": jnp.arange(6)}
    step = jax.jit(lambda s: kd_jax.train_step(s, setting[3]().teachers[0], batch, jax.random.key(1), **parts))
    after, metrics = step(state)
    before, stats = (s.stats["method"]["fcfd"] for s in (state, after))
    jax.tree.map(np.testing.assert_array_equal, before["joined"], stats["joined"])
    assert not np.array_equal(*(s.params["method"]["fcfd"]["to_teacher3"]["conv"]["kernel"] for s in (state, after)))
    np.testing.assert_allclose(metrics["terms/fcfd/kl"].count, 6)


def test_readers_of_what_comes_out_of_no_relu_get_no_relu():
    shape = {"image_shape": (8, 8, 3), "batch_size": 2}
    pair = [models.create(name, 5) for name in ("wrn_16_1", "resnet8")]
    for student, teacher in (pair, pair[::-1]):
        context = kd_jax.make_init_context(student, (teacher,), **shape)
        context = context._replace(teachers=((teacher, models.shapes(teacher, (8, 8, 3))[0]),))
        joined = jax.eval_shape(lambda key, c=context: methods.fcfd().init(key, c), KEY).stats["joined"]
        assert joined.leaky == ((False, True) if student is pair[0] else (True, False))
        assert joined.teacher is teacher and "conv1" not in joined.later.params


def test_where_it_cannot_be(setting):
    context = setting[0]

    def refused(message, **changes):
        with pytest.raises(InputError, match=message):
            methods.fcfd(paths=changes.pop("paths", 2)).init(KEY, context._replace(**changes))

    view = context.view_shapes
    fewer = view._replace(student=view.student._replace(stages=view.student.stages[1:]))
    refused("fcfd: the student has 3 stages, the teacher 4; accepted: as many of each", view_shapes=fewer)
    refused("fcfd: paths must be at most 4 where there are 4 stages, got 5", paths=5)
    refused("fcfd: context.teachers is empty", teachers=())
    function = FunctionNetwork(lambda params, image: None, (), view.teachers[0])
    refused("fcfd: a python: teacher cannot begin at a stage", teachers=((function, Variables({}, {})),))
    stages = (view.student.stages[0], jax.ShapeDtypeStruct((6, 3, 3, 4), jnp.float32), *view.student.stages[2:])
    odd = view._replace(student=view.student._replace(stages=stages))
    refused("bridge: no convolution takes a map of 3x3 to 8x8", view_shapes=odd)


@pytest.mark.parametrize(("how", "message"), [
    ({"map_weight": -1.0}, "fcfd: map_weight must be a finite number, at least 0, got -1"),
    ({"mixed_weight": float("inf")}, "fcfd: mixed_weight must be a finite number, at least 0, got inf"),
    ({"ramp_epochs": 0}, "fcfd: ramp_epochs must be at least 1, got 0"),
    ({"paths": -1}, "fcfd: paths must be at least 0, got -1"),
    ({"temperature": 0.0}, "fcfd: temperature must be a finite number above 0, or None, got 0"),
])  # fmt: skip
def test_what_is_wrong_is_named(how, message):
    with pytest.raises(InputError, match=message):
        methods.fcfd(**how)
