"""A temporal pyramid over snippet features, with one class head and one boundary head for all of its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.array_types import Array, Bool, Float, Key
from casejax.losses import without_padding
from casejax.methods.contract import Outputs
from casejax.methods.layers import (
    TemporalConv,
    check_counts,
    check_rates,
    dropout,
    dropout_keys,
    read_streams,
)
from casejax.methods.student.settings import StudentSettings
from casejax.methods.student.targets import length_of, locations

FIRST_PROBABILITY = 0.01
"""Of every class at every location before the first step, so that the many negatives do not rule it (RetinaNet)."""


class Regressed(NamedTuple):
    """What the student says at the N locations of its pyramid.

    Attributes:
      logits: (B, N, C) of the classes.
      offsets: (B, N, C or 1, 2) distances to start and end, snippets, not below 0.
      mask: (B, N) True for locations at real snippets.
    """

    logits: Float[Array, "b n c"]
    offsets: Float[Array, "b n k 2"]
    mask: Bool[Array, "b n"]


class Block(nnx.Module):
    """A residual block: normalised, a ReLU, a convolution over time, dropout of whole channels.

    Args:
      dim: channels.
      width: snippets that the convolution sees, odd.
      rate: of dropout.
      rngs: seeds of the initial parameters.
    """

    def __init__(self, dim: int, *, width: int, rate: float, rngs: nnx.Rngs) -> None:
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.conv = TemporalConv(dim, dim, width=width, rngs=rngs)
        self.rate = rate

    def __call__(
        self, x: Float[Array, "b t d"], key: Key[Array, ""] | None, *, mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        """Transform (B, T, D); numbers in padding have no meaning."""
        seen = jax.nn.relu(self.norm(without_padding(x, mask=mask)))
        return x + drop_channels(self.conv(seen, mask=mask), self.rate, key)


def drop_channels(x: Float[Array, "b t d"], rate: float, key: Key[Array, ""] | None) -> Float[Array, "b t d"]:
    """Dropout of whole channels of a video (Tompson et al., CVPR 2015): neighbours in time cannot make up for them.

    It also draws T times fewer random numbers, which on a CPU take longer than the convolutions.
    """
    return x * dropout(jnp.ones((x.shape[0], 1, x.shape[2]), x.dtype), rate, key)


class StudentNet(nnx.Module):
    """The network.

    Args:
      dims: feature dimensions of the streams, which are joined.
      num_classes: C.
      settings: sizes.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a count below 1, a width that is not odd, or a rate outside [0, 1).
    """

    def __init__(
        self,
        dims: Sequence[int],
        num_classes: int,
        *,
        settings: StudentSettings = StudentSettings(),
        rngs: nnx.Rngs,
    ) -> None:
        hidden, levels = settings.hidden, settings.levels
        check_counts(dims, num_classes=num_classes, hidden=hidden, levels=levels)
        check_rates(dropout=settings.dropout)
        if settings.width % 2 == 0:
            raise ValueError(f"width must be odd, as many snippets before as after, got {settings.width}")

        def blocks(count: int) -> nnx.List[Block]:
            return nnx.List(
                [Block(hidden, width=settings.width, rate=settings.dropout, rngs=rngs) for _ in range(count)]
            )

        self.dims, self.levels, self.rate = tuple(dims), levels, settings.dropout
        self.embedding_dims = (hidden,)
        self.encoder = TemporalConv(sum(dims), hidden, rngs=rngs)
        self.stem, self.pyramid = blocks(settings.blocks), blocks(levels)
        self.class_norm, self.boundary_norm = nnx.LayerNorm(hidden, rngs=rngs), nnx.LayerNorm(hidden, rngs=rngs)
        self.class_head = TemporalConv(hidden, num_classes, rngs=rngs)
        self.class_head.bias[...] = jnp.full(num_classes, math.log(FIRST_PROBABILITY / (1 - FIRST_PROBABILITY)))
        self.boundary_head = TemporalConv(hidden, 2 * (num_classes if settings.per_class else 1), rngs=rngs)
        if settings.bins:
            self.bin_head = TemporalConv(hidden, 2 * (settings.bins + 1), rngs=rngs)
        else:
            self.scales = nnx.Param(jnp.ones(levels))
        self.bins = settings.bins

    def __call__(
        self,
        features: Sequence[Float[Array, "b t _"]],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Outputs:
        """Predict on a batch; videos are padded to a multiple of the greatest stride.

        Args:
          features: (B, T, D_s), one array a stream.
          key: of dropout; None for none.
          mask: True for real snippets, which come first; default all.

        Returns:
          Outputs whose `own` is `Regressed`. `cas` is, at every snippet, the greatest logit over the levels.
        """
        keys = dropout_keys(key)
        x = jnp.concatenate(read_streams(features, self.dims, mask=mask), axis=2)
        length, step = x.shape[1], 2 ** (self.levels - 1)
        mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
        room = -length % step
        x, mask = jnp.pad(x, [(0, 0), (0, room), (0, 0)]), jnp.pad(mask, [(0, 0), (0, room)])

        x = self.encoder(drop_channels(x, self.rate, next(keys)), mask=mask)
        for block in self.stem:
            x = block(x, next(keys), mask=mask)
        embedding = x
        columns, masks = [], []
        for level, block in enumerate(self.pyramid):
            if level:
                x, mask = halve(x, mask=mask)
            x = block(x, next(keys), mask=mask)
            columns.append(jnp.pad(x, [(0, 0), (0, 1), (0, 0)]))
            masks.append(jnp.pad(mask, [(0, 0), (0, 1)]))
        found, real = jnp.concatenate(columns, axis=1), jnp.concatenate(masks, axis=1)

        # All levels go through the heads at once; the place between two of them is padding, which convolutions skip.
        logits = self.class_head(_seen(self.class_norm, found, real), mask=real)
        seen, places = _seen(self.boundary_norm, found, real), locations(length + room, self.levels)
        raw = self.boundary_head(seen, mask=real)
        if self.bins:
            strides = boundary_distribution(raw, self.bin_head(seen, mask=real), mask=real)
        else:
            strides = jax.nn.softplus(raw * self.scales[...][places.level][None, :, None] + 1)
        offsets = strides * jnp.asarray(places.stride)[None, :, None]
        own = Regressed(logits, offsets.reshape(*offsets.shape[:2], -1, 2), real)
        return Outputs((snippet_logits(logits, self.levels, length),), (embedding[:, :length],), own=own)


def _seen(norm: nnx.LayerNorm, x: Float[Array, "b n d"], mask: Bool[Array, "b n"]) -> Float[Array, "b n d"]:
    """What a head sees."""
    return jax.nn.relu(norm(without_padding(x, mask=mask)))


def boundary_distribution(
    responses: Float[Array, "b n k"], centred: Float[Array, "b n m"], *, mask: Bool[Array, "b n"]
) -> Float[Array, "b n k"]:
    """Expected distances to start and end, in strides, of a distribution over places nearby.

    The probability that the start is j places before place i is softmax over j of (response of start at i - j + what
    i says of j), and of the end likewise after it (Shi et al., "TriDet", CVPR 2023, Eqs. 3 to 5, relative boundary
    modelling).

    Args:
      responses: (B, N, 2 K) of a start and of an end at each place, in turns.
      centred: (B, N, 2 (J + 1)) what each place says of j = 0..J, of starts and then of ends.
      mask: (B, N) True for real places; one that is not parts two levels.
    """
    batch, count, _ = responses.shape
    own = centred.reshape(batch, count, 2, -1)
    far = min(own.shape[3] - 1, count - 1)
    found = []
    for side, sign in enumerate((-1, 1)):
        shown, heard = responses[:, :, side::2], own[:, :, side, : far + 1, None]

        def shifted(x: Array, j: int, sign: int = sign) -> Array:
            """At place i what stands j places on; False or 0 beyond the ends."""
            room = [(0, 0), (j, 0) if sign < 0 else (0, j), *[(0, 0)] * (x.ndim - 2)]
            return jnp.pad(x, room)[:, :count] if sign < 0 else jnp.pad(x, room)[:, j:]

        # A place is reached over real ones alone, so that none of another level is.
        reached = [mask]
        for j in range(1, far + 1):
            reached.append(reached[-1] & shifted(mask, j))
        real = jnp.stack([jnp.ones_like(mask), *reached[1:]], axis=2)[..., None]
        nearby = jnp.stack([shifted(shown, j) for j in range(far + 1)], axis=2) + heard
        chance = jax.nn.softmax(jnp.where(real, nearby, -jnp.inf), axis=2)
        found.append(jnp.tensordot(chance, jnp.arange(far + 1.0), axes=((2,), (0,))))
    return jnp.stack(found, axis=3).reshape(batch, count, -1)


def halve(x: Float[Array, "b t d"], *, mask: Bool[Array, "b t"]) -> tuple[Float[Array, "b u d"], Bool[Array, "b u"]]:
    """Pairs of neighbours as the greatest of the two, channel by channel; padding takes no part."""
    pairs, real = (y.reshape(y.shape[0], -1, 2, *y.shape[2:]) for y in (x, mask))
    low = jnp.finfo(x.dtype).min
    mask = real.any(axis=2)
    shown = jnp.where(real[..., None], pairs, low)
    # A maximum of two: that over an axis looks for what equals it once more, and round-off decides what it finds.
    return without_padding(jnp.maximum(shown[:, :, 0], shown[:, :, 1]), mask=mask), mask


def snippet_logits(logits: Float[Array, "b n c"], levels: int, length: int) -> Float[Array, "b t c"]:
    """At every snippet the greatest logit of the locations, one a level, that stand for it."""
    total = length_of(logits.shape[1], levels)
    found, first = [], 0
    for level in range(levels):
        own = logits[:, first : first + total // 2**level]
        found.append(jnp.repeat(own, 2**level, axis=1)[:, :length])
        first += total // 2**level + 1
    return reduce(jnp.maximum, found)
