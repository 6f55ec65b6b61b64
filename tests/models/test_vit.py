"""Vision transformers: against a slow forward pass, tails, positions, state dicts. See also test_imagenet.py."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from kd_jax import InputError, models
from kd_jax.interop import state_dict
from kd_jax.models import vit
from kd_jax.models.vit import VisionTransformer

KEY = jax.random.key(0)
MODEL = VisionTransformer(width=12, heads=3, blocks=(1, 2, 1, 1), patch=4, num_classes=5)
IMAGE = np.random.RandomState(0).normal(size=(2, 8, 15, 3)).astype("f")  # 2 x 3 patches, 3 columns unseen


@pytest.fixture(scope="module")
def run():
    """Variables away from their initial values, outputs in both modes, and the tails behind every stage."""

    @jax.jit
    def everything():
        variables = models.init(MODEL, jax.random.key(0), jnp.asarray(IMAGE))
        leaves, structure = jax.tree.flatten(variables)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        variables = jax.tree.unflatten(structure, moved)
        out, _ = models.apply(MODEL, variables, IMAGE)
        trained, stats = models.apply(MODEL, variables, IMAGE, train=True)
        return (
            variables,
            out,
            trained,
            stats,
            [models.apply(MODEL, variables, s, after=i)[0] for i, s in enumerate(out.stages)],
        )

    return everything()


def slow_norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def slow_linear(x, p):
    return x @ p["kernel"] + p["bias"]


def slow_block(x, p, heads):
    """Of one image: tokens (T, D), a loop over heads and tokens."""
    qkv = slow_linear(slow_norm(x, p["norm1"]), p["attn"]["qkv"])
    tokens, width = x.shape
    size, attended = width // heads, np.zeros_like(x)
    for h in range(heads):
        q, k, v = (qkv[:, i * width + h * size : i * width + (h + 1) * size] for i in range(3))
        for t in range(tokens):
            scores = np.array([q[t] @ k[u] / math.sqrt(size) for u in range(tokens)])
            shares = np.exp(scores - scores.max())
            attended[t, h * size : (h + 1) * size] = shares / shares.sum() @ v
    x = x + slow_linear(attended, p["attn"]["proj"])
    inner = slow_linear(slow_norm(x, p["norm2"]), p["mlp"]["fc1"])
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return x + slow_linear(inner, p["mlp"]["fc2"])


@pytest.mark.full  # torch's outputs of both networks: test_imagenet.py
def test_a_slow_forward_pass(run):
    variables, out, *_ = run
    p = jax.tree.map(np.float64, variables.params)
    for image, *stages, pooled, logits in zip(IMAGE, *out.stages, out.pooled, out.logits, strict=True):
        kernel = p["patch_embed.proj"]["kernel"]
        patches = [np.einsum("hwc,hwcd->d", image[i : i + 4, j : j + 4], kernel) for i in (0, 4) for j in (0, 4, 8)]
        x = np.concatenate([p["cls_token"][0], np.array(patches) + p["patch_embed.proj"]["bias"]]) + p["pos_embed"][0]
        slow_stages, number = [x], 0
        for blocks in MODEL.blocks:
            for _ in range(blocks):
                x, number = slow_block(x, p[f"blocks.{number}"], MODEL.heads), number + 1
            slow_stages.append(x)
        for ours, slow in zip(stages, slow_stages, strict=True):
            np.testing.assert_allclose(ours, slow, atol=1e-4 * np.abs(slow).max())
        normed = slow_norm(x, p["norm"])[0]
        np.testing.assert_allclose(pooled, normed, atol=1e-4)
        np.testing.assert_allclose(logits, slow_linear(normed, p["head"]), atol=1e-4)
    assert out.preacts is None and out.cam is None


def test_tails_and_training(run):
    variables, out, trained, stats, rests = run
    assert variables.stats == stats == {}
    np.testing.assert_allclose(trained.logits, out.logits, rtol=1e-6, atol=1e-6)
    for i, rest in enumerate(rests):
        assert len(rest.stages) == 4 - i and rest.preacts is None
        np.testing.assert_allclose(rest.logits, out.logits, rtol=1e-5, atol=1e-5)
        for a, b in zip(rest.stages, out.stages[i + 1 :], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_tail_of_its_own(run):
    tokens = run[1].stages[2]
    branch = jax.eval_shape(lambda: models.init(MODEL, jax.random.key(2), tokens, after=2))
    assert set(branch.params) == {"blocks.3", "blocks.4", "norm", "head"}


def test_stages_of_the_named_ones():
    for name, width in (("vit_tiny_patch16_224", 192), ("vit_small_patch16_224", 384)):
        _, out = models.shapes(vit.NETWORKS[name](num_classes=7), (224, 224, 3), batch=2)
        assert [s.shape for s in out.stages] == [(2, 197, width)] * 5
        assert out.pooled.shape == (2, width) and out.logits.shape == (2, 7)


def test_multiply_adds_are_counted_attention_included():
    tokens, width, classes = 7, 12, 5
    block = tokens * width * width * (3 + 1 + 4 + 4) + 2 * tokens * tokens * width
    plain = 6 * 48 * width + 5 * block + width * classes
    assert models.count_multiply_adds(MODEL, IMAGE.shape[1:]) == plain


def test_images_of_another_size_are_refused(run):
    with pytest.raises(ValueError, match=r"^ViT: images of 8x8 have 2x2 patches, its positions are for 6(\n|$)"):
        models.apply(MODEL, run[0], IMAGE[:, :, :8])
    with pytest.raises(ValueError, match=r"^ViT: images of 3x15 hold no patch of 4x4(\n|$)"):
        models.shapes(MODEL, (3, 15, 3))


def test_initialisation():
    """timm's: N(0, 0.02), biases 0, class token near 0; the patches have PyTorch's default."""
    model = VisionTransformer(width=96, heads=2, blocks=(1,), patch=8)
    params = jax.jit(lambda: models.init(model, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))().params
    assert float(jnp.abs(params["cls_token"]).max()) < 1e-5 and float(jnp.abs(params["cls_token"]).max()) > 0
    for kernel in (params["pos_embed"], params["head"]["kernel"], params["blocks.0"]["attn"]["qkv"]["kernel"]):
        assert float(kernel.std()) == pytest.approx(0.02, rel=0.05)
    for part in (params["head"], *params["blocks.0"]["attn"].values(), *params["blocks.0"]["mlp"].values()):
        assert not part["bias"].any()
    for leaf in params["patch_embed.proj"].values():
        assert float(jnp.abs(leaf).max()) == pytest.approx(1 / math.sqrt(8 * 8 * 3), rel=0.05)


def test_half_precision_keeps_its_norms_and_softmax_wide(run):
    variables = jax.tree.map(lambda x: x.astype(jnp.bfloat16), run[0])
    out = jax.jit(lambda v, x: models.apply(MODEL, v, x)[0])(variables, IMAGE.astype(jnp.bfloat16))
    assert {s.dtype for s in out.stages} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(np.float32(out.logits), run[1].logits, atol=0.05 * np.abs(run[1].logits).max())


def test_there_and_back(run, tmp_path):
    for file in ("net.pth", "net.safetensors"):
        models.save_torch(tmp_path / file, MODEL, run[0])
        again = models.load_torch(tmp_path / file, MODEL, IMAGE.shape[1:])
        jax.tree.map(np.testing.assert_array_equal, tuple(again), tuple(run[0]))


def constant_weights(model, shape, prefix=""):
    tensors = {k: np.broadcast_to(np.float32(0.5), s) for k, s in state_dict.published(model, shape).items()}
    return state_dict.WeightsFile("net.pth", {prefix + k: v for k, v in tensors.items()}, {}, "")


def test_positions_of_another_grid_are_refused_in_one_line():
    model = MODEL.clone(blocks=(1,))
    file = constant_weights(model, (16, 16, 3), "model.")
    with pytest.raises(InputError) as e:
        state_dict.from_torch(file, model, (8, 8, 3), what="the student")
    assert str(e.value) == (
        "net.pth: its pos_embed (1, 17, 12) is for images of 16x16, those of the student are 8x8 and want (1, 5, 12); "
        "positions are not interpolated"
    )
    taken = state_dict.from_torch(file, model, (8, 8, 3), partial=True)
    assert taken.params["pos_embed"].shape == (1, 5, 12) and (taken.params["cls_token"] == 0.5).all()


def test_a_state_dict_is_recognised(monkeypatch):
    """At the grid it was made for; Tiny and Small have the same names, distilled ones two more."""
    named = {name: partial(make, blocks=(1, 1)) for name, make in vit.NETWORKS.items()}
    monkeypatch.setattr(models, "MODELS", named)
    for name, make in named.items():
        for size in (224, 64):
            assert state_dict.recognize(constant_weights(make(num_classes=9), (size, size, 3), "module.")) == (name, 9)
    file = constant_weights(named["vit_small_patch16_224"](num_classes=9), (64, 64, 3))
    for broken in (np.zeros((1, 1, 384)), np.zeros((1, 0, 384)), np.zeros(3), np.zeros((1, 18, 384))):
        assert state_dict.recognize(file._replace(tensors=file.tensors | {"pos_embed": broken})) is None


def test_a_block_drops_its_branches_for_single_examples():
    """Each of four outcomes as often as it should be; what stays is divided by the share that stays."""
    count, rate = 1500, 0.4
    block, dropping = vit.Block(3), vit.Block(3, rate)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(2), (1, 4, 12)), (count, 4, 12))
    params = jax.jit(block.init)(jax.random.key(0), x[:1])["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    rngs = {models.base.DROP_PATH: jax.random.key(3)}
    ours = np.asarray(jax.jit(lambda: dropping.apply({"params": params}, x, rngs=rngs))())
    p, one, scale = jax.tree.map(np.float64, params), np.float64(x[0]), 1 / (1 - rate)
    still = jax.tree.map(np.zeros_like, p)
    attention = slow_block(one, {**p, "mlp": still["mlp"]}, 3) - one
    outcomes = []
    for attends in (False, True):
        y = one + attends * scale * attention
        branch = slow_block(y, {**p, "attn": still["attn"]}, 3) - y
        outcomes += [y, y + scale * branch]
    distance = np.stack([abs(ours - y).max((1, 2)) for y in outcomes])
    assert (distance.min(0) < 1e-4).all()
    for share, wanted in zip(np.bincount(distance.argmin(0)) / count, (0.16, 0.24, 0.24, 0.36), strict=True):
        assert abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / count)


def test_rates_rise_linearly_and_only_in_training():
    deep, rates = MODEL.clone(drop_path=0.4), {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, vit.Block) and context.method_name == "__call__":
            rates.setdefault(context.module.name, []).append(context.module.drop)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        variables = jax.eval_shape(partial(models.init, deep), KEY, IMAGE)
        jax.eval_shape(lambda v: models.apply(deep, v, IMAGE, train=True, key=KEY)[0], variables)
        jax.eval_shape(lambda v: models.apply(deep, v, IMAGE)[0], variables)
    for number in range(5):
        assert rates[f"blocks.{number}"] == [0.0, pytest.approx(0.1 * number), 0.0]


def test_stochastic_depth(run):
    """Off in evaluation and at rate 0, to the bit; a tail drops what the whole network drops; a recomputation too."""
    variables, out, trained, _, _ = run
    deep = MODEL.clone(drop_path=0.6)
    keys = [jax.random.key(7), jax.random.key(8)]

    @jax.jit
    def outputs(variables):
        runs = [models.apply(deep, variables, IMAGE, train=True, key=key)[0] for key in keys]
        tails = [models.apply(deep, variables, x, True, i, keys[0])[0].logits for i, x in enumerate(runs[0].stages)]
        again = models.apply(models.with_options(deep, remat=True), variables, IMAGE, train=True, key=keys[0])[0]
        return runs, tails, again

    (first, second), tails, again = outputs(variables)
    assert not np.allclose(first.logits, second.logits) and not np.allclose(first.logits, out.logits)
    for logits in (*tails, again.logits):
        np.testing.assert_allclose(logits, first.logits, rtol=1e-5, atol=1e-5)
    evaluated = jax.jit(lambda v: models.apply(deep, v, IMAGE)[0])(variables)
    keyed = jax.jit(lambda v: models.apply(MODEL, v, IMAGE, train=True, key=KEY)[0])(variables)
    plain = jax.jit(lambda v: models.apply(MODEL, v, IMAGE)[0])(variables)
    for ours in (evaluated, keyed):
        jax.tree.map(np.testing.assert_array_equal, ours, plain)
    with pytest.raises(InputError, match="ViT: drop_path needs a key in training"):
        models.apply(deep, variables, IMAGE, train=True)
