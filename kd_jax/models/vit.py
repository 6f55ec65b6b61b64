"""Vision transformers by timm's names and numbers.

References: Dosovitskiy, Beyer, Kolesnikov, Weissenborn, Zhai, Unterthiner, Dehghani, Minderer, Heigold, Gelly,
Uszkoreit, Houlsby, "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", 2020, arXiv
2010.11929. Touvron, Cord, Douze, Massa, Sablayrolles, Jegou, "Training data-efficient image transformers &
distillation through attention", 2020, arXiv 2012.12877 (the sizes Tiny and Small).
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from kd_jax.layers.basic import torch_bias, torch_default
from kd_jax.models.base import DISTILL_HEAD, DROP_PATH, Net, block_of
from kd_jax.typing import Array, InputError, Outputs

# timm cuts its normal at -2 and 2, a hundred deviations away: it cuts nothing
normal = nn.initializers.normal
linear = partial(nn.Dense, kernel_init=normal(0.02))  # biases are zeros
# use_fast_variance=False: E[x^2] - E[x]^2 cancels in float32; PyTorch does not use it either
layer_norm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class Attention(nn.Module):
    """Self-attention with `heads` heads: every token attends to every token."""

    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, tokens, width = x.shape
        parts = linear(3 * width, name="qkv")(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = (parts[:, :, i] for i in range(3))
        attended = jax.nn.dot_product_attention(query, key, value)  # logits over the root of a head's width
        return linear(width, name="proj")(attended.reshape(x.shape))


class Mlp(nn.Module):
    """A linear layer to four times the width, the exact GELU, and a linear layer back."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.gelu(linear(4 * x.shape[-1], name="fc1")(x), approximate=False)
        return linear(x.shape[-1], name="fc2")(y)


class Block(nn.Module):
    """Attention, then an MLP. A LayerNorm precedes each, and a shortcut adds its input to its result.

    drop: the probability that an example takes the shortcut alone, drawn anew for each of the two.
    """

    heads: int
    drop: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x + self._dropped(Attention(self.heads, name="attn")(layer_norm(name="norm1")(x)))
        return x + self._dropped(Mlp(name="mlp")(layer_norm(name="norm2")(x)))

    def _dropped(self, branch: Array) -> Array:
        """Zero for some examples; for the others divided by the share of examples that is left, as timm does."""
        if not self.drop:
            return branch
        remains = jax.random.bernoulli(self.make_rng(DROP_PATH), 1 - self.drop, (len(branch), 1, 1))
        return jnp.where(remains, branch / (1 - self.drop), 0)


class VisionTransformer(Net):
    """Patches, a class token in front, learned positions, blocks, a LayerNorm, and a classifier of the class token.

    `stages` are tokens (B, 1 + N, D), the class token first. `stages[0]` are the embedded patches with their positions;
    each later one is the output of a group of blocks, before the last LayerNorm. `pooled` is the class token after that
    LayerNorm. `preacts` and `cam` are None. There are no statistics: `train` changes nothing unless drop_path is set.

    width: D. heads: a divisor of D. blocks: number of blocks, one number a group. patch: pixels a side. The images for
    which the parameters are initialised give the number of positions N = (H // patch)(W // patch). The network ignores
    pixels at the right and lower edge that no whole patch covers.
    drop_path: in [0, 1), stochastic depth in training: how likely it is that a branch of the last block is left out for
    an example; at the first block that is 0, and it rises linearly (Huang, Sun, Liu, Sedra, Weinberger, "Deep Networks
    with Stochastic Depth", 2016, arXiv 1603.09382; rates and scale are timm's).
    distill_token: a second token behind the class token, with a position and a classifier of its own (DeiT); stages are
    (B, 2 + N, D). `distill_logits` are of that classifier, `logits` of the class token in training, and the mean of
    both in evaluation.
    Differs: timm interpolates the positions where images have another size; here such images are refused.
    """

    rectified = False

    width: int
    heads: int
    blocks: tuple[int, ...] = (3, 3, 3, 3)
    patch: int = 16
    num_classes: int = 1000
    drop_path: float = 0.0
    distill_token: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False, after: int = -1) -> Outputs:
        stages, block, last = [], block_of(Block, self, train=False), max(sum(self.blocks) - 1, 1)
        if train and self.drop_path and not self.has_rng(DROP_PATH):
            raise InputError("ViT: drop_path needs a key in training: kd_jax.models.apply(..., train=True, key=KEY)")
        if after < 0:
            x = self._embed(x)
            stages = [x]
        for i in range(max(after, 0), len(self.blocks)):
            first = sum(self.blocks[:i])
            for number in range(first, first + self.blocks[i]):
                drop = self.drop_path * number / last if train else 0.0
                x = block(self.heads, drop, name=f"blocks.{number}")(x)
            stages.append(x)
        normed = layer_norm(name="norm")(x)
        pooled = normed[:, 0]
        logits = linear(self.num_classes, name="head")(pooled)
        if not self.distill_token:
            return Outputs(tuple(stages), None, pooled, logits)
        distilled = linear(self.num_classes, name=DISTILL_HEAD)(normed[:, 1])
        mean = logits if train else (logits + distilled) / 2
        return Outputs(tuple(stages), None, pooled, mean, distill_logits=distilled)

    def _embed(self, image: Array) -> Array:
        """Tokens (B, 1 + N, D), or with a distillation token (B, 2 + N, D), of images (B, H, W, C).

        Raises:
          InputError: images smaller than a patch, or of another size than the positions are for.
        """
        batch, height, width, channels = image.shape
        rows, columns = height // self.patch, width // self.patch
        names = ("cls_token", "dist_token") if self.distill_token else ("cls_token",)
        size, tokens = f"images of {height}x{width}", len(names) + rows * columns
        if not rows * columns:
            raise InputError(f"ViT: {size} hold no patch of {self.patch}x{self.patch}")
        num_positions = (
            self.variables["params"]["pos_embed"].shape[1] if self.has_variable("params", "pos_embed") else tokens
        )
        if num_positions != tokens:
            raise InputError(
                f"ViT: {size} have {rows}x{columns} patches, its positions are for {num_positions - len(names)}"
            )
        bias = torch_bias(self.patch**2 * channels)
        square = (self.patch, self.patch)
        layer = nn.Conv(
            self.width,
            square,
            square,
            padding="VALID",
            kernel_init=torch_default,
            bias_init=bias,
            name="patch_embed.proj",
        )
        x = layer(image).reshape(batch, rows * columns, self.width)
        first = jnp.concatenate([self.param(name, normal(1e-6), (1, 1, self.width)) for name in names], axis=1)
        positions = self.param("pos_embed", normal(0.02), (1, tokens, self.width))
        return jnp.concatenate([jnp.broadcast_to(first, (batch, *first.shape[1:])), x], axis=1) + positions


NETWORKS = {
    "vit_tiny_patch16_224": partial(VisionTransformer, width=192, heads=3),
    "vit_small_patch16_224": partial(VisionTransformer, width=384, heads=6),
    "deit_tiny_distilled_patch16_224": partial(VisionTransformer, width=192, heads=3, distill_token=True),
    "deit_small_distilled_patch16_224": partial(VisionTransformer, width=384, heads=6, distill_token=True),
}
