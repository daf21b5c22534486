"""Snippet labels against loops, SciPy's linear programmes and a slow minimiser; delta labels and their schedule."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog

from casejax import localize
from casejax.labels import pseudo_labels
from casejax.labels.interior_point import least_mass
from casejax.labels.pseudo_labels import LabelHistory, Phase

T, PROBLEMS, PLACES = 60, 3, 6
MARGINS = {pseudo_labels.power_margin: lambda n: 0.0785 * n**0.9, pseudo_labels.linear_margin: lambda n: n / 4}


@jax.jit
@jax.vmap
def label_and_slope(segments, scores, mask, snippet_mask):
    """Labels, and the gradient of their squares' sum to the scores; of three problems, for one compilation."""

    def squares(scores):
        got = pseudo_labels.snippet_labels(segments, scores, num_snippets=T, mask=mask, snippet_mask=snippet_mask)
        return (got.labels**2).sum(), got

    gradient, got = jax.grad(squares, has_aux=True)(scores)
    return got, gradient


def padded(boxes):
    """Segments, scores and mask of a list of (start, end, score)."""
    table = np.zeros((PLACES, 3), np.float32)
    table[: len(boxes)] = np.reshape(boxes, (-1, 3))
    return table[:, :2], table[:, 2], np.arange(PLACES) < len(boxes)


def solved(*problems, shown=T):
    """Of each problem, which is as `padded` has it, labels and slope, where so many snippets are real."""
    empty = [padded([])] * (PROBLEMS - len(problems))
    arrays = [np.stack(column) for column in zip(*problems, *empty, strict=True)]
    found = jax.device_get(label_and_slope(*arrays, np.broadcast_to(np.arange(T) < shown, (PROBLEMS, T))))
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(problems))]


# Oracles


def loop_row(start, end, count, num_snippets, margin):
    start, end = int(start), int(end)
    width = margin(max(end - start, 1))
    around = list(range(max(0, int(np.floor(start - width))), start))
    around += range(end, min(count - 1, int(np.floor(end + width + 1))))
    row = np.zeros(num_snippets)
    row[[t for t in range(start, end) if 0 <= t < count]] = 1
    row[[t for t in around if t < count]] = -1
    return row if 1 in row else 0 * row


def minimiser(rows, targets, barrier, penalty):
    """Newton's method in the values themselves, halving its steps, down the central path; float64."""
    x = np.full(rows.shape[1], 0.5)

    def objective(x, mu):
        missing = targets - rows @ x
        return x.sum() + penalty / 2 * missing @ missing - mu * (np.log(x) + np.log(1 - x)).sum()

    mu = 1.0
    while True:
        mu = max(mu / 2, barrier)
        for _ in range(100):
            gradient = 1 - penalty * rows.T @ (targets - rows @ x) - mu / x + mu / (1 - x)
            hessian = penalty * rows.T @ rows + np.diag(mu / x**2 + mu / (1 - x) ** 2)
            step = -np.linalg.solve(hessian, gradient)
            if -gradient @ step < 1e-13 * mu:
                break
            share = 1.0
            while not ((x + share * step > 0) & (x + share * step < 1)).all() or (
                objective(x + share * step, mu) > objective(x, mu) + share / 4 * gradient @ step
            ):
                share /= 2
                if share < 1e-12:
                    break
            x = x + share * step
        if mu == barrier:
            return x


@pytest.fixture(scope="module")
def programmes():
    """Random systems, some with contradictions, and what float32 makes of them in one compilation."""
    rng = np.random.default_rng(0)
    rows, targets = np.zeros((40, 4, 12)), rng.uniform(-0.2, 0.9, (40, 4))
    for one in rows:
        for row in one:
            start = rng.integers(0, 9)
            end = start + rng.integers(2, 4)
            row[max(start - 1, 0) : end + 1] = -1
            row[start:end] = 1
    rows[:8, 3], targets[:8, 3] = rows[:8, 0], targets[:8, 0] + 0.3
    rows[8:12, 3], targets[8:12, 3] = rows[8:12, 0], targets[8:12, 0]
    solve = jax.jit(jax.vmap(least_mass))
    return rows, targets, solve, solve(jnp.float32(rows), jnp.float32(targets))


# The linear programme


