"""Keys by name: different names give different keys, none of which a split or a small number gives."""

import jax
import numpy as np

from kd_jax.layers.keys import fold
from kd_jax.methods import base

KEY = jax.random.key(5)


def bits(keys):
    return {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}


def test_names_give_different_keys():
    names = ("draw", "redraw", "a", "b")
    named = bits(fold(KEY, name) for name in names)
    numbered = bits([KEY, *jax.random.split(KEY, 3), *(jax.random.fold_in(KEY, i) for i in range(3))])
    assert len(named) == len(names) and not named & numbered


def test_the_same_name_gives_the_same_key_everywhere():
    assert bits([fold(KEY, "teacher")]) == bits([base.fold(KEY, "teacher")])
