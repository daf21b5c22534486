"""ResNet-50 v2 as a network of frame features, cut where GTA cuts it, and which of its parameters are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.array_types import Array, Bool, Float

Params = Any  # a pytree of arrays, as nnx.split gives it
Path = tuple[Any, ...]

EPSILON = 1.001e-5  # of Keras' ResNets
PAD_1 = ((1, 1), (1, 1))
PAD_3 = ((3, 3), (3, 3))
# Keras' default for convolutions.
GLOROT = nnx.initializers.glorot_uniform()


class ResNetV2(nnx.Module):
    """Pre-activation ResNet in Keras' rendering, without its head.

    The defaults are ResNet-50 v2 up to Keras' layer `conv4_block3_out`, at 1/16 of the height and width: 5,193,856
    parameters, of which 15,744 are scales and biases of 30 batch normalisations, and as many moving statistics
    (Keras counts 5,209,600 in all). What comes out is the sum of the last block, before the normalisation and
    ReLU of the next.

    Batch normalisation uses its moving statistics unless told otherwise. They are `nnx.BatchStat`, never
    parameters; to train, carry them along (the copy is what may be updated inside `jax.grad`):

        graphdef, params, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)

        def loss(params):
            network = nnx.merge(graphdef, params, statistics, copy=True)
            maps = network(images, batch_statistics=True)
            return ..., nnx.state(network, nnx.BatchStat)

    Args:
      depths: blocks of each stack. Every stack but the last ends with a block of stride 2; the last is taken to
        be cut off before its own.
      width: channels of the first convolution; those of the stacks are 4, 8, 16... times as many.
      dtype: type the convolutions compute in, such as `jnp.bfloat16` for speed; default that of images and
        parameters. Parameters and statistics stay float32.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: no stack, a width below 1, or a stack too short: 1 block for the last, 2 for the others.

    References:
      He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
    """

    def __init__(
        self, *, depths: Sequence[int] = (3, 4, 3), width: int = 64, dtype: Any = None, rngs: nnx.Rngs
    ) -> None:
        if not depths or min(depths) < 1 or min((*depths[:-1], 2)) < 2 or width < 1:
            raise ValueError(
                "a ResNet needs at least 1 block in its last stack, 2 in every other, and a width of at least 1; "
                f"got depths={tuple(depths)}, width={width}"
            )
        self.conv = _conv(3, width, 7, rngs, dtype, strides=2, padding=PAD_3)
        stacks, d_in = [], width
        for s, depth in enumerate(depths):
            blocks, hidden = [], width * 2**s
            for b in range(depth):
                stride = 2 if b == depth - 1 and s < len(depths) - 1 else 1
                blocks.append(Block(d_in, hidden, stride=stride, widen=b == 0, dtype=dtype, rngs=rngs))
                d_in = 4 * hidden
            stacks.append(nnx.List(blocks))
        self.stacks = nnx.List(stacks)
        self.num_channels = d_in

    def __call__(
        self,
        images: Float[Array, "n h w 3"],
        *,
        mask: Bool[Array, " n"] | None = None,
        batch_statistics: bool = False,
    ) -> Float[Array, "n h2 w2 c"]:
        """Feature maps of images.

        Args:
          images: (N, H, W, 3) RGB in [-1, 1].
          mask: (N,) True for real images. What comes out for the others is to be ignored; what they hold, NaN
            included, changes nothing else.
          batch_statistics: normalise with the statistics of this batch and update the moving ones.
        """
        if mask is not None:
            images = jnp.where(mask[:, None, None, None], images, 0)
        x = self.conv(images)
        # The zeros matter: there is no ReLU before this pooling.
        x = nnx.max_pool(jnp.pad(x, ((0, 0), *PAD_1, (0, 0))), (3, 3), strides=(2, 2))
        for blocks in self.stacks:
            for block in blocks:
                x = block(x, mask=mask, batch_statistics=batch_statistics)
        return x

    def keras_layers(self) -> dict[str, nnx.Conv | nnx.BatchNorm]:
        """The layers that hold weights, by the names of Keras' ResNet50V2."""
        layers: dict[str, nnx.Conv | nnx.BatchNorm] = {"conv1_conv": self.conv}
        for s, blocks in enumerate(self.stacks):
            for b, block in enumerate(blocks):
                for name, layer in block.keras_layers().items():
                    layers[f"conv{s + 2}_block{b + 1}_{name}"] = layer
        return layers


