"""I3D, the two-stream Inflated Inception-v1 of Carreira and Zisserman (arXiv 1705.07750), for inference.

Batch normalisation is folded into the convolutions: a layer is `relu(conv(x, kernel) + bias)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from casejax.array_types import Array, Float
from casejax.features.convolutions import convolve, max_pool
from casejax.features.flow import FLOW_LIMIT
from casejax.features.weights import Weights

STEM, REDUCE, CONV, LOGITS = "Conv3d_1a_7x7", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "Logits/Conv3d_0c_1x1"
BRANCHES = (
    "Branch_0/Conv3d_0a_1x1",
    "Branch_1/Conv3d_0a_1x1",
    "Branch_1/Conv3d_0b_3x3",
    "Branch_2/Conv3d_0a_1x1",
    "Branch_2/Conv3d_0b_3x3",
    "Branch_3/Conv3d_0b_1x1",
)
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of the six convolutions of each Inception module, in the order of `BRANCHES` (arXiv 1409.4842, Table 1)."""

POOL_BEFORE = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2),) * 2}
"""Window and stride of the maximum before a module, over time, height and width (arXiv 1705.07750, Figure 3)."""


def layer_shapes(channels: int, num_classes: int = 400) -> dict[str, tuple[int, int, int, int, int]]:
    """Shapes (t, h, w, C, K) of all kernels, by the names that the original release gives its layers.

    Args:
      channels: of the input: 3 for RGB, 2 for flow.
      num_classes: K of the last layer.
    """
    shapes = {STEM: (7, 7, 7, channels, 64), REDUCE: (1, 1, 1, 64, 64), CONV: (3, 3, 3, 64, 192)}
    width = 192
    for module, widths in MIXED.items():
        b0, b1a, b1b, b2a, b2b, b3 = widths
        pairs = ((width, b0), (width, b1a), (b1a, b1b), (width, b2a), (b2a, b2b), (width, b3))
        for branch, pair in zip(BRANCHES, pairs, strict=True):
            shapes[f"{module}/{branch}"] = (*((3, 3, 3) if branch.endswith("3x3") else (1, 1, 1)), *pair)
        width = b0 + b1b + b2b + b3
    return shapes | {LOGITS: (1, 1, 1, width, num_classes)}


class I3D(nnx.Module):
    """I3D for one stream, RGB or flow, by the channels of its first kernel.

    To use it as a function, split it once and call `i3d_features`:

        graphdef, params = nnx.split(read_i3d("rgb_imagenet.pt"))
        features = i3d_features(graphdef, params, clips)

    Args:
      weights: of every layer in `layer_shapes`. Channels may differ from the published ones, as long as they fit
        each other.
      dtype: type that convolutions compute in, such as `jnp.bfloat16` for speed on accelerators; default float32.
    """

    def __init__(self, weights: Mapping[str, Weights], *, dtype: Any = None) -> None:
        self.stem, self.reduce, self.conv = (Conv(weights[name], dtype) for name in (STEM, REDUCE, CONV))
        self.mixed = nnx.List([Inception(weights, name, dtype) for name in MIXED])
        self.logits = Conv(weights[LOGITS], None)
        self.channels = weights[STEM].kernel.shape[3]
        self.dtype = dtype

    def __call__(self, clips: ArrayLike, *, output: str = "features") -> Float[Array, "b *t_h_w d"]:
        """Features of clips.

        The published network averages its last map over windows of 2 x 7 x 7, stride 1, then over time; for clips of
        224 x 224 that is done here to the letter, so the first and last of more than two frames of the map weigh half.
        For other sizes the window is 2 frames by the whole of the map, and 1 frame where the map has one (8 frames
        of video or fewer).

        Args:
          clips: (B, T, H, W, 3) RGB of type uint8, or (B, T, H, W, 2) flow in pixels, horizontal first. Flow is cut
            off at 20 pixels. Any size will do.
          output: "features" (B, 1024) after the average; "map" (B, T/8, H/32, W/32, 1024), sizes rounded up, before
            it; "logits" (B, 400) of the classes of Kinetics, `KINETICS_400`.

        Raises:
          ValueError: clips of another shape or type, or an unknown output.
        """
        if output not in ("features", "map", "logits"):
            raise ValueError(f"output must be 'features', 'map' or 'logits', got {output!r}")
        x = _scaled(clips, self.channels).astype(self.dtype or jnp.float32)
        x = max_pool(self.stem(x, stride=2), (1, 3, 3), (1, 2, 2))
        x = self.conv(self.reduce(x))
        for name, module in zip(MIXED, self.mixed, strict=True):
            if name in POOL_BEFORE:
                x = max_pool(x, *POOL_BEFORE[name])
            x = module(x)
        x = x.astype(jnp.float32)
        if output == "map":
            return x
        x = x.mean(axis=(2, 3))
        if x.shape[1] > 1:
            x = (x[:, :-1] + x[:, 1:]) / 2
        x = x.mean(axis=1)
        if output == "features":
            return x
        kernel, bias = self.logits.kernel.get_value(), self.logits.bias.get_value()
        return jnp.matmul(x, kernel[0, 0, 0], precision="highest") + bias[None]


