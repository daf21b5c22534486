"""Weighted instance fusion: overlapping proposals of a class become one, where suppression would keep the best.

A group of proposals is seen as samples of a template distribution, drawn with probabilities g_k = softmax(q_k / T).
The distribution is fitted by cross-entropy, to starts, ends and scores separately, and its location is the
fused start, end and score (Zhou et al., "Improving Weakly Supervised Temporal Action Localization by Bridging
Train-Test Gap in Pseudo Labels", CVPR 2023, supplement, here Eqs. 1-13).

The printed equations were corrected:

- Eqs. 1, 3: a Gaussian has 2 sigma^2 under the exponent, and -log(1 / sigma) in its loss. The location is still
  that of Eq. 4, where M is the upper limit of the sum and no factor; the variance is half the printed one.
- Eq. 5: the support of the uniform distribution contains the data, so a <= min and b >= max.
- Eq. 9: taken literally (k in the denominator too) every weight is 1 / M. With i in the denominator the subtracted
  minimum cancels, and the weights are those of Eq. 2.
- Eq. 12 therefore does not differ from Eq. 4: the exponential template fuses as the Gaussian one does.
- Eq. 13: a t-distribution without location and scale has its mean at 0 whatever the data; here it has both. The Newton
  iteration is replaced by expectation maximisation, which needs no step size and never increases the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from casejax.array_types import Array, Bool, Float, Int, Num, Shaped
from casejax.localize.arguments import as_flags, as_whole, takes
from casejax.localize.overlap import candidate_overlap
from casejax.localize.templates import Template, extreme, gaussian, of_members

Overlap = Callable[..., Any]
"""From a group's best proposal (1, 2), candidates (N, 2) and `extra` to their overlaps (N,), in [0, 1]."""


class FusedInstances(NamedTuple):
    """Fused instances, in the order in which their best members rank.

    Attributes:
      segments: (G, 2) fused start and end, start < end.
      scores: (G,) fused scores.
      labels: (G,) classes; -1 where there is no instance.
      spread: (G, 2) how uncertain start and end are: the scale of the fitted template.
      size: (G,) members.
      mask: (G,) True for real instances; the others are 0.
      member_of: (N,) the instance each proposal went into, numbered as found; -1 for proposals that took no part.
      num_groups: instances found. Where there are more than G, the worst have no row.
    """

    segments: Float[Array, "g 2"]
    scores: Float[Array, " g"]
    labels: Int[Array, " g"]
    spread: Float[Array, "g 2"]
    size: Int[Array, " g"]
    mask: Bool[Array, " g"]
    member_of: Int[Array, " n"]
    num_groups: Int[Array, ""]


