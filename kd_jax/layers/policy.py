"""An augmentation policy over S sub-policies of two operations: a batch draws one, and the outcome trains the policy.

A policy is {"probability": (S, 2) of each operation, "weight": (S,) logits of the sub-policies, "magnitude": (S, 2)},
and with the RELAX estimator {"control": ...}, the control variate. Probabilities and magnitudes are clipped to [0, 1]
before use; the clip passes their gradient, so that a value can leave a bound again.

Reference: Shen et al., "Student-Oriented Teacher Knowledge Refinement", 2024, arXiv 2409.18785; the estimators are of
  Li, Hu, Wang, Hospedales, Robertson, Yang, "DADA", ECCV 2020, arXiv 2003.03780; Grathwohl, Choi, Wu, Roeder, Duvenaud,
  "Backpropagation through the Void" (RELAX), ICLR 2018, arXiv 1711.00123; Jang, Gu, Poole, "Categorical
  Reparameterization with Gumbel-Softmax", ICLR 2017, arXiv 1611.01144.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd_jax.layers.augment import PAIRS, straight_through
from kd_jax.layers.keys import fold
from kd_jax.typing import Array, InputError, PyTree

ESTIMATORS = ("relaxed", "relax")
STARTS = ("published", "random")
TEMPERATURE = 0.5
HIDDEN = 100
EDGE = 1e-6  # log-probabilities are of probabilities clipped to [EDGE, 1 - EDGE]
_lecun = jax.nn.initializers.lecun_normal()


class Draw(NamedTuple):
    """What one batch is augmented with.

    index: () int, the sub-policy. on: (2,) of 0 and 1, whether each operation is applied. magnitudes: (2,) in [0, 1].
    weight: (), 1; with the "relaxed" estimator its gradient is that of the sub-policy's weight.
    """

    index: Array
    on: Array
    magnitudes: Array
    weight: Array


class _Sample(NamedTuple):
    logit: Array  # (S, 2) of the probabilities
    log_share: Array  # (S,) of the sub-policies
    z_on: Array  # (S, 2), above 0 where on
    z_index: Array  # (S,), its largest is drawn
    on: Array  # (S, 2)
    index: Array  # ()


def init(
    key: Array, *, estimator: str, start: str = "published", size: int = len(PAIRS), magnitude: Array | float = 0.5
) -> PyTree:
    """A policy at its start.

    Args:
      key: PRNG key.
      estimator: "relaxed" or "relax"; only the latter has "control".
      start: "published": probabilities 0.5, weights 0.001, magnitudes as given. "random": probabilities and magnitudes
        uniform on [0, 1], weights standard normal: a baseline for a learned policy.
      size: S.
      magnitude: (S, 2) or one for all.

    Raises:
      InputError: an unknown estimator or start.

    Differs: the control variate starts with LeCun's normal kernels and no bias; published code has PyTorch's default.
    """
    for name, value, accepted in (("estimator", estimator, ESTIMATORS), ("start", start, STARTS)):
        if value not in accepted:
            raise InputError(f"policy: {name} must be {' or '.join(accepted)}, got {value!r}")
    probability, weight, magnitude_key, hidden, output = jax.random.split(key, 5)
    if start == "random":
        policy = {"probability": jax.random.uniform(probability, (size, 2))}
        policy["weight"] = jax.random.normal(weight, (size,))
        policy["magnitude"] = jax.random.uniform(magnitude_key, (size, 2))
    else:
        policy = {"probability": jnp.full((size, 2), 0.5, float), "weight": jnp.full((size,), 1e-3, float)}
        policy["magnitude"] = jnp.full((size, 2), magnitude, float)
    if estimator == "relax":
        shapes = {"hidden": (hidden, (3 * size, HIDDEN)), "output": (output, (HIDDEN, 1))}
        policy["control"] = {
            name: {"kernel": _lecun(k, shape), "bias": jnp.zeros(shape[1], float)}
            for name, (k, shape) in shapes.items()
        }
    return policy


def draw(policy: PyTree, key: Array, *, estimator: str, temperature: float = TEMPERATURE) -> Draw:
    """Draws a sub-policy k with probability softmax(weight)_k, and applies each of its operations with its probability.

    With l = log p - log(1 - p) and logistic and Gumbel noise,

        z_p = l + logistic,   on = 1[z_p > 0];      z_w = log softmax(weight) + gumbel,   k = argmax z_w

    The values do not depend on the estimator or the temperature; a probability of exactly 0 or 1 is exact. The gradient
    by magnitude passes its clip. The gradients by probability and weight depend on the estimator:

    estimator "relaxed": straight through, d on = d sigmoid(z_p / temperature)_k and d weight = d softmax(z_w /
      temperature)_k. For the latter, use `x + weight (x' - x)` in place of x': the weights of all sub-policies sum
      to 1, hence x has no effect on the whole gradient, and the part that is left out is smaller.
      It is biased, in three ways. (1) The soft values differ from the hard ones: for an objective that is linear in
      `on`, the gradient by p is the true one times d E sigmoid(z_p / temperature) / dp, which at temperature 0.5 is
      0.86 for p = 0.5, 1.12 for p = 0.1 or 0.9 and 1.45 for p = 0.01 or 0.99. (2) Any other objective is replaced by
      its tangent at the drawn values. (3) Only the drawn sub-policy's operations run, so only its entry of the soft
      weights has a gradient. Let sub-policy k add V_k to the objective, linearly. With equal weights the mean gradient
      is proportional to the true one (0.35 of it for 36 sub-policies at temperature 0.5). With unequal weights it is
      not: even equal V have a gradient then; its descent moves weight away from large weights if V > 0, and to
      them if V < 0.
    estimator "relax": none; `score` gives them.

    Args:
      policy: as `init` made it, any S.
      key: PRNG key.
      estimator: "relaxed" or "relax".
      temperature: > 0, of the soft values.

    Differs: published code draws with "relax" and gives magnitude a gradient of 1 for each element of the map.
    """
    sample = _sample(policy, key)
    k = sample.index
    on, weight = sample.on[k], jnp.ones((), sample.z_index.dtype)
    if estimator == "relaxed":
        soft = _soften(sample.z_on, sample.z_index, temperature)
        on, weight = straight_through(on, soft[k, :2]), straight_through(weight, soft[k, 2])
    return Draw(k, on, _clip(policy["magnitude"][k], 0.0, 1.0), weight)


def score(policy: PyTree, key: Array, value: Array, *, temperature: float = TEMPERATURE) -> PyTree:
    """RELAX: gradients of the mean of an objective in probability and weight, from its value at one draw; unbiased.

        g = (value - c(z~)) grad log P(on, k) + grad c(z) - grad c(z~)

    z is as in `draw`, z~ is drawn anew given (on, k), and the control variate c is a network of one hidden layer over
    2 x - 1, x = [sigmoid(z_p / temperature), softmax(z_w / temperature)]. P is the product of the probabilities of all
    S x 2 values of `on` and of k. With logistic noise e and Gumbel noise h, both fresh,

        z~_p = softplus(e - log(1 - p)) where on, -softplus(-e - log p) elsewhere
        z~_w[k] = h_k,   z~_w[j] = -log( exp(-h_j) / softmax(weight)_j + exp(-h_k) )

    Args:
      policy: with "control".
      key: that of `draw`, which drew the sample.
      value: (), the objective at that sample; no gradient is taken of it.
      temperature: > 0.

    Returns:
      Like policy. magnitude's part is 0: differentiate the objective for it. control's part is the gradient of the mean
      of g^2 over its 3 S entries: descending it lowers the variance. Near its bounds a probability p has rare
      gradients as large as 1 / p and 1 / (1 - p): take an optimiser that is robust to them.

    Differs: published code adds log P(k) to each of the 2 S entries of log P(on), so that its gradient is 2 S times
      too large.
    """
    main = {name: policy[name] for name in ("probability", "weight")}

    def estimate(control: PyTree) -> tuple[Array, PyTree]:
        def parts(main: PyTree) -> tuple[Array, Array, Array]:
            s = _sample(main, key)
            free = _control(control, _soften(s.z_on, s.z_index, temperature))
            tied = _control(control, _soften(*_redraw(s, fold(key, "redraw")), temperature))
            log_on = -jax.nn.softplus(jnp.where(s.on > 0, -s.logit, s.logit))
            return free, tied, jnp.sum(log_on) + s.log_share[s.index]

        (free, tied, log_prob), back = jax.vjp(parts, main)
        (g,) = back((jnp.ones_like(free), -jnp.ones_like(tied), (value - tied).astype(log_prob.dtype)))
        return jnp.mean(jnp.concatenate([x.ravel() for x in g.values()]) ** 2), g

    control, g = jax.grad(estimate, has_aux=True)(policy["control"])
    return {**g, "magnitude": jnp.zeros_like(policy["magnitude"]), "control": control}


def _sample(policy: PyTree, key: Array) -> _Sample:
    p, (noise, gumbel) = policy["probability"], jax.random.split(key)
    clipped = _clip(p, EDGE, 1 - EDGE)
    logit = jnp.log(clipped) - jnp.log1p(-clipped)
    log_share = jax.nn.log_softmax(policy["weight"])
    z_on = logit + jax.random.logistic(noise, p.shape, p.dtype)
    z_index = log_share + jax.random.gumbel(gumbel, log_share.shape, log_share.dtype)
    on = ((z_on > 0) & (p > 0) | (p >= 1)).astype(p.dtype)  # exact at 0 and 1, where z_on errs once in a million
    return _Sample(logit, log_share, z_on, z_index, on, jnp.argmax(z_index))


def _redraw(s: _Sample, key: Array) -> tuple[Array, Array]:
    """(z_on, z_index) with other noise, given `on` and `index`; the formulas are in `score`."""
    logistic, gumbel = jax.random.split(key)
    noise = jax.random.logistic(logistic, s.z_on.shape, s.z_on.dtype)
    above, below = noise + jax.nn.softplus(s.logit), -noise + jax.nn.softplus(-s.logit)  # e - log(1 - p), -e - log p
    z_on = jnp.where(s.on > 0, jax.nn.softplus(above), -jax.nn.softplus(below))
    noise = jax.random.gumbel(gumbel, s.z_index.shape, s.z_index.dtype)
    top = noise[s.index]
    return z_on, (-jnp.logaddexp(-noise - s.log_share, -top)).at[s.index].set(top)


def _soften(z_on: Array, z_index: Array, temperature: float) -> Array:
    """(S, 3): the soft value of each operation and of the sub-policy."""
    share = jax.nn.softmax(z_index / temperature)
    return jnp.concatenate([jax.nn.sigmoid(z_on / temperature), share[:, None]], axis=1)


def _control(params: PyTree, soft: Array) -> Array:
    hidden = jnp.tanh((2 * soft.ravel() - 1) @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return (hidden @ params["output"]["kernel"] + params["output"]["bias"])[0]


def _clip(x: Array, low: float, high: float) -> Array:
    return straight_through(jnp.clip(x, low, high), x)
