"""Convolutions and maxima with TensorFlow's SAME padding: single operations, or on CPUs what XLA does faster there.

SAME gives ceil(length / stride) values along an axis and pads with as few zeros as that needs, the odd one at the end.
XLA's convolutions on CPUs are fast over two axes, slow over three and for a group a channel. float32 is computed as
such everywhere, without the shorter products that accelerators would take.
"""

from __future__ import annotations

from functools import partial, reduce

import jax
import jax.numpy as jnp

from casejax.array_types import Array, Float


def convolve(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c k"], *, stride: int = 1
) -> Float[Array, "b t2 h2 w2 k"]:
    """Convolution over time, height and width with TensorFlow's SAME padding and one stride for all three.

    float32 is computed as such everywhere, without the shorter products that accelerators would take.
    """
    if kernel.shape[:3] == (1, 1, 1) and stride == 1:
        return jnp.matmul(x, kernel[0, 0, 0], precision="highest")
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(convolve_by_frames, stride=stride), default=partial(convolve_at_once, stride=stride)
    )


def convolve_at_once(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c k"], *, stride: int
) -> Float[Array, "b t2 h2 w2 k"]:
    """`convolve` as the one operation it is."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,) * 3, "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), precision="highest"
    )


def convolve_by_frames(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kt kh kw c k"], *, stride: int
) -> Float[Array, "b t2 h2 w2 k"]:
    """`convolve` over height and width alone, of images whose channels are those of all frames that a kernel spans."""
    b, t, h, w, c = x.shape
    size, k = kernel.shape[0], kernel.shape[-1]
    before, after = same_padding(t, size, stride)
    frames = jnp.arange(0, t + before + after - size + 1, stride)[:, None] + jnp.arange(size)[None]
    x = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))[:, frames]
    x = x.transpose(0, 1, 3, 4, 2, 5).reshape(-1, h, w, size * c)
    kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(*kernel.shape[1:3], size * c, k)
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    return y.reshape(b, -1, *y.shape[1:])


def max_pool(
    x: Float[Array, "b t h w c"], window: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Array, "b t2 h2 w2 c"]:
    """Maximum over windows with TensorFlow's SAME padding, one axis after the other."""
    for axis in (1, 2, 3):
        sizes, steps = [1] * 5, [1] * 5
        sizes[axis], steps[axis] = window[axis - 1], stride[axis - 1]
        if sizes[axis] > 1:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sizes, steps, "SAME")
    return x


def same_padding(length: int, size: int, stride: int) -> tuple[int, int]:
    """What TensorFlow's SAME adds before and after an axis: as little as gives ceil(length / stride), less before."""
    missing = max((-(-length // stride) - 1) * stride + size - length, 0)
    return missing // 2, missing - missing // 2


def depthwise(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c"], *, stride: int = 1
) -> Float[Array, "n h2 w2 c"]:
    """Convolution over height and width of every channel by itself, with SAME padding."""
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(depthwise_by_shifts, stride=stride), default=partial(depthwise_at_once, stride=stride)
    )


def depthwise_at_once(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c"], *, stride: int
) -> Float[Array, "n h2 w2 c"]:
    """`depthwise` as the one operation it is."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision="highest",
    )


def depthwise_by_shifts(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c"], *, stride: int
) -> Float[Array, "n h2 w2 c"]:
    """`depthwise` as a sum over the places of the kernel."""
    size = kernel.shape[0]
    spans = [(-(-length // stride) - 1) * stride + 1 for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *(same_padding(length, size, stride) for length in x.shape[1:3]), (0, 0)))
    shifts = [(i, j) for i in range(size) for j in range(size)]
    return reduce(
        jnp.add,
        (
            x[:, i : i + spans[0] : stride, j : j + spans[1] : stride] * kernel[i, j].reshape(1, 1, 1, -1)
            for i, j in shifts
        ),
    )
