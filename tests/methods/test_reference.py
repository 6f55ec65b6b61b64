"""Every method, its variables included, against the slow reference that make_reference.py wrote.

Values, and gradients by the student's outputs and the method's parameters, from one view made by hand.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import methods, models
from kd_jax.typing import InitContext, Match, Outputs, Variables, Vars, View
from tests.methods import cases

GOLDEN = np.load(cases.FILE)
METHODS = {  # all hyper-parameters are the defaults, so that these are tested too
    "lskd+kd": lambda: methods.chain(lskd=methods.lskd(), kd=methods.kd()),
    "ctkd+kd": lambda: methods.chain(ctkd=methods.ctkd(), kd=methods.kd()),
    "lskd+mlld": lambda: methods.chain(lskd=methods.lskd(), mlld=methods.mlld()),
    "cc": lambda: methods.cc(dim=cases.EMBEDDING),
    # as many negatives as there are examples of other classes: all of these, whatever is drawn
    "crd": lambda: methods.crd(dim=cases.EMBEDDING, negatives=int((cases.TRAINING != 0).sum())),
    "dml": lambda: methods.dml(peer="resnet8"),
    **{
        name: methods.CRITERIA[name]
        for name in """
            kd dkd dist mlld fitnet at nst kdsvd cat_kd vid ofd reviewkd sp rkd pkt ab fsp ft paraphraser simkd
        """.split()
    },
}
CASES = sorted({name.split("/")[0] for name in GOLDEN})


def expected(case: str) -> tuple[float, dict[str, np.ndarray]]:
    """The value, and student/... and params/... -> gradient."""
    gradients = {k.removeprefix(f"{case}/"): GOLDEN[k] for k in GOLDEN if k.startswith(f"{case}/")}
    return gradients.pop("value"), gradients


def outputs(net: cases.Net) -> Outputs:
    return Outputs(tuple(net.stages), tuple(net.preacts), net.pooled, net.logits, net.cam)


def view_of(student: Outputs, teacher: Outputs, strong, image) -> View:
    """`strong`: the two networks' logits for the more strongly augmented images."""
    pair, step = Match(student.logits, teacher.logits), jnp.int32(cases.STEP)
    labels, index = jnp.asarray(cases.labels()), jnp.asarray(cases.INDEX)
    view = View(image, student, (teacher,), pair, labels, index, step)
    student, teacher = (Outputs((), None, None, z) for z in strong)
    other = view._replace(student=student, teachers=(teacher,), match=Match(student.logits, teacher.logits))
    return view._replace(extra_views={"strong": other})


def a_teacher():
    """A model and its variables, as far as OFD looks at them."""
    norms = {f"bn{i}": dict(zip(("scale", "bias"), cases.norm(i), strict=True)) for i in (1, 2, 3)}
    return SimpleNamespace(bn_before_relu=tuple(norms)), Variables(norms, {})


def earlier(setting: str) -> dict[str, Vars]:
    """What FT starts with."""
    params, stats = cases.encoder(setting)
    return {"paraphraser": Vars({"encoder": params}, {"encoder": stats} if stats else {}, {})}


def remembered(stats, setting: str):
    """CRD's banks and constants as the cases have them, in place of those that `init` made."""
    if "bank" not in stats:
        return stats
    return stats | {"bank": {seat: cases.bank(seat) for seat in stats["bank"]}, "scale": cases.scales(setting)}


def flat(prefix: str, tree) -> dict:
    """Every leaf under its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {prefix + jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def run(case: str, dtype):
    """The value and its gradients, named as in the golden file, in one program."""
    name, _, setting = case.partition("-")
    distiller, pair = METHODS[name](), cases.nets(setting or "even")

    def cast(tree):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    @jax.jit
    def program(student, teacher, image):
        """Both networks are (Outputs, logits for the strong view)."""

        def view(student):
            return view_of(student[0], teacher[0], (student[1], teacher[1]), image)

        data = {"num_examples": len(cases.TRAINING), "labels": cases.TRAINING}
        data |= {"initial_vars": earlier(setting or "even")}
        context = InitContext(
            view(student), cases.CLASSES, teachers=(a_teacher(),), steps_per_epoch=cases.STEPS_PER_EPOCH, **data
        )
        vars = distiller.init(jax.random.key(0), context)
        paths, tree = jax.tree_util.tree_flatten_with_path(vars.params)
        leaves = [cases.parameter(jax.tree_util.keystr(k, simple=True, separator="/"), x.shape) for k, x in paths]
        params, stats = cast(jax.tree.unflatten(tree, leaves)), cast(remembered(vars.stats, setting))

        def loss(params, student):
            all_vars = Vars(params, stats, cast(vars.policy))
            _, terms, _, _ = distiller.apply(all_vars, view(student), jax.random.key(1), True)
            return sum(term.mean() for term in terms.values())

        return jax.value_and_grad(loss, (0, 1))(params, student)

    student, teacher = ((outputs(net), net.strong) for net in pair)
    value, (params, (student, strong)) = program(cast(student), cast(teacher), cast(cases.images()))
    return value, {**flat("params/", params), **flat("student/", student._asdict()), "student/strong": strong}


def tolerances() -> list:
    """(case, dtype, tolerance): CTKD's lambda is float32 always; float32 of most losses: losses/test_published.py."""
    wide = [(case, "float64", 1e-6 if case == "ctkd+kd" else 1e-9) for case in CASES]
    return wide + [pytest.param(case, "float32", 1e-4, marks=pytest.mark.full) for case in CASES]


@pytest.mark.parametrize(("case", "dtype", "tolerance"), tolerances())
def test_value_and_gradients_are_the_references(x64, monkeypatch, case, dtype, tolerance):
    narrow = partial(models.create, widths=cases.PEER)  # DML's peer, else it has 75,000 parameters
    monkeypatch.setattr(models, "create", narrow)
    value, grads = run(case, dtype)
    theirs, gradients = expected(case)
    assert value.dtype == dtype and all(g.dtype == dtype for g in grads.values())
    np.testing.assert_allclose(value, theirs, rtol=tolerance)
    assert {k for k in grads if k.startswith("params/")} == {k for k in gradients if k.startswith("params/")}
    assert set(gradients) <= set(grads)
    largest = max(np.abs(g).max() for g in gradients.values())
    for name, ours in grads.items():
        wanted = gradients.get(name, np.zeros(ours.shape))
        assert ours.shape == wanted.shape
        np.testing.assert_allclose(
            ours, wanted, rtol=tolerance, atol=tolerance * max(np.abs(wanted).max(), 0.1 * largest), err_msg=name
        )


def test_every_method_is_in_the_golden_file():
    assert {case.split("-")[0] for case in CASES} == set(METHODS)