@takes()
def fuse_instances(
    segments: Num[ArrayLike, "n 2"] | Sequence[Any],
    scores: Num[ArrayLike, " n"] | Sequence[Any],
    *,
    logits: Num[ArrayLike, " n"] | Sequence[Any] | None = None,
    labels: Num[ArrayLike, " n"] | Sequence[Any] | None = None,
    mask: Shaped[ArrayLike, " n"] | Sequence[Any] | None = None,
    template: Template = gaussian,
    temperature: float | Float[Array, ""] = 0.2,
    overlap: Overlap = candidate_overlap,
    threshold: float | Float[Array, ""] = 0.25,
    extra: float | Float[Array, ""] = 0.0,
    max_groups: int | None = None,
) -> FusedInstances:
    """Group overlapping proposals of the same class and put one instance in the place of each group.

    The best proposal opens a group that takes in all proposals that overlap it by more than `threshold`; then the best
    of the remaining ones, and so on. Of equal scores the longer proposal ranks first, of equal lengths the earlier.

    Proposals of several classes go in together with `labels`, or each class on its own under `jax.vmap`, as do
    videos. Differentiable in the segments, scores and logits; who belongs to which group is a constant. Distances from
    1.8e19 on have no square in float32: the spread is infinite there, and gradients through it mean nothing.

    Args:
      segments: (N, 2) start and end in any unit, with start < end.
      scores: (N,) by which proposals rank, and which are fused.
      logits: (N,) what is divided by the temperature to weigh the members of a group; default the scores (Eq. 2).
        The published program divides the mean activation inside.
      labels: (N,) classes; only proposals of one class are fused. Default: one class, 0.
      mask: (N,) True for real proposals; default all.
      template: `gaussian`, `uniform`, `exponential`, `student_t` or another of their kind; static. To set an option
        pass a `functools.partial`, made once: every new one is compiled for.
      temperature: T of Eq. 2, in the unit of the logits. Near 0 only the best member counts; the higher it is, the more
        equally all count.
      overlap: `candidate_overlap`, `temporal_iou` or another of their kind; static.
      threshold: overlap above which a proposal joins a group, in [0, 1].
      extra: added to every length and intersection. 1 for the published convention, where the end of a segment is
        a snippet that it still contains.
      max_groups: G, the rows of the output; default N. Static.

    Returns:
      The fused instances, padded to G. A class without a proposal has none: give it N >= 1 rows that are masked.

    Raises:
      ValueError: shapes that don't fit or an option out of range; for arrays that are not traced, a real proposal
        that does not end after it starts, or whose segment, score or logit is NaN or infinite. Under `jit` and
        `vmap` such proposals take no part.

    Example:
      >>> import numpy as np
      >>> from casejax.localize import fuse_instances
      >>> segments = [[0.0, 10.0], [2.0, 12.0], [20.0, 30.0]]
      >>> fused = fuse_instances(segments, [0.8, 0.8, 0.5])
      >>> print(np.asarray(fused.segments).round(2))  # two of equal score: their middle; the last row is padding
      [[ 1. 11.]
       [20. 30.]
       [ 0.  0.]]
      >>> print(fused.size, fused.mask)
      [2 1 0] [ True  True False]
    """
    segments, scores = _floats(segments), _floats(scores)
    num = scores.shape[0] if scores.ndim == 1 else 0
    fitting = {"logits": logits, "labels": labels, "mask": mask}
    wrong = {name: np.shape(x) for name, x in fitting.items() if x is not None and np.shape(x) != (num,)}
    if num < 1 or segments.shape != (num, 2) or wrong:
        raise ValueError(
            "fuse_instances needs segments (N, 2), scores and options (N,) with N >= 1, got "
            f"{segments.shape}, {scores.shape} {wrong or ''}; pad with rows that are masked, vmap over videos"
        )
    _check_options(temperature, threshold, extra)
    max_groups = num if max_groups is None else max_groups
    if max_groups < 1 or max_groups != int(max_groups):
        raise ValueError(f"max_groups must be a whole number from 1, got {max_groups}")
    logits = scores if logits is None else _floats(logits)
    labels = jnp.zeros(num, jnp.int32) if labels is None else _known(labels, partial(as_whole, name="labels"))
    mask = jnp.ones(num, bool) if mask is None else _known(mask, partial(as_flags, name="mask"))
    if mask.dtype != bool:
        raise ValueError(f"mask must be boolean, True for real proposals, got {mask.dtype}; compare it with 0.5, say")
    if not any(isinstance(x, jax.core.Tracer) for x in (segments, scores, logits, mask)):
        _refuse_broken(*(np.asarray(x) for x in (segments, scores, logits, mask)))
    labels, most = labels.astype(jnp.int32), int(max_groups)
    return _fuse(segments, scores, logits, labels, mask, temperature, threshold, extra, template, overlap, most)


def _floats(x: Any) -> jax.Array:
    """An array of float32, or of float64 where it is."""
    x = jnp.asarray(x)
    return x if x.dtype in (jnp.float32, jnp.float64) else x.astype(jnp.float32)


def _known(x: Any, convert: Callable[[Any], np.ndarray]) -> jax.Array:
    """The array converted, if its values are known."""
    return jnp.asarray(x if isinstance(x, jax.core.Tracer) else convert(x))


