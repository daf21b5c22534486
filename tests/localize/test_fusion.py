"""Weighted instance fusion against loops, against minimisers of the loss it comes from, and in its limits."""

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize

from casejax import localize

TEMPLATES = (localize.gaussian, localize.exponential, localize.uniform, localize.student_t)
BOXES = np.float32(  # start, end, score, logit
    [
        [(10, 20, 0.50, 0.62), (11, 21, 0.46, 0.60), (9, 26, 0.40, 0.51), (12, 14, 0.30, 0.70)],
        [(40, 52, 0.35, 0.45), (41, 50, 0.33, 0.47), (38, 60, 0.20, 0.30), (70, 75, 0.10, 0.12)],
    ]
).reshape(8, 4)
GROUP = [0, 0, 0, 0, 1, 1, 1, 2]
LAST = (70, 75, 0.1)
VECTORS = [
    (0.2, localize.gaussian, [(10.8334, 18.8463, 0.4013), (40.0622, 52.6086, 0.3139), LAST]),
    (0.2, localize.exponential, [(10.8334, 18.8463, 0.4013), (40.0622, 52.6086, 0.3139), LAST]),
    (0.2, localize.uniform, [(10.5, 20, 0.4), (39.5, 55, 0.275), LAST]),
    (0.2, localize.student_t, [(10.9339, 18.9100, 0.4083), (40.3390, 51.2242, 0.3373), LAST]),
    (0.02, localize.gaussian, [(11.9575, 14.1541, 0.3046), (40.7307, 50.5393, 0.3354), LAST]),
]


def fuse(boxes, **options):
    """A table of starts, ends, scores and logits; the published convention of lengths."""
    segments, scores, logits = boxes[:, :2], boxes[:, 2], boxes[:, 3]
    return localize.fuse_instances(segments, scores, logits=logits, **{"extra": 1.0, **options})


# Oracles: one proposal at a time, in float64


def loop_groups(boxes, labels, real, overlap, threshold, extra):
    """Members of every group, in the order in which groups are opened."""
    left = sorted(np.flatnonzero(real), key=lambda i: (-boxes[i, 2], boxes[i, 0] - boxes[i, 1], boxes[i, 0], i))
    groups = []
    while left:
        best, joined = left[0], []
        for i in left:
            both = max(0, min(boxes[best, 1], boxes[i, 1]) - max(boxes[best, 0], boxes[i, 0]) + extra)
            own, other = boxes[i, 1] - boxes[i, 0] + extra, boxes[best, 1] - boxes[best, 0] + extra
            ratio = both / own if overlap == "candidate" else both / (own + other - both)
            if i == best or (labels[i] == labels[best] and ratio > threshold):
                joined.append(i)
        left = [i for i in left if i not in joined]
        groups.append(joined)
    return groups


def softmax(logits):
    odds = np.exp(logits - logits.max())
    return odds / odds.sum()


def em(x, g, freedom, steps=3000):
    """The textbook iteration for location and scale of a t-distribution."""
    location = g @ x
    variance = g @ (x - location) ** 2
    for _ in range(steps):
        pull = g * (freedom + 1) / (freedom + (x - location) ** 2 / variance)
        location = pull @ x / pull.sum()
        variance = max(pull @ (x - location) ** 2, 1e-12)
    return location, np.sqrt(variance)


def cross_entropy(parameters, x, g, freedom):
    location, scale = parameters[0], np.exp(parameters[1])
    z = (x - location) / scale
    if np.isinf(freedom):
        return g @ (z**2 / 2) + np.log(scale)
    return g @ ((freedom + 1) / 2 * np.log1p(z**2 / freedom)) + np.log(scale)


@cache
def student(freedom):
    """One object, and so one program, a number of degrees of freedom."""
    return partial(localize.student_t, freedom=freedom, num_steps=64)


@cache
def compiled(template):
    return jax.jit(partial(template, num_groups=1))


@cache
def fused_videos(overlap):
    """`fuse_instances` under `vmap`: of boxes (V, N, 3), labels, masks, added lengths and thresholds."""

    def one(boxes, labels, mask, extra, threshold):
        options = {"labels": labels, "mask": mask, "extra": extra, "threshold": threshold, "temperature": 0.3}
        return localize.fuse_instances(boxes[:, :2], boxes[:, 2], overlap=overlap, **options)

    return lambda *arrays: jax.device_get(jax.vmap(one)(*arrays))


