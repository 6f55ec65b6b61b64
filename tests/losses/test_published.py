"""Every loss against the published PyTorch code, which make_published.py ran in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import losses
from kd_jax.methods.ofd import margin
from tests.losses import cases

GOLDEN = np.load(cases.FILE)


def lskd(student, teacher, temperature):
    return losses.kd(student=losses.standardize(student), teacher=losses.standardize(teacher), temperature=temperature)


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
}


@pytest.mark.parametrize("name", cases.CASES)
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


def test_the_golden_file_has_every_case():
    assert set(GOLDEN.files) == {*cases.CASES, "margins"} and set(cases.TABLE) == set(OURS)