@partial(jax.jit, static_argnames=("template", "overlap", "max_groups"))
def _fuse(
    segments: jax.Array,
    scores: jax.Array,
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    temperature: ArrayLike,
    threshold: ArrayLike,
    extra: ArrayLike,
    template: Template,
    overlap: Overlap,
    max_groups: int,
) -> FusedInstances:
    mask = mask & jnp.isfinite(segments).all(axis=1) & (segments[:, 1] > segments[:, 0])
    mask = mask & jnp.isfinite(scores) & jnp.isfinite(logits)
    segments = jnp.where(mask[:, None], segments, jnp.asarray([0, 1], segments.dtype))
    scores, logits, labels = (jnp.where(mask, x, 0) for x in (scores, logits, labels))

    found, num_groups = _group(*jax.lax.stop_gradient((segments, scores)), labels, mask, overlap, threshold, extra)
    group = jnp.where(mask & (found < max_groups), found, max_groups)  # the last one is dropped
    weights = _weights(logits / temperature, group, max_groups)
    values = jnp.concatenate([segments, scores[:, None].astype(segments.dtype)], axis=1)
    fit = template(values, weights, group, num_groups=max_groups)
    # Start and end are fitted separately and may cross; their weighted means cannot.
    crossed = fit.location[:, 0] >= fit.location[:, 1]
    means = gaussian(segments, weights, group, num_groups=max_groups).location
    fused = jnp.where(crossed[:, None], means, fit.location[:, :2])

    size = jax.ops.segment_sum(jnp.ones_like(group), group, max_groups)
    real = size > 0
    label = jax.ops.segment_max(labels, group, max_groups)
    return FusedInstances(
        segments=jnp.where(real[:, None], fused, 0),
        scores=jnp.where(real, fit.location[:, 2], 0).astype(scores.dtype),
        labels=jnp.where(real, label, -1),
        spread=jnp.where(real[:, None], fit.spread[:, :2], 0),
        size=size,
        mask=real,
        member_of=found,
        num_groups=num_groups,
    )


class FusedTable(NamedTuple):
    """Fused instances of many videos and classes, group after group, in a group as their best members rank."""

    segment: np.ndarray  # (m, 2) float64
    score: np.ndarray  # (m,) float64
    group: np.ndarray  # (m,) int64
    spread: np.ndarray  # (m, 2) float64, how uncertain start and end are
    size: np.ndarray  # (m,) int64, members


@takes("segment", "score", whole=("group",), nan=True)
def fuse_table(
    segment: Float[np.ndarray, "n 2"],
    score: Float[np.ndarray, "n"],
    group: Int[np.ndarray, "n"],
    *,
    template: Template = gaussian,
    temperature: float = 0.2,
    overlap: Overlap = candidate_overlap,
    threshold: float = 0.25,
    extra: float = 0.0,
) -> FusedTable:
    """`fuse_instances` on a table of proposals, in the place of non-maximum suppression.

    Args:
      segment: proposals, start and end in any unit.
      score: their scores.
      group: proposals fuse within a group only, one group a video and class.
      template: see `fuse_instances`.
      temperature: see `fuse_instances`.
      overlap: see `fuse_instances`.
      threshold: see `fuse_instances`.
      extra: see `fuse_instances`.

    Raises:
      ValueError: as `fuse_instances`.

    Example:
      >>> from casejax.localize import fuse_table
      >>> segments = [[0.0, 10.0], [2.0, 12.0], [2.0, 12.0]]
      >>> fused = fuse_table(segments, [0.8, 0.8, 0.5], [0, 0, 1])  # the third is of another class or video
      >>> print(fused.group, fused.segment.round(2), fused.size)
      [0 1] [[ 1. 11.]
       [ 2. 12.]] [2 1]
    """
    if not score.size and not segment.size:
        none = np.empty(0, np.int64)
        return FusedTable(np.empty((0, 2)), np.empty(0), none, np.empty((0, 2)), none)
    _check_options(temperature, threshold, extra)
    if score.ndim != 1 or segment.shape != (len(score), 2) or group.shape != score.shape:
        raise ValueError(
            f"fuse_table needs segments (n, 2), scores (n,) and groups (n,), got {segment.shape}, {score.shape} and "
            f"{group.shape}"
        )
    _refuse_broken(segment, score, score, np.ones(len(score), bool))
    names, owner, size = np.unique(group, return_inverse=True, return_counts=True)
    # Rounded up, so that tables of about the same size share a compiled program.
    shape = _round_up(len(names), 32), _round_up(int(size.max()), 32)
    order = np.argsort(owner, kind="stable")
    place = owner[order], np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    segments, scores, mask = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    # Times count from the start of the group, so that late segments lose no digits.
    origin = np.full(len(names), np.inf)
    np.minimum.at(origin, owner, segment[:, 0])
    segments[place] = (segment - origin[owner][:, None])[order]
    scores[place], mask[place] = score[order], True
    fuse = partial(_fuse_groups, template=template, overlap=overlap)
    fused = jax.device_get(fuse(segments, scores, mask, temperature, threshold, extra))
    row, column = np.nonzero(fused.mask)
    place = row, column
    return FusedTable(
        fused.segments[place] + origin[row][:, None],
        fused.scores[place].astype(np.float64),
        names[row],
        fused.spread[place].astype(np.float64),
        fused.size[place].astype(np.int64),
    )