def test_the_vectors_of_the_specification():
    snippets = np.arange(T)
    inside, around = (snippets >= 20) & (snippets < 40), np.isin(snippets, [18, 19, 40, 41])
    # The last is contradictory: the published solvers gave zeros or NaN.
    problems = [(20, 40, 0.6)], [(20, 40, -0.05)], [(20, 40, 0.6), (20, 40, 0.5)]
    (up, _), (down, _), (torn, _) = solved(*map(padded, problems))
    assert_allclose(up.labels, np.where(inside, 0.03, 0), atol=2e-5)
    assert_allclose(down.labels, np.where(around, 0.0125, 0), atol=3e-5)
    assert_allclose(torn.labels, np.where(inside, 0.0275, 0), atol=2e-5)
    assert_allclose(torn.residual[:2], [0.05, -0.05], atol=1e-4)
    assert not torn.residual[2:].any()
    assert [bool(found.feasible) for found in (up, down, torn)] == [True, True, False]
    assert all(found.converged for found in (up, down, torn))
    assert_array_equal(torn.used, np.arange(PLACES) < 2)


def test_least_sums_are_those_of_scipy(programmes):
    """The same programme in SciPy's solver: the same verdict, the same sum, contrasts met."""
    rows, targets, _, got = programmes
    feasible = []
    for i in range(len(rows)):
        want = linprog(np.ones(rows.shape[2]), A_eq=rows[i], b_eq=targets[i], bounds=(0, 1))
        feasible.append(want.status == 0)
        if want.status == 0:
            price = np.abs(want.eqlin.marginals).max()
            assert_allclose(got.values[i].sum(), want.fun, atol=2e-3 + 1e-3 * price)
            assert_allclose(rows[i] @ np.float64(got.values[i]), targets[i], atol=2e-4 * (1 + price))
    assert_array_equal(got.feasible, feasible)
    assert 10 < sum(feasible) < 35
    assert bool(got.converged.all())
    assert int(got.iterations.max()) < 30


def test_values_minimise_what_defines_them(programmes):
    rows, targets, solve, in_float32 = programmes
    want = np.array([minimiser(rows[i], targets[i], 1e-5, 1e4) for i in range(16)])
    with jax.enable_x64(True):
        got = solve(jnp.asarray(rows), jnp.asarray(targets))
    asked = rows[:16].any(axis=1)
    assert_allclose(got.values[:16], np.where(asked, want, 0), atol=1e-5)
    assert_allclose(in_float32.values, got.values, rtol=1e-3, atol=2e-5)
    assert bool((np.asarray(got.values)[:16] == 0)[~asked].all())


def test_values_tend_to_the_centre_of_all_solutions(programmes):
    """Four snippets that sum to 0.8, the first two to 0.2: both pairs share alike what is theirs."""
    _, _, solve, _ = programmes
    rows, targets = np.zeros((40, 4, 12), np.float32), np.zeros((40, 4), np.float32)
    rows[:, 0, :4], rows[:, 1, :2], targets[:, :2] = 1, 1, (0.8, 0.2)
    assert_allclose(solve(rows, targets).values[0], [0.1, 0.1, 0.3, 0.3, *[0] * 8], atol=1e-4)


