"""Which members read labels: those that say so, and no others."""

import jax
import pytest

from kd_jax.plan.distiller import members_of
from kd_jax.typing import Need
from tests.tools.test_combinations import METHODS, nets, phases_of  # noqa: F401 (a fixture)


def terms_without_labels(member, context):
    """The shapes of a member's terms for a view that has no labels, nor have its other views."""
    view = context.view_shapes
    views = {name: other._replace(labels=None) for name, other in view.extra_views.items()}

    def run(initial_vars, view):
        key = jax.random.key(0)
        vars = member.init(key, context._replace(initial_vars=initial_vars))
        return member.apply(vars, view, key, True)[1]

    return jax.eval_shape(run, context.initial_vars, view._replace(labels=None, extra_views=views))


@pytest.mark.parametrize("name", METHODS)
def test_who_reads_labels_says_so(nets, name):  # noqa: F811
    for _, context, phase in phases_of(name, "", nets):
        for member in members_of(phase, 2).values():
            if Need.LABELS not in member.needs:
                terms_without_labels(member, context)
                continue
            with pytest.raises((AttributeError, TypeError, ValueError, DeprecationWarning)):
                terms_without_labels(member, context)