class Block(nnx.Module):
    """A bottleneck: normalisation and ReLU first, then convolutions of 1 x 1, 3 x 3 and 1 x 1, and the sum.

    With `widen` the shortcut is a convolution, which brings the channels from `d_in` to 4 times `hidden`; else
    the input itself, every second pixel of it for a stride of 2.
    """

    def __init__(self, d_in: int, hidden: int, *, stride: int, widen: bool, dtype: Any, rngs: nnx.Rngs) -> None:
        self.preact_bn = _batch_norm(d_in, rngs)
        self.shortcut = _conv(d_in, 4 * hidden, 1, rngs, dtype, strides=stride) if widen else None
        self.conv1 = _conv(d_in, hidden, 1, rngs, dtype, use_bias=False)
        self.bn1 = _batch_norm(hidden, rngs)
        self.conv2 = _conv(hidden, hidden, 3, rngs, dtype, strides=stride, padding=PAD_1, use_bias=False)
        self.bn2 = _batch_norm(hidden, rngs)
        self.conv3 = _conv(hidden, 4 * hidden, 1, rngs, dtype)
        self.stride = stride

    def __call__(
        self, x: Float[Array, "n h w c"], *, mask: Bool[Array, " n"] | None, batch_statistics: bool
    ) -> Float[Array, "n h2 w2 c2"]:
        """Feature maps after the block, before the next normalisation."""
        norm = partial(normalise, mask=mask, batch_statistics=batch_statistics)
        preact = jax.nn.relu(norm(self.preact_bn, x))
        y = self.conv1(preact)
        y = self.conv2(jax.nn.relu(norm(self.bn1, y)))
        y = self.conv3(jax.nn.relu(norm(self.bn2, y)))
        if self.shortcut is None:
            return x[:, :: self.stride, :: self.stride] + y
        return self.shortcut(preact) + y

    def keras_layers(self) -> dict[str, nnx.Conv | nnx.BatchNorm]:
        """The layers that hold weights, by what Keras appends to the name of the block."""
        layers = {} if self.shortcut is None else {"0_conv": self.shortcut}
        return layers | {
            "preact_bn": self.preact_bn,
            "1_conv": self.conv1,
            "1_bn": self.bn1,
            "2_conv": self.conv2,
            "2_bn": self.bn2,
            "3_conv": self.conv3,
        }


def normalise(
    layer: nnx.BatchNorm, x: Float[Array, "n *space c"], *, mask: Bool[Array, " n"] | None, batch_statistics: bool
) -> Float[Array, "n *space c"]:
    """Batch normalisation over all but the channels, with statistics of the entries that `mask` admits."""
    if batch_statistics and mask is not None:
        # Of no image at all there are no statistics; the masked ones have been made zero, and will do.
        mask = (mask | ~mask.any()).reshape(-1, *(1 for _ in x.shape[1:]))
    return layer(x, use_running_average=not batch_statistics, mask=mask if batch_statistics else None)


def train_all(params: Params) -> Params:
    """Mask of the parameters to train: every one. Also for training from scratch, which differs in the start."""
    return jax.tree.map(lambda _: True, params)


def only_bn(params: Params) -> Params:
    """Mask of the parameters to train: of the backbone the scales and biases of batch normalisation, all others.

    The best setting of GTA on FineGym (supplement, Table 1).

    Args:
      params: parameters of a network that holds a `ResNetV2` as its `backbone`, as `nnx.split` gives them.

    Returns:
      The same structure with True for what is to be trained. Mind that `optax.masked` passes the gradients of
      the rest on as they are; to hold them fast:

        optax.partition({True: optimizer, False: optax.set_to_zero()}, only_bn)

    Raises:
      ValueError: nothing in `params` is under the name `backbone`.
    """
    return _mask(params, lambda path: any("bn" in str(name) for name in path))


def frozen(params: Params) -> Params:
    """Mask of the parameters to train: none of the backbone, all others. See `only_bn`.

    The backbone's normalisation must then use its moving statistics: `VideoEmbedder` with `frozen`.
    """
    return _mask(params, lambda path: False)


def _mask(params: Params, trained: Callable[[Path], bool]) -> Params:
    """True for leaves outside the backbone, and for those inside whose path in it is `trained`."""
    found = False

    def judge(path: Path, leaf: object) -> bool:
        nonlocal found
        names = tuple(entry.key for entry in path if hasattr(entry, "key"))
        if "backbone" not in names:
            return True
        found = True
        return trained(names[names.index("backbone") + 1 :])

    mask = jax.tree_util.tree_map_with_path(judge, params)
    if not found:
        raise ValueError("no parameter is under the name `backbone`; give the parameters of a VideoEmbedder")
    return mask


def _conv(
    d_in: int,
    d_out: int,
    size: int,
    rngs: nnx.Rngs,
    dtype: Any,
    *,
    strides: int = 1,
    padding: Any = "VALID",
    use_bias: bool = True,
) -> nnx.Conv:
    return nnx.Conv(
        d_in,
        d_out,
        (size, size),
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_init=GLOROT,
        dtype=dtype,
        rngs=rngs,
    )


def _batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    # Not the fast variance: E[x²] - E[x]² cancels in float32.
    return nnx.BatchNorm(channels, momentum=0.99, epsilon=EPSILON, use_fast_variance=False, rngs=rngs)
