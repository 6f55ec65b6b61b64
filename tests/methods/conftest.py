"""A view, its context, a method and its variables for AB, FT and FT's paraphraser."""

import pytest

from kd_jax.methods import ab, ft, paraphraser
from tests.methods.pretraining import HIGHER, pair, paraphrased, with_given
from tests.methods.test_vid import init_vars


@pytest.fixture(scope="session")
def boundaries():
    view, context = pair(HIGHER)
    return view, context, ab(), init_vars(ab(), context)


@pytest.fixture(scope="session")
def transfer():
    """FT, given a paraphraser."""
    view, context = pair()
    context = with_given(context, paraphrased())
    return view, context, ft(), init_vars(ft(), context)


@pytest.fixture(scope="session")
def autoencoder():
    """The paraphraser of the network in the student's seat; there is no teacher."""
    view, context = pair()
    view, shapes = view._replace(teachers=()), context.view_shapes._replace(teachers=())
    context = context._replace(view_shapes=shapes)
    return view, context, paraphraser(), init_vars(paraphraser(), context)
