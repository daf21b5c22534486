"""What the networks are built of: temporal convolutions, dropout by key, and checks of their inputs and options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax import losses
from casejax.array_types import Array, Bool, Float, Key
from casejax.labels import foreground_labels
from casejax.losses import without_padding
from casejax.methods.contract import Outputs
from casejax.records import SnippetScores

Initializer = Callable[..., jax.Array]
Init = Callable[[int, int], tuple[Initializer, Initializer]]
"""From the numbers of values that go in and out to the initializers of kernel and bias."""


def _uniform(limit: float) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def torch_default(fan_in: int, fan_out: int) -> tuple[Initializer, Initializer]:
    """Kernel and bias uniform in ±1/sqrt(fan_in), PyTorch's default."""
    return _uniform(1 / math.sqrt(fan_in)), _uniform(1 / math.sqrt(fan_in))


def kaiming(fan_in: int, fan_out: int) -> tuple[Initializer, Initializer]:
    """Kernel uniform in ±sqrt(6/fan_in), bias 0 (He et al., ICCV 2015)."""
    return _uniform(math.sqrt(6 / fan_in)), nnx.initializers.zeros


def xavier(fan_in: int, fan_out: int) -> tuple[Initializer, Initializer]:
    """Kernel uniform in ±sqrt(6/(fan_in + fan_out)), bias 0 (Glorot and Bengio, AISTATS 2010)."""
    return _uniform(math.sqrt(6 / (fan_in + fan_out))), nnx.initializers.zeros


def pointwise(
    d_in: int, d_out: int, rngs: nnx.Rngs, *, init: Init = torch_default, bias: bool = True, dtype: Any = None
) -> nnx.Linear:
    """A linear layer on each snippet, in other words a temporal convolution of width 1.

    Args:
      d_in: channels of the input.
      d_out: channels of the output.
      rngs: seeds of the initial parameters.
      init: initializers of kernel and bias.
      bias: whether it has one.
      dtype: type it computes in, such as `jnp.bfloat16`; default that of input and parameters.
    """
    kernel_init, bias_init = init(d_in, d_out)
    return nnx.Linear(d_in, d_out, kernel_init=kernel_init, bias_init=bias_init, use_bias=bias, dtype=dtype, rngs=rngs)


class TemporalConv(nnx.Module):
    """A convolution over time that keeps the length; beyond either end, and in padding, snippets are zeros.

    Args:
      d_in: channels of the input.
      d_out: channels of the output.
      width: snippets a kernel sees, odd.
      init: initializers, given the fans of the whole kernel.
      rngs: seeds of the initial parameters.
    """

    def __init__(self, d_in: int, d_out: int, *, width: int = 3, init: Init = torch_default, rngs: nnx.Rngs) -> None:
        kernel, bias = init(width * d_in, width * d_out)
        self.kernel = nnx.Param(kernel(rngs.params(), (width, d_in, d_out)))
        self.bias = nnx.Param(bias(rngs.params(), (d_out,)))

    def __call__(self, x: Float[Array, "b t d"], *, mask: Bool[Array, "b t"] | None = None) -> Float[Array, "b t e"]:
        """Convolve (B, T, D_in) to (B, T, D_out). The numbers in padding have no meaning."""
        kernel, x = self.kernel[...], without_padding(x, mask=mask)
        width, half = len(kernel), len(kernel) // 2
        padded = jnp.pad(x, [(0, 0), (half, half), (0, 0)])
        # One product of all that a kernel sees; XLA's convolutions over time are many times slower on a CPU.
        seen = jnp.concatenate([padded[:, tap : tap + x.shape[1]] for tap in range(width)], axis=2)
        return seen @ kernel.reshape(-1, kernel.shape[2]) + self.bias[...][None, None, :]


def dropout_keys(key: Key[Array, ""] | None) -> Iterator[Key[Array, ""] | None]:
    """A key for each dropout of a call, in their order; always None where there is no key."""
    site = 0
    while True:
        yield None if key is None else jax.random.fold_in(key, site)
        site += 1