def test_the_order_of_instances_and_snippets_is_the_same_to_it(rng, programmes):
    rows, targets, solve, got = programmes
    instances, snippets = rng.permutation(rows.shape[1]), rng.permutation(rows.shape[2])
    other = solve(jnp.float32(rows[:, instances][:, :, snippets]), jnp.float32(targets[:, instances]))
    assert_allclose(other.values, np.asarray(got.values)[:, snippets], rtol=1e-3, atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(rng, programmes):
    rows, targets, _, _ = programmes
    weights, direction = rng.normal(size=12), rng.normal(size=4)

    @jax.jit
    @jax.vmap
    def loss_and_gradient(rows, targets):
        return jax.value_and_grad(lambda t: weights @ least_mass(rows, t, barrier=1e-2, penalty=1e2).values)(targets)

    ahead, behind = (loss_and_gradient(rows, targets + step * direction)[0] for step in (1e-5, -1e-5))
    gradient = np.asarray(loss_and_gradient(rows, targets)[1])
    assert_allclose(gradient @ direction, (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-6)


# Labels of a class


@pytest.mark.parametrize("margin", MARGINS)
def test_rows_equal_those_of_a_loop(rng, margin):
    start = rng.uniform(-2, 20, 40)
    segments = np.stack([start, start + rng.uniform(0.1, 1, 40) * rng.choice([1, 12], 40)], axis=1).astype(np.float32)
    mask = rng.random(40) < 0.8
    shown = {25: {}, 21: {"mask": mask, "snippet_mask": np.arange(25) < 21}}
    rows_of = partial(pseudo_labels.contrast_rows, num_snippets=25, margin=margin)
    found = jax.jit(lambda segments: [rows_of(segments, **options) for options in shown.values()])(segments)
    for (rows, used), (count, options) in zip(found, shown.items(), strict=True):
        want = np.array([loop_row(*segment, count, 25, MARGINS[margin]) for segment in segments])
        want *= mask[:, None] if options else 1
        assert_array_equal(rows, want)
        assert_array_equal(used, want.any(axis=1))
        assert 0 < used.sum() < (mask.sum() if options else len(mask))


def test_padding_changes_nothing():
    """Padded instances and snippets: bit-equal whatever stands there, and equal to the cropped input."""
    problems = []
    for filler in (0.0, np.nan, 1e30):
        segments, scores, mask = padded([(3, 9, 0.5), (6, 20, 0.4)])
        segments[2:], scores[2:] = filler, filler
        problems.append((segments, scores, mask))
    results = solved(*problems, shown=24)
    for other in results[1:]:
        jax.tree.map(assert_array_equal, other, results[0])
    rows = np.array([loop_row(*segment, 24, 24, MARGINS[pseudo_labels.power_margin]) for segment in segments[:2]])
    cropped = np.where(rows.any(axis=0), minimiser(rows, scores[:2].astype(np.float64), 1e-5, 1e4), 0)
    got, gradient = results[0]
    assert_allclose(got.labels[:24], cropped, atol=5e-6)
    assert not got.labels[24:].any()
    assert not rows[:, 23].any()  # the margin stops before the last snippet
    assert gradient[:2].all()
    assert np.isfinite(gradient).all()
    assert not gradient[2:].any()


def test_without_an_instance_all_labels_are_zero():
    (nothing, _), (shorter_than_a_snippet, _) = solved(padded([]), padded([(5.2, 5.9, 0.3)]))
    assert nothing.feasible
    assert nothing.converged
    for found in (nothing, shorter_than_a_snippet):
        assert not found.labels.any()
        assert not found.used.any()


def test_labels_of_fused_instances_of_many_classes(rng):
    """Proposals to labels, classes under one vmap; a class without proposals has none."""
    start = rng.uniform(0, 40, (3, 20)).astype(np.float32)
    segments = np.stack([start, start + rng.uniform(3, 12, (3, 20)).astype(np.float32)], axis=2)
    scores = rng.uniform(0.1, 0.8, (3, 20)).astype(np.float32)
    mask = np.ones((3, 20), bool)
    mask[1] = False

    @jax.jit
    @jax.vmap
    def fuse(segments, scores, mask):
        return localize.fuse_instances(segments, scores, mask=mask, temperature=0.02, max_groups=PLACES)

    fused = jax.device_get(fuse(segments, scores, mask))
    found = solved(*zip(fused.segments, fused.scores, fused.mask, strict=True))
    assert all(got.converged for got, _ in found)
    assert not found[1][0].labels.any()
    for c in (0, 2):
        got, count = found[c][0], int(fused.mask[c].sum())
        assert count > 1
        rows = [loop_row(*s, T, T, MARGINS[pseudo_labels.power_margin]) for s in fused.segments[c, :count]]
        met = fused.scores[c, :count] - np.array(rows) @ np.float64(got.labels)
        assert_allclose(met, got.residual[:count], atol=1e-5)
        assert got.feasible == (np.abs(met).max() <= 1e-3)


# Supervision


def test_loss_is_cross_entropy_with_labels_of_any_sign(rng):
    logits, labels = rng.normal(size=(2, 7, 3)).astype(np.float32), rng.normal(size=(2, 7, 3)).astype(np.float32)
    got = jax.jit(pseudo_labels.pseudo_label_loss)(logits, labels)
    want = [-(labels[b] * np.log(oracles.softmax(logits[b].astype(np.float64)))).sum() / 7 for b in range(2)]
    assert_allclose(got, want, rtol=1e-5)

    mask = jnp.arange(7)[None] < jnp.asarray([[7], [4]])
    spoiled = np.where(mask[..., None], logits, np.nan)

    @jax.jit
    def loss_and_gradient(logits, labels):
        loss, pull_back = jax.vjp(partial(pseudo_labels.pseudo_label_loss, labels=labels, mask=mask), logits)
        return loss, pull_back(jnp.ones_like(loss))[0]

    loss, gradient = loss_and_gradient(spoiled, np.where(mask[..., None], labels, np.nan))
    cropped = -(labels[1, :4] * np.log(oracles.softmax(logits[1, :4].astype(np.float64)))).sum() / 4
    assert_allclose(loss, [want[0], cropped], rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[1, 4:].any()
    # A class that lost its label is pushed down.
    lost = np.zeros_like(labels)
    lost[0, 0, 1] = -1
    _, gradient = loss_and_gradient(logits, lost)
    assert float(gradient[0, 0, 1]) > 0
    assert (np.asarray(gradient)[0, 0, ::2] < 0).all()


def test_targets_follow_the_published_schedule():
    old, new = jnp.asarray([0.1, 0.4]), jnp.asarray([0.3, 0.2])
    history = LabelHistory.empty((2,)).push(old).push(new)
    target = jax.jit(pseudo_labels.label_target)
    for epoch in (0, 199, 200):
        assert_array_equal(target(history, epoch), [0, 0])
    for epoch in (201, 250):
        assert_allclose(target(history, epoch), new)
    for epoch, factor in ((251, 2), (300, 2), (301, 2.15), (350, 2.15)):
        assert_allclose(target(history, epoch), factor * (new - old), rtol=1e-6)


def test_no_target_before_the_labels_it_needs():
    phases = (Phase(0, 1.0, 0.0), Phase(2, 2.0, -2.0))
    target = jax.jit(partial(pseudo_labels.label_target, phases=phases))
    empty = LabelHistory.empty((3,))
    once = empty.push(jnp.asarray(np.ones(3, np.float32)))
    twice = once.push(jnp.asarray(np.full(3, 3, np.float32)))
    for history, epoch, want in ((empty, 0, 0), (once, 1, 1), (once, 2, 0), (twice, 2, 4)):
        assert_array_equal(target(history, epoch), np.full(3, want))
    assert int(twice.made) == 2


def test_weight_grows_to_its_cap():
    weight = jax.jit(pseudo_labels.label_weight)
    got = [weight(epoch) for epoch in (0, 199, 200, 201, 230, 246, 247, 350, 10_000)]
    assert_allclose(got, [0, 0, 10, 10.35, 10 * 1.035**30, 10 * 1.035**46, 50, 50, 50], rtol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((7, 7, 0.3), r"instance 1 is .*= \(7\.0, 7\.0, 0\.3.*start < end"),
        ((2, 7, np.nan), r"scores\[1\] is NaN"),
        ((2, np.inf, 0.3), r"instance 1 is .*inf"),
    ],
)
def test_broken_instances_are_named_and_under_jit_take_no_part(row, message):
    broken = segments, scores, mask = padded([(20, 40, 0.6), row])
    with pytest.raises(ValueError, match=message):
        pseudo_labels.snippet_labels(segments, scores, num_snippets=T, mask=mask)
    (got, _), (want, _) = solved(broken, padded([(20, 40, 0.6)]))
    assert_array_equal(got.used, np.arange(PLACES) < 1)
    assert_array_equal(got.labels, want.labels)


def test_what_cannot_be_solved_is_refused():
    segments, scores, _ = padded([(20, 40, 0.6)] * PLACES)
    for options, message in (
        ({"num_snippets": 0}, "num_snippets must be 1 or more, got 0"),
        ({"snippet_mask": np.arange(T) % 2 == 1}, "snippet 1 is real but comes after padding"),
    ):
        with pytest.raises(ValueError, match=message):
            pseudo_labels.snippet_labels(segments, scores, **{"num_snippets": T, **options})
    for options, message in (
        ({"barrier": 0.0}, r"barrier must be positive and finite, got 0\.0"),
        ({"penalty": np.inf}, "penalty must be positive and finite, got inf"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            least_mass(np.ones((1, 2), np.float32), np.ones(1, np.float32), **options)
    with pytest.raises(ValueError, match=r"ascending epochs, got \[5, 3\]"):
        pseudo_labels.label_target(LabelHistory.empty((2,)), 0, phases=(Phase(5, 1, 0), Phase(3, 1, 0)))
    unchecked = inspect.unwrap(pseudo_labels.snippet_labels)  # past the shape checks that only tests have
    with pytest.raises(ValueError, match=r"needs an instance, got segments \(0, 2\)"):
        unchecked(np.zeros((0, 2)), np.zeros(0), num_snippets=T)
    with pytest.raises(ValueError, match=r"got \(2, 5\) and \(3,\)"):
        inspect.unwrap(least_mass)(np.zeros((2, 5)), np.zeros(3))


def test_a_solver_that_stops_early_says_so():
    got = least_mass(np.ones((1, 2), np.float32), np.full(1, 0.3, np.float32), num_steps=2)
    assert int(got.iterations) == 2
    assert not bool(got.converged)