@cache
def total_and_gradient(template):
    """Of boxes (12, 4), a mask and weights (12, 5): a sum over all that is fused, the instances, and the slopes."""

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def total(boxes, mask, weights):
        got = fuse(boxes, mask=mask, template=template)
        return (weights * jnp.concatenate([got.segments, got.scores[:, None], got.spread], 1)).sum(), got

    return lambda *arrays: jax.device_get(total(*arrays))


def fitted(template, x, g):
    """Location and spread of one group with one column."""
    fit = compiled(template)(jnp.asarray(x)[:, None], jnp.asarray(g), jnp.zeros(len(x), int))
    return float(fit.location[0, 0]), float(fit.spread[0, 0])


# Values


@pytest.mark.parametrize(("temperature", "template", "want"), VECTORS)
def test_the_vectors_of_the_specification(temperature, template, want):
    got = jax.device_get(fuse(BOXES, template=template, temperature=temperature))
    assert_array_equal(got.member_of, GROUP)
    assert_array_equal(got.size, [4, 3, 1, 0, 0, 0, 0, 0])
    assert_array_equal(got.mask, got.size > 0)
    assert_array_equal(got.labels, np.where(got.mask, 0, -1))
    assert int(got.num_groups) == 3
    assert_allclose(np.column_stack([got.segments, got.scores])[:3], want, atol=6e-5)
    assert not np.column_stack([got.segments, got.scores, got.spread])[3:].any()


def test_the_two_overlaps_tell_a_short_proposal_in_a_long_one_apart():
    boxes, real = np.zeros((30, 12, 3), np.float32), np.zeros((30, 12), bool)
    boxes[0, :8], real[0, :8] = BOXES[:, :3], True
    options = np.zeros((30, 12), int), real, np.ones(30, np.float32), np.full(30, 0.5)
    for overlap, want in ((localize.temporal_iou, [0, 0, 0, 2, 1, 1, 1, 3]), (localize.candidate_overlap, GROUP)):
        assert_array_equal(fused_videos(overlap)(boxes, *options).member_of[0, :8], want)
    long, short = np.array([[0.0, 20.0]]), np.array([[4.0, 5.0]])
    assert localize.candidate_overlap(long, short)[0] == 1
    assert_allclose(localize.temporal_iou(long, short, extra=1.0), 2 / 21, rtol=1e-6)


@pytest.mark.parametrize("overlap", ["candidate", "iou"])
def test_groups_equal_those_of_a_loop(rng, overlap):
    """Rounded numbers, so that there are ties; labels, padding and the added length vary too."""
    videos, n = 30, 12
    start = np.round(rng.uniform(0, 12, (videos, n)))
    end = start + rng.integers(1, 8, (videos, n))
    boxes = np.stack([start, end, np.round(rng.uniform(0, 1, (videos, n)), 1)], 2).astype(np.float32)
    labels, real = rng.integers(0, 2, (videos, n)), rng.random((videos, n)) < 0.8
    extra, threshold = rng.integers(0, 2, videos).astype(np.float32), rng.choice([0.21, 0.4, 0.77], videos)
    real[0] = False

    function = {"candidate": localize.candidate_overlap, "iou": localize.temporal_iou}[overlap]
    got = fused_videos(function)(boxes, labels, real, extra, threshold)
    sizes = set()
    for v in range(videos):
        groups = loop_groups(boxes[v].astype(np.float64), labels[v], real[v], overlap, threshold[v], extra[v])
        assert int(got.num_groups[v]) == len(groups) == int(got.mask[v].sum())
        member_of = np.full(n, -1)
        for k, group in enumerate(groups):
            member_of[group] = k
            weights = softmax(boxes[v, group, 2].astype(np.float64) / 0.3)
            want = weights @ boxes[v, group]
            assert_allclose([*got.segments[v, k], got.scores[v, k]], want, rtol=2e-6)
            assert int(got.labels[v, k]) == labels[v, group[0]]
            sizes.add(len(group))
        assert_array_equal(got.member_of[v], member_of)
        assert_array_equal(got.size[v], [len(group) for group in groups] + [0] * (n - len(groups)))
    assert sizes >= {1, 2, 3, 4}