def dropout(x: Float[Array, "*n"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "*n"]:
    """Zero each entry with probability `rate` and scale the others up; without a key, `x` itself."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def check_counts(dims: Sequence[int], **counts: int) -> None:
    """Refuse a network without a stream or with a count below 1.

    Raises:
      ValueError: naming all of them.
    """
    if not dims or min(*dims, *counts.values()) < 1:
        named = ", ".join(f"{name}={value}" for name, value in counts.items())
        raise ValueError(
            f"the network needs at least one stream and counts of at least 1, got dims={tuple(dims)}, {named}"
        )


def check_rates(**rates: float) -> None:
    """Refuse a rate of dropout outside [0, 1).

    Raises:
      ValueError: naming all of them.
    """
    if not all(0 <= rate < 1 for rate in rates.values()):
        named = ", ".join(f"{name}={value}" for name, value in rates.items())
        raise ValueError(f"rates of dropout must lie in [0, 1), got {named}")


def read_streams(
    features: Sequence[Float[Array, "b t _"]], dims: Sequence[int], *, mask: Bool[Array, "b t"] | None
) -> list[Float[Array, "b t _"]]:
    """Features as a network computes with them: zeros in padding, float32 or wider.

    Args:
      features: (B, T, D_s), one array a stream.
      dims: D_s of the streams the network was made for.
      mask: True for real snippets; default all.

    Raises:
      ValueError: other streams than the network has.
    """
    shapes = [x.shape for x in features]
    if [shape[-1] for shape in shapes] != list(dims) or any(len(shape) != 3 for shape in shapes):
        raise ValueError(f"the network has streams of {tuple(dims)} dimensions, got features of shapes {shapes}")
    features = [without_padding(x, mask=mask) for x in features]
    return [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in features]


def attend(
    encoders: Sequence[nnx.Module], heads: Sequence[nnx.Module], features: Sequence[Float[Array, "b t _"]]
) -> tuple[tuple[Float[Array, "b t d"], ...], tuple[Float[Array, "b t"], ...]]:
    """Embedding (B, T, D) and attention (B, T) of each stream: an encoder with ReLU, a linear layer with a sigmoid."""
    embedding = tuple(jax.nn.relu(encoder(x)) for encoder, x in zip(encoders, features, strict=True))
    return embedding, tuple(jax.nn.sigmoid(head(e)[..., 0]) for head, e in zip(heads, embedding, strict=True))


def top_k_foreground(
    scores: Float[Array, "b t c"],
    labels: Float[Array, "b c"],
    outputs: Outputs,
    *,
    divisor: int = 8,
    mask: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t"], ...]:
    """Foreground labels Q^A, one array an embedding: the best snippets of the video's classes (Eq. 15 of CASE).

    Args:
      scores: (B, T, C) by which the method itself selects the snippets of a class.
      labels: (B, C) zeros and ones.
      outputs: the network's predictions.
      divisor: snippets a selected one.
      mask: True for real snippets; default all.
    """
    selected = losses.select_top_k(scores, divisor=divisor, mask=mask)
    return (foreground_labels(selected, labels),) * len(outputs.embedding)


def calibrated_scores(
    outputs: Outputs,
    *,
    cas_weight: float | Float[Array, ""],
    top_k_divisor: int,
    probabilities: bool = False,
    mask: Bool[Array, "b t"] | None = None,
) -> SnippetScores:
    """Inference of CASE, ASL and AICL: the calibrated T-CAS is thresholded and ranked (appendix F.4 of CASE).

    Args:
      outputs: the network's predictions.
      cas_weight: omega of the calibrated T-CAS.
      top_k_divisor: snippets a selected one in the video's scores.
      probabilities: average probabilities, not logits, over the selected snippets.
      mask: True for real snippets; default all. Scores elsewhere are 0.
    """
    fused = losses.calibrate(outputs.cas, losses.stream_mean(outputs.attention), cas_weight=cas_weight)
    selected = losses.select_top_k(fused, divisor=top_k_divisor, mask=mask)
    video = losses.stream_mean(
        [jax.nn.softmax(losses.pooled(cas, selected, probabilities=probabilities)) for cas in outputs.cas]
    )
    return SnippetScores(losses.without_padding(fused, mask=mask), video)
