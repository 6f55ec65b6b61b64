"""Every loss against the published PyTorch code, which make_published.py ran in float64."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses, methods
from kd_jax.losses.common import l2_normalize
from kd_jax.methods.ofd import margin
from kd_jax.typing import Outputs, Vars, View
from tests.losses import cases

GOLDEN = np.load(cases.FILE)


def lskd(student, teacher, temperature):
    return losses.kd(student=losses.standardize(student), teacher=losses.standardize(teacher), temperature=temperature)


def crd(s, t, inputs, calls, momentum, rows, negatives, **o):
    """The first call sets the constants. In ours the gradient goes through them where they are unset, in the published
    code it does not: so the slope is that of a call with these constants given, the value that of one with none."""
    given, seats = cases.contrast(*s[0].shape, rows, negatives), ("student", "teacher")

    def said(i, *pair):
        drawn = {"index": given.index[i], "negatives": given.negatives[i], **o}
        return dict(zip(seats, (l2_normalize(x) for x in pair), strict=True)) | drawn

    banks = dict(zip(("student_bank", "teacher_bank"), given.banks.astype(s[0].dtype), strict=True))
    now = said(calls - 1, s[0], t[0])
    if calls == 1:
        scales = losses.crd_scales(**now, **banks)
        none = jnp.zeros((), s[0].dtype)
        unset = losses.crd(**now, **banks, student_scale=none, teacher_scale=none)
    else:
        before = said(0, *given.before.astype(s[0].dtype))
        scales = losses.crd_scales(**before, **banks)
        for seat in seats:
            old = banks[f"{seat}_bank"]
            new = l2_normalize(momentum * old[given.index[0]] + (1 - momentum) * before[seat])
            banks[f"{seat}_bank"] = jnp.asarray(old).at[given.index[0]].set(new)
    scales = dict(zip(("student_scale", "teacher_scale"), map(jax.lax.stop_gradient, scales), strict=True))
    value = losses.crd(**now, **banks, **scales)
    return value if calls == 2 else value + jax.lax.stop_gradient(unset - value)


def mlld(s, t, inputs, temperature, lskd):
    plain, refine = {"plain_student": s[0], "plain_teacher": t[0]}, losses.standardize if lskd else jnp.asarray
    pairs = dict(zip(("student", "student_strong", "teacher", "teacher_strong"), map(refine, [*s, *t]), strict=True))
    return losses.mlld(**pairs, **(plain if lskd else {}), temperature=temperature)


OURS = {  # loss -> function of (students, teachers, inputs, options)
    "kd": lambda s, t, inputs, o: losses.kd(student=s[0], teacher=t[0], **o),
    "dkd": lambda s, t, inputs, o: losses.dkd(student=s[0], teacher=t[0], labels=jnp.asarray(inputs.labels), **o),
    "dist": lambda s, t, inputs, o: losses.dist(student=s[0], teacher=t[0], temperature=1.0, **o),
    "standardize": lambda s, t, inputs, o: jnp.vdot(losses.standardize(s[0]), t[0]),
    "lskd": lambda s, t, inputs, o: lskd(s[0], t[0], **o),
    "fitnet": lambda s, t, inputs, o: losses.fitnet(student=s[0], teacher=t[0]),
    "at": lambda s, t, inputs, o: losses.at(students=s, teachers=t, **o),
    "sp": lambda s, t, inputs, o: losses.sp(student=s[0], teacher=t[0]),
    "vid": lambda s, t, inputs, o: losses.vid(
        student=s[0], teacher=t[0], variance=cases.variance(inputs.channels[0]).astype(t[0].dtype)
    ),
    "rkd": lambda s, t, inputs, o: losses.rkd(student=s[0], teacher=t[0], **o),
    "pkt": lambda s, t, inputs, o: losses.pkt(student=s[0], teacher=t[0]),
    "cc": lambda s, t, inputs, o: losses.cc(student=s[0], teacher=t[0]),
    "nst": lambda s, t, inputs, o: losses.nst(students=s, teachers=t),
    "kdsvd": lambda s, t, inputs, o: losses.kdsvd(students=s, teachers=t, **o),
    "ofd": lambda s, t, inputs, o: losses.ofd(
        students=s,
        teachers=t,
        margins=[cases.margin(c).astype(x.dtype) for c, x in zip(inputs.channels, t, strict=True)],
    ),
    "hcl": lambda s, t, inputs, o: losses.hcl(students=s, teachers=t),
    "cat_kd": lambda s, t, inputs, o: losses.cat_kd(student=s[0], teacher=t[0], **o),
    "crd": lambda s, t, inputs, o: crd(s, t, inputs, **o),
    "mlld": lambda s, t, inputs, o: mlld(s, t, inputs, **o),
    "ab": lambda s, t, inputs, o: losses.ab(students=s, teachers=t, **o),
    "fsp": lambda s, t, inputs, o: losses.fsp(students=s, teachers=t),
    "ft": lambda s, t, inputs, o: losses.ft(student=s[0], teacher=t[0], **o),
}


# MLLD and KDSVD compile longest; the ones that stay have all their code
SLOW = ("mlld/0", "mlld/1", "kdsvd/0", "kdsvd/2")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n in SLOW else n for n in cases.CASES])
def test_values_and_slopes_are_the_published_codes(x64, name):
    """In float64 both to rounding, in float32 the value."""
    inputs, options = cases.make(name), cases.CASES[name].options
    ours = OURS[name.split("/")[0]]

    def mean(students, teachers):
        return ours(students, teachers, inputs, options).mean()

    @jax.jit
    def everything(students, teachers, along):
        value, grads = jax.value_and_grad(mean)(students, teachers)
        slope = sum(jnp.vdot(g, a) for g, a in zip(grads, along, strict=True))
        half = mean(*([x.astype(jnp.float32) for x in maps] for maps in (students, teachers)))
        return jnp.stack([value, slope]), half

    wide, narrow = everything(inputs.students, inputs.teachers, inputs.along)
    assert wide.dtype == jnp.float64 and narrow.dtype == jnp.float32
    np.testing.assert_allclose(wide, GOLDEN[name], rtol=1e-9)
    np.testing.assert_allclose(narrow, GOLDEN[name][0], rtol=1e-4)


def test_margins_are_the_published_codes(x64):
    np.testing.assert_allclose(jax.jit(margin)(*cases.norms()), GOLDEN["margins"], rtol=1e-6)


def test_crds_heads_constants_and_banks_are_the_published_codes(x64, monkeypatch):
    """Two steps of the method, of negatives that are given in place of drawn ones."""
    given, seats = cases.contrast(**cases.STEPS), ("student", "teacher")
    sizes = {"dim": cases.STEPS["width"], "negatives": cases.STEPS["negatives"]}
    method = methods.crd(weight=1.0, **sizes, momentum=cases.MOMENTUM)
    params = {seat: dict(zip(("kernel", "bias"), head, strict=True)) for seat, head in cases.heads().items()}

    def step(stats, pair, index, negatives):
        monkeypatch.setattr(sys.modules["kd_jax.methods.crd"], "draw", lambda *_, **__: negatives)
        student, teacher = (Outputs((), None, x, None) for x in pair)
        view = View(None, student, (teacher,), None, jnp.zeros(len(index), int), index, jnp.int32(0))
        _, terms, _, stats = method.apply(Vars(params, stats, {}), view, jax.random.key(0), True)
        banks = {seat: written.table.at[written.index].set(written.rows) for seat, written in stats["bank"].items()}
        return terms[""].mean(), stats | {"bank": banks}

    stats = {"bank": dict(zip(seats, given.banks, strict=True)), "negatives": None}
    stats, values = stats | {"scale": dict.fromkeys(seats, jnp.zeros(()))}, []
    for i in range(2):  # in the second the networks' features change places
        pair = given.before[:: 1 - 2 * i]
        value, stats = jax.jit(step)(stats, pair, given.index[i], given.negatives[i])
        values.append(value)
    np.testing.assert_allclose(values, GOLDEN["crd_values"], rtol=1e-9)
    for i, seat in enumerate(seats):
        np.testing.assert_allclose(stats["scale"][seat], GOLDEN["crd_scales"][i], rtol=1e-9)
        np.testing.assert_allclose(stats["bank"][seat], GOLDEN["crd_banks"][i], rtol=1e-9)


def test_the_golden_file_has_every_case():
    steps = {"crd_values", "crd_scales", "crd_banks"}
    assert set(GOLDEN.files) == {*cases.CASES, "margins", *steps} and set(cases.TABLE) == set(OURS)
