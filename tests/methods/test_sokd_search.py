"""DAFA's search on a task with a known answer: it finds the augmentation that helps and leaves the one that hurts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import kd_jax
from kd_jax import losses, methods
from kd_jax.layers import augment
from kd_jax.methods.terms import criterion
from kd_jax.typing import Outputs

BATCH, SIZE, CHANNELS, STEPS, DISPLACED = 16, 8, 4, 5000, 2
TRUTH = np.random.default_rng(0).normal(size=(3, CHANNELS)).astype(np.float32)


class Net(nn.Module):
    """A student that mixes channels: it can say what is where, and cannot move it."""

    @nn.compact
    def __call__(self, x, train=False, after=-1):
        y = nn.Dense(CHANNELS, use_bias=False, name="mix")(x)
        return Outputs((x, y), None, y.mean((1, 2)), nn.Dense(2, name="head")(y.mean((1, 2))))


def smooth_images(key):
    x = jax.random.normal(key, (BATCH, SIZE + 4, SIZE + 4, 3))
    return sum(x[:, i : i + SIZE, j : j + SIZE] for i in range(5) for j in range(5)) / 5


def examples(key, displaced):
    """A batch, and a teacher whose map is right or, where `displaced`, two columns off."""
    image = smooth_images(key)
    y = image @ TRUTH
    if displaced:
        y = jnp.roll(y, DISPLACED, 2).at[:, :, :DISPLACED].set(0)
    teacher = Outputs((image, y), None, y.mean((1, 2)), jnp.zeros((BATCH, 2)))
    return (teacher,), {"image": image, "label": jnp.zeros(BATCH, jnp.int32)}


def search(seed, outer="plain"):
    """The policy, after training on displaced maps, with right ones in the outer loss."""
    compared = criterion(
        lambda v: {"": losses.fitnet(student=v.student.stages[1], teacher=v.teachers[0].stages[1])},
        frozenset({"teacher.stages"}),
    )
    dafa = methods.dafa(stages=(1,), rate=5e-3, published=True, outer=outer)
    parts = {"student": Net(), "distiller": methods.chain(dafa=dafa, compared=compared), "tx": optax.sgd(1.0)}
    context = kd_jax.make_init_context(Net(), (Net(),), image_shape=(SIZE, SIZE, 3), batch_size=BATCH)
    key = jax.random.key(seed)

    def step(i, state):
        inner, outer = (examples(jax.random.fold_in(key, 2 * i + j), displaced=j == 0) for j in (0, 1))
        state, _ = kd_jax.engine.policy_step(state, inner, outer, key, **parts)
        return kd_jax.train_step(state, *inner, key, **parts)[0]

    return jax.lax.fori_loop(0, STEPS, step, kd_jax.init_state(key, context=context, **parts)).policy["dafa"]


def of_operation(policy, name):
    """Share of the pairs with this operation, its probability and magnitude in them as they are weighted."""
    place = np.asarray(augment.PAIRS) == augment.OPERATIONS.index(name)
    weight = np.asarray(jax.nn.softmax(policy["weight"]))[:, None] * place
    mean = [(weight * np.clip(policy[part], 0, 1)).sum() / weight.sum() for part in ("probability", "magnitude")]
    return weight.sum(), *mean


@pytest.mark.full  # 25,000 steps
def test_search_finds_what_helps():
    """Moving the map back by two of its eight columns helps: as published, magnitude 0.5 + 0.5 * 2 / (0.45 * 8) does
    it. A shuffle of channels hurts. At the start every operation has a share of 2 / 9 and probability 0.5."""
    compiled = jax.jit(search, compiler_options={"xla_backend_optimization_level": 3})  # 25,000 steps
    for seed in range(5):
        policy = jax.device_get(compiled(seed))
        share, probability, magnitude = of_operation(policy, "TranslateX")
        other_share, other_probability, _ = of_operation(policy, "ChannelShuffle")
        message = (
            f"seed {seed}: {share:.2f} {probability:.2f} {magnitude:.3f} {other_share:.2f} {other_probability:.2f}"
        )
        print(message)
        assert share > 1.5 * 2 / 9 and other_share < 2 / 9 / 1.5, message
        assert probability > max(0.5, other_probability), message
        assert abs(magnitude - 0.7778) < 0.04, message


@pytest.mark.full  # 25,000 steps
def test_an_outer_loss_behind_the_same_policy_finds_less():
    """The consistency loss refines the right maps of the outer batch too, where every move hurts: what helps hardly
    gains weight on average, by the plain outer loss it gains more than half in every seed, and its magnitude is between
    none (0.5) and the right one (0.78)."""
    compiled = jax.jit(lambda seed: search(seed, "consistency"), compiler_options={"xla_backend_optimization_level": 3})
    shares = []
    for seed in range(5):
        policy = jax.device_get(compiled(seed))
        share, _, magnitude = of_operation(policy, "TranslateX")
        other_share, _, _ = of_operation(policy, "ChannelShuffle")
        message = f"seed {seed}: {share:.2f} {magnitude:.3f} {other_share:.2f}"
        print(message)
        shares.append(share)
        assert share > 0.8 * 2 / 9 and other_share < 2 / 9 / 1.5 and 0.55 < magnitude < 0.72, message
    assert np.mean(shares) < 0.35, shares