@partial(jax.jit, static_argnames=("graphdef", "output"))
def i3d_features(
    graphdef: nnx.GraphDef[I3D],
    params: Any,
    clips: ArrayLike,
    *,
    output: str = "features",
) -> Float[Array, "b *t_h_w d"]:
    """`I3D.__call__` as a compiled function; `graphdef` and `params` are what `nnx.split` makes of the network.

    Example:
      >>> import numpy as np
      >>> from flax import nnx
      >>> from casejax import features
      >>> graphdef, params = nnx.split(features.read_i3d("rgb_imagenet.pt"))
      >>> features.i3d_features(graphdef, params, np.zeros((1, 8, 32, 32, 3), np.uint8)).shape
      (1, 1024)
    """
    return nnx.merge(graphdef, params)(clips, output=output)


class Inception(nnx.Module):
    """Four branches over the same input, side by side: 1x1x1; 1x1x1 and 3x3x3, twice; maximum and 1x1x1."""

    def __init__(self, weights: Mapping[str, Weights], name: str, dtype: Any) -> None:
        b0, b1a, b1b, b2a, b2b, b3 = (weights[f"{name}/{branch}"] for branch in BRANCHES)
        # The three that read the input itself are one product.
        first = Weights(*(np.concatenate(parts, axis=-1) for parts in zip(b0, b1a, b2a, strict=True)))
        self.cuts = tuple(np.cumsum([b0.bias.size, b1a.bias.size]).tolist())
        self.first = Conv(first, dtype)
        self.conv1, self.conv2, self.pooled = Conv(b1b, dtype), Conv(b2b, dtype), Conv(b3, dtype)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w d"]:
        """Maps of the same size."""
        b0, b1, b2 = jnp.split(self.first(x), self.cuts, axis=-1)
        b3 = self.pooled(max_pool(x, (3, 3, 3), (1, 1, 1)))
        return jnp.concatenate([b0, self.conv1(b1), self.conv2(b2), b3], axis=-1)


class Conv(nnx.Module):
    """Convolution with TensorFlow's SAME padding, bias and ReLU."""

    def __init__(self, weights: Weights, dtype: Any) -> None:
        self.kernel = nnx.Param(jnp.asarray(weights.kernel, dtype or jnp.float32))
        self.bias = nnx.Param(jnp.asarray(weights.bias, jnp.float32))

    def __call__(self, x: Float[Array, "b t h w c"], *, stride: int = 1) -> Float[Array, "b t2 h2 w2 k"]:
        """Maps at 1/`stride` of the size, rounded up."""
        y = convolve(x, self.kernel.get_value(), stride=stride)
        bias = self.bias.get_value().astype(y.dtype)
        return jax.nn.relu(y + bias.reshape(1, 1, 1, 1, -1))


def _scaled(clips: ArrayLike, channels: int) -> Float[Array, "b t h w c"]:
    """Pixels or flow in [-1, 1]."""
    clips = jnp.asarray(clips)
    kind = "RGB of type uint8" if channels == 3 else "flow of a floating type"
    fits = clips.dtype == jnp.uint8 if channels == 3 else jnp.issubdtype(clips.dtype, jnp.floating)
    if clips.ndim != 5 or clips.shape[-1] != channels or 0 in clips.shape or not fits:
        raise ValueError(
            f"clips must be {kind}, (B, T, H, W, {channels}) with no axis empty, got {clips.dtype} of shape "
            f"{clips.shape}"
        )
    if channels == 3:
        return clips.astype(jnp.float32) * (2 / 255) - 1
    return jnp.clip(clips.astype(jnp.float32), -FLOW_LIMIT, FLOW_LIMIT) / FLOW_LIMIT