# Templates


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("freedom", [1.0, 3.0, 30.0, np.inf])
def test_location_and_spread_minimise_the_cross_entropy(rng, freedom):
    x, g = rng.normal(size=7) + np.r_[8, np.zeros(6)], softmax(rng.normal(size=7) / 2)
    template = localize.gaussian if np.isinf(freedom) else student(freedom)
    best = minimize(cross_entropy, [np.median(x), 0.0], (x, g, freedom), method="BFGS", options={"gtol": 1e-9})
    location, spread = fitted(template, x, g)
    assert_allclose([location, spread], [best.x[0], np.exp(best.x[1])], atol=1e-5)
    if np.isfinite(freedom):
        assert_allclose([location, spread], em(x, g, freedom), atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_exponential_fuses_as_gaussian_does(rng):
    """Eqs. 8-12, the rate by numerical minimisation; Eq. 9 as meant and as printed."""
    x, q = rng.normal(size=7), rng.normal(size=7)
    g = softmax(q / 0.5)
    assert_allclose(softmax((q - q.min()) / 0.5), g)  # Eq. 9, i in the denominator: no other weights than Eq. 2
    literal = np.exp((q - q.min()) / 0.5) / (len(q) * np.exp((q - q.min()) / 0.5))
    assert_allclose(literal, 1 / len(q))  # k in the denominator: no weights at all
    loss = lambda log_rate: g @ (np.exp(log_rate[0]) * (x - x.min())) - log_rate[0]  # noqa: E731
    rate = np.exp(minimize(loss, [0.0], options={"gtol": 1e-9}).x[0])
    assert_allclose(rate, 1 / (g @ (x - x.min())), rtol=1e-5)
    location, _ = fitted(localize.exponential, x, g)
    assert_allclose(location, x.min() + 1 / rate, atol=1e-5)
    assert_allclose(location, fitted(localize.gaussian, x, g)[0], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_printed_gaussian_is_half_as_wide_as_its_data(rng):
    """Without the 2 of Eq. 1 the best location is the same, the best sigma^2 twice the variance."""
    x, g = rng.normal(size=7), softmax(rng.normal(size=7))
    printed = lambda p: g @ ((x - p[0]) ** 2 / np.exp(2 * p[1])) + p[1]  # noqa: E731
    best = minimize(printed, [0.0, 0.0], options={"gtol": 1e-9}).x
    location, spread = fitted(localize.gaussian, x, g)
    assert_allclose([location, 2 * spread**2], [best[0], np.exp(2 * best[1])], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_student_t_in_its_limits():
    x, g = np.array([0.0, 1, 2, 9, 2, 2, 2]), np.array([0.3, 0.3, 0.3, 0.1, 0, 0, 0])
    assert_allclose(fitted(student(1e6), x, g), fitted(localize.gaussian, x, g), rtol=1e-5)
    # Beyond freedom / (1 + freedom) of the weight the member alone is the optimum; groups without a spread have one.
    assert_allclose(fitted(student(3.0), x, np.array([0.8, 0.1, 0.05, 0.05, 0, 0, 0])), (0, 0), atol=1e-2)
    assert fitted(student(3.0), np.full(7, 2.5), g) == (2.5, 0)


@pytest.mark.usefixtures("x64")
def test_student_t_is_hardly_moved_by_an_outlier():
    """The figures of the specification: the least member moved by 25."""
    x, q = np.array([10, 11, 9, 12, 10.5, 30, 0]), np.array([0.5, 0.46, 0.4, 0.3, 0.45, 0.1, -np.inf])
    g = softmax(q / 0.1)
    away = x + np.array([0, 0, 0, 0, 0, 25, 0])
    moved = {t: abs(fitted(t, away, g)[0] - fitted(t, x, g)[0]) for t in (localize.gaussian, student(3.0))}
    assert_allclose(moved[localize.gaussian], 25 * g[-2], rtol=1e-4)
    assert moved[student(3.0)] < moved[localize.gaussian] / 10


def test_start_and_end_do_not_cross():
    """Fitted apart they can: most members agree on a late start, and the early end of one weighs more than a late."""
    boxes = np.zeros((8, 4), np.float32)
    boxes[:5, :2] = [(0, 3), (20, 23), (20, 21), (20, 22), (20, 420)]
    apart = [em(boxes[:5, k].astype(np.float64), np.full(5, 0.2), 3.0)[0] for k in (0, 1)]
    # So much is added to every length that all belong together.
    got = fuse(boxes, mask=np.arange(8) < 5, template=localize.student_t, extra=1e3, threshold=0.0)
    assert apart[0] > apart[1] + 1
    assert int(got.num_groups) == 1
    assert_allclose(got.segments[0], boxes[:5, :2].mean(0), rtol=1e-6)


@pytest.mark.parametrize("template", TEMPLATES)
def test_temperature_time_and_order(rng, template):
    boxes = BOXES.copy()
    boxes[:, 3] = rng.permutation(8) / 8
    for temperature, want in ((1e-4, "best"), (1e6, "mean")):
        got = fuse(boxes, template=template, temperature=temperature)
        for k, group in enumerate(([0, 1, 2, 3], [4, 5, 6], [7])):
            if template in (localize.gaussian, localize.exponential) or (
                want == "best" and template is localize.student_t
            ):
                member = boxes[group][np.argmax(boxes[group, 3])]
                expected = member[:2] if want == "best" else boxes[group, :2].mean(0)
                assert_allclose(got.segments[k], expected, rtol=1e-4)
            if len(group) == 1:
                assert_array_equal(got.segments[k], boxes[7, :2])
    base = fuse(boxes, template=template, extra=0.0)
    moved = boxes * np.float32([4, 4, 1, 1]) + np.float32([640, 640, 0, 0])
    assert_allclose(fuse(moved, template=template, extra=0.0).segments[:3], base.segments[:3] * 4 + 640, rtol=1e-6)
    order = rng.permutation(8)
    shuffled = fuse(boxes[order], template=template, extra=0.0)
    assert_array_equal(shuffled.member_of, np.asarray(base.member_of)[order])
    assert_allclose(shuffled.segments, base.segments, rtol=1e-6)
    assert_allclose(shuffled.scores, base.scores, rtol=1e-6)


# Masks, transformations, gradients


@pytest.mark.usefixtures("x64")
def test_padding_changes_nothing(rng):
    """Bit-equal whatever stands under the mask, and equal to the cropped input; nor is there a gradient to it."""
    real = rng.permutation(np.arange(12) < 8)
    padded, even = np.zeros((12, 4)), np.ones((12, 5))
    padded[real] = BOXES
    results = []
    for filler in (0.0, np.nan, 1e30):
        padded[~real] = filler
        results.append(total_and_gradient(localize.student_t)(padded, real, even))
    for other in results[1:]:
        jax.tree.map(assert_array_equal, other, results[0])
    (_, got), gradient = results[0]
    assert np.isfinite(gradient).all()
    assert not gradient[~real].any()
    assert gradient[real].all(axis=1).any()
    with jax.enable_x64(False):  # the program of the vectors
        cropped = fuse(BOXES, template=localize.student_t)
    assert_allclose(got.segments[:8], cropped.segments, rtol=1e-6)
    assert_array_equal(got.member_of[real], cropped.member_of)
    assert (got.member_of[~real] == -1).all()


def test_jit_equals_eager_and_a_class_without_proposals_is_empty():
    eager = fuse(BOXES)
    jitted = jax.jit(fuse)(BOXES)
    # A rounding apart: where XLA fuses a product with a sum, as 0.10.0 and 0.12 do here, it rounds once.
    jax.tree.map(partial(assert_allclose, rtol=1e-6), jitted, eager)
    nothing = fuse(BOXES, mask=np.zeros(8, bool))
    assert not nothing.mask.any()
    assert int(nothing.num_groups) == 0
    for got, want in ((nothing.segments, 0), (nothing.scores, 0), (nothing.labels, -1), (nothing.member_of, -1)):
        assert (np.asarray(got) == want).all()


def test_fewer_rows_than_groups_keep_the_best():
    whole, part = fuse(BOXES), fuse(BOXES, max_groups=2)
    assert part.segments.shape == (2, 2)
    assert_allclose(part.segments, whole.segments[:2], rtol=1e-6)
    assert_array_equal(part.member_of, whole.member_of)
    assert int(part.num_groups) == 3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("template", [localize.gaussian, localize.uniform, localize.student_t])
def test_gradients_are_those_of_finite_differences(rng, template):
    boxes, direction, real = np.zeros((12, 4)), np.zeros((12, 4)), np.arange(12) < 8
    boxes[real], direction[real] = BOXES, rng.normal(size=BOXES.shape)
    weights = rng.normal(size=(12, 5))
    ((above, _), _), (_, gradient), ((below, _), _) = (
        total_and_gradient(template)(boxes + h * direction, real, weights) for h in (1e-5, 0, -1e-5)
    )
    assert_allclose((gradient * direction).sum(), (above - below) / 2e-5, rtol=1e-6)


# Tables of many videos and classes


def test_a_table_is_fused_group_by_group(rng):
    start = np.round(rng.uniform(0, 40, 70), 1)
    segment = np.stack([start, start + rng.uniform(1, 9, 70)], axis=1)
    score, group = rng.uniform(size=70), rng.choice([2, 5, 11, 700], 70)
    got = localize.fuse_table(segment + 3e5, score, group, overlap=localize.temporal_iou, threshold=0.3)
    rows = []
    for g in np.unique(group):
        boxes = np.column_stack([segment, score])[group == g]
        for members in loop_groups(boxes, np.zeros(len(boxes)), np.ones(len(boxes), bool), "iou", 0.3, 0):
            weights = softmax(boxes[members, 2] / 0.2)
            mean = weights @ boxes[members]
            rows.append((g, *mean, *np.sqrt(weights @ (boxes[members] - mean)[:, :2] ** 2), len(members)))
    assert_array_equal(got.group, [row[0] for row in rows])
    assert_allclose(got.segment - 3e5, [row[1:3] for row in rows], atol=1e-5)
    assert_allclose(got.score, [row[3] for row in rows], rtol=1e-6)
    assert_allclose(got.spread, [row[4:6] for row in rows], atol=1e-3)
    assert_array_equal(got.size, [row[6] for row in rows])
    assert max(np.bincount(got.group)) > 3


def test_an_empty_table():
    got = localize.fuse_table(np.zeros((0, 2)), np.zeros(0), np.zeros(0, np.int64))
    assert [column.shape for column in got] == [(0, 2), (0,), (0,), (0, 2), (0,)]


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be positive and finite, got 0\.0"),
        ({"temperature": np.nan}, "temperature must be positive and finite, got nan"),
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\], got 1\.5"),
        ({"extra": -1.0}, r"extra must be at least 0 and finite, got -1\.0"),
        ({"max_groups": 0}, "max_groups must be a whole number from 1, got 0"),
        ({"template": partial(localize.student_t, freedom=0.5)}, r"freedom=0\.5"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        fuse(BOXES, **options)


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (3, 1, 12.0, r"segments\[3\] goes from 12\.0 to 12\.0, expected start < end"),
        (2, 0, np.nan, r"segments\[2\] is \[nan 26\.\], expected finite numbers"),
        (5, 2, np.nan, r"scores\[5\] is nan"),
        (6, 3, np.inf, r"logits\[6\] is inf"),
    ],
)
def test_broken_proposals_are_named_and_under_jit_take_no_part(row, column, value, message):
    boxes = BOXES.copy()
    boxes[row, column] = value
    with pytest.raises(ValueError, match=message):
        fuse(boxes)
    with pytest.raises(ValueError, match=message.replace("logits", "scores")):
        localize.fuse_table(boxes[:, :2], boxes[:, 3 if column == 3 else 2], np.zeros(8, int))
    others = np.arange(8) != row
    assert_allclose(jax.jit(fuse)(boxes).segments, fuse(boxes, mask=others).segments, rtol=1e-6)


def test_shapes_are_shown():
    unchecked = inspect.unwrap(localize.fuse_instances)  # past the shape checks that only tests have
    with pytest.raises(ValueError, match=r"\(0, 2\), \(0,\)"):
        unchecked(np.zeros((0, 2)), np.zeros(0))
    with pytest.raises(ValueError, match=r"\(3, 2\), \(3,\) \{'mask': \(2,\)\}"):
        unchecked(np.zeros((3, 2)), np.zeros(3), mask=np.ones(2, bool))