@partial(jax.jit, static_argnames=("template", "overlap"))
def _fuse_groups(
    segments: jax.Array,
    scores: jax.Array,
    mask: jax.Array,
    temperature: ArrayLike,
    threshold: ArrayLike,
    extra: ArrayLike,
    template: Template,
    overlap: Overlap,
) -> FusedInstances:
    def fuse(segments: jax.Array, scores: jax.Array, mask: jax.Array) -> FusedInstances:
        one_class = jnp.zeros(len(scores), jnp.int32)
        return _fuse(
            segments,
            scores,
            scores,
            one_class,
            mask,
            temperature,
            threshold,
            extra,
            template,
            overlap,
            len(scores),
        )

    return jax.vmap(fuse)(segments, scores, mask)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _group(
    segments: jax.Array,
    scores: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    overlap: Overlap,
    threshold: ArrayLike,
    extra: ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """The group (N,) of every row, -1 for masked ones, and the number of groups."""
    start, length = segments[:, 0], segments[:, 1] - segments[:, 0]

    def absorb(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        left, group, count = state
        best = left
        for key in (scores, length, -start):  # each decides where those before are equal
            key = jnp.where(best, key, -jnp.inf)
            best = best & (key == key.max())
        best = jnp.argmax(best)
        overlaps = overlap(segments[best][None], segments, extra=extra)
        joins = left & (labels == labels[best]) & (overlaps > threshold)
        joins = joins.at[best].set(True)
        return left & ~joins, jnp.where(joins, count, group), count + 1

    first = mask, jnp.full(len(start), -1, jnp.int32), jnp.zeros((), jnp.int32)
    _, group, count = jax.lax.while_loop(lambda state: state[0].any(), absorb, first)
    return group, count


def _weights(logits: jax.Array, group: jax.Array, num_groups: int) -> jax.Array:
    """Softmax within every group (Eq. 2), 0 for rows without a group."""
    top = jax.lax.stop_gradient(extreme(jax.ops.segment_max, logits, group, num_groups))
    member = group < num_groups
    odds = jnp.where(member, jnp.exp(jnp.where(member, logits - of_members(top, group), 0)), 0)
    total = of_members(jax.ops.segment_sum(odds, group, num_groups), group)
    return odds / jnp.where(total > 0, total, 1)


def _refuse_broken(segments: np.ndarray, scores: np.ndarray, logits: np.ndarray, mask: np.ndarray) -> None:
    for name, values in (("segments", segments), ("scores", scores), ("logits", logits)):
        broken = mask & ~np.isfinite(values.reshape(len(mask), -1)).all(axis=1)
        if broken.any():
            row = int(np.argmax(broken))
            raise ValueError(f"{name}[{row}] is {values[row]}, expected finite numbers; mask what is not real")
    broken = mask & (segments[:, 1] <= segments[:, 0])
    if broken.any():
        row = int(np.argmax(broken))
        start, end = segments[row]
        raise ValueError(f"segments[{row}] goes from {start} to {end}, expected start < end; mask what is not real")


def _check_options(temperature: Any, threshold: Any, extra: Any) -> None:
    for name, value, allowed, good in (
        ("temperature", temperature, "positive and finite", lambda x: 0 < x < math.inf),
        ("threshold", threshold, "in [0, 1]", lambda x: 0 <= x <= 1),
        ("extra", extra, "at least 0 and finite", lambda x: 0 <= x < math.inf),
    ):
        if not isinstance(value, jax.core.Tracer) and not good(float(value)):
            raise ValueError(f"{name} must be {allowed}, got {value}")
