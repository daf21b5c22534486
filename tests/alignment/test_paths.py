"""Bands and open ends of dynamic time warping, against loops in NumPy over cells and sub-sequences."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from casejax.alignment import (
    alignment_matrix,
    dtw,
    dtw_path,
    dtw_table,
    hard_min,
    min_gamma,
    smooth_min,
    squared_distance,
    visitation_matrix,
)


def least(minimum, values, gamma):
    values = np.array([v for v in values if v < np.inf])
    if not len(values):
        return np.inf
    if minimum is hard_min:
        return values.min()
    if minimum is min_gamma:
        return -gamma * logsumexp(-values / gamma)
    return softmax(-values / gamma) @ values


def plain_table(cost, minimum, gamma, *, band=np.inf):
    n, m = cost.shape
    table = np.full((n + 1, m + 1), np.inf)
    table[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            if abs(i - j) <= band:
                before = table[i, j - 1], table[i - 1, j - 1], table[i - 1, j]
                table[i, j] = cost[i - 1, j - 1] + least(minimum, before, gamma)
    return table[1:, 1:]


@cache
def paths_from(i, j, n, m, end):
    """All paths from a cell to the last row, and the last column unless the end is open."""
    moves = [(i, j + 1), (i + 1, j + 1), (i + 1, j)]
    rest = [path for a, b in moves if a < n and b < m for path in paths_from(a, b, n, m, end)]
    return [[(i, j), *path] for path in rest] + ([[(i, j)]] if i == n - 1 and (end or j == m - 1) else [])


def open_paths(n, m, begin, end):
    return [path for j in range(m if begin else 1) for path in paths_from(0, j, n, m, end)]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("minimum", "cases"),
    [
        (min_gamma, {(5, 5): (0, 2, 9), (4, 6): (3,), (1, 3): (2,)}),
        (smooth_min, {(6, 5): (1,)}),
        (hard_min, {(5, 6): (2,)}),
    ],
)
def test_a_band_forbids_what_is_outside(rng, minimum, cases):
    for (n, m), bands in cases.items():
        cost = rng.random((2, n, m))
        for band in bands:
            run = partial(dtw, minimum=minimum, gamma=0.3, band=band)
            want = np.stack([plain_table(c, minimum, 0.3, band=band) for c in cost])
            np.testing.assert_allclose(run(cost), want[:, -1, -1], rtol=1e-12)
            np.testing.assert_allclose(dtw_table(cost, minimum=minimum, gamma=0.3, band=band), want, rtol=1e-12)
            forbidden = np.where(abs(np.subtract.outer(np.arange(n), np.arange(m))) <= band, cost, np.inf)
            got = alignment_matrix(cost, minimum=minimum, gamma=0.3, band=band)
            np.testing.assert_allclose(
                got, alignment_matrix(forbidden, minimum=minimum, gamma=0.3), rtol=1e-9, atol=1e-12
            )


@pytest.mark.usefixtures("x64")
def test_slopes_in_a_band(rng):
    cost, along, step = rng.random((6, 7)), rng.normal(size=(6, 7)), 1e-6
    run = jax.jit(partial(dtw, band=2, minimum=smooth_min))
    slope = jax.jvp(lambda c, g: run(c, gamma=g), (cost, 0.3), (along, 0.7))[1]
    of_cost, of_gamma = jax.grad(lambda c, g: run(c, gamma=g), argnums=(0, 1))(cost, 0.3)
    up, down = (run(cost + e * along, gamma=0.3 + 0.7 * e) for e in (step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-7)
    np.testing.assert_allclose(slope, (of_cost * along).sum() + 0.7 * of_gamma, rtol=1e-10)


def test_a_band_of_masked_pairs(rng):
    cost = rng.random((4, 5, 6)).astype(np.float32)
    sizes = [(5, 6), (3, 2), (1, 1), (4, 5)]
    x_mask, y_mask = (np.arange(c) < np.array([s[k] for s in sizes])[:, None] for k, c in ((0, 5), (1, 6)))
    real = x_mask[:, :, None] & y_mask[:, None]
    spoiled = np.where(real, cost, np.float32(np.nan))
    masks = {"x_mask": x_mask, "y_mask": y_mask}
    got, table, matrix = (f(spoiled, band=1, **masks) for f in (dtw, dtw_table, alignment_matrix))
    assert not np.asarray(table)[~real].any()
    assert not np.asarray(matrix)[~real].any()
    for k, (n, m) in enumerate(sizes):
        want = plain_table(cost[k, :n, :m].astype(np.float64), min_gamma, 0.1, band=1)
        np.testing.assert_allclose(got[k], want[-1, -1], rtol=1e-5)
        np.testing.assert_allclose(table[k, :n, :m], want, rtol=1e-5)
    path = dtw_path(spoiled, band=1, **masks)
    for k, (n, m) in enumerate(sizes):
        steps = np.asarray(path.cells[k])[np.asarray(path.mask[k])]
        assert steps[-1].tolist() == [n - 1, m - 1]
        assert abs(steps[:, 0] - steps[:, 1]).max() <= 1
        np.testing.assert_allclose(
            cost[k][tuple(steps.T)].sum(), plain_table(cost[k, :n, :m], hard_min, 0, band=1)[-1, -1], rtol=1e-5
        )


def test_an_impossible_band_says_so():
    with pytest.raises(ValueError, match="band=2 leaves no path through 4 x 9 frames; it must be 5 or more"):
        dtw(np.ones((4, 9)), band=2)
    mask = np.array([[True] * 5, [True] * 2 + [False] * 3])
    with pytest.raises(ValueError, match=r"through 2 x 5 frames of pair \[1\]; it must be 3 or more"):
        dtw(np.ones((2, 5, 5)), x_mask=mask, band=np.int64(2))
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda c, m: dtw(c, x_mask=m, band=2))))(
        jnp.ones((2, 5, 5)), mask
    )
    assert np.isinf(value).tolist() == [False, True]
    assert not gradient[1].any()
    with pytest.raises(ValueError, match="band must be a number of frames, 0 or more, got -1"):
        dtw(np.ones((4, 4)), band=-1)
    with pytest.raises(ValueError, match="goes with neither open_begin nor open_end"):
        dtw(np.ones((4, 4)), band=1, open_end=True)


def test_what_is_wrong_in_a_band_stays_in_its_pair(rng):
    cost, mask = rng.random((4, 5, 5)).astype(np.float32), np.ones((4, 5), bool)
    cost[1, 1, 1], mask[2, 0], mask[3] = np.nan, False, False
    value = jax.jit(lambda c, m: dtw(c, x_mask=m, band=2))(cost, mask)
    assert np.isnan(value).tolist() == [False, True, True, False]
    assert value[3] == 0


def test_a_band_saves_work_and_memory():
    cost = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    narrow, whole = (
        jax.jit(jax.grad(lambda c, band=band: dtw(c, band=band))).lower(cost).compile() for band in (10, None)
    )
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (narrow, whole)]
    assert sizes[0] < sizes[1] / 4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("begin", "end"), [(True, True), (True, False), (False, True)])
def test_open_ends_sum_over_all_paths(rng, begin, end):
    gamma, cost = 0.3, rng.random((3, 3, 5))
    sizes = [(3, 5), (2, 4), (1, 1)]
    masks = {f"{name}_mask": np.arange(c) < np.array([s[k] for s in sizes])[:, None] for k, name, c in
             ((0, "x", 3), (1, "y", 5))}  # fmt: skip
    real = masks["x_mask"][:, :, None] & masks["y_mask"][:, None]
    options = {"open_begin": begin, "open_end": end}
    spoiled = np.where(real, cost, np.nan)
    soft, hard = (dtw(spoiled, minimum=minimum, gamma=gamma, **masks, **options) for minimum in (min_gamma, hard_min))
    matrix = np.asarray(alignment_matrix(spoiled, gamma=gamma, **masks, **options))
    assert not matrix[~real].any()
    for k, (n, m) in enumerate(sizes):
        paths = open_paths(n, m, begin, end)
        costs = np.array([sum(cost[k][cell] for cell in path) for path in paths])
        np.testing.assert_allclose(soft[k], least(min_gamma, costs, gamma), rtol=1e-10)
        np.testing.assert_allclose(hard[k], costs.min(), rtol=1e-12)
        want = np.zeros((3, 5))
        for path, share in zip(paths, softmax(-costs / gamma), strict=True):
            want[tuple(zip(*path, strict=True))] += share
        np.testing.assert_allclose(matrix[k], want, rtol=1e-9)
    # the same in one call of the whole, without masks
    np.testing.assert_allclose(dtw(cost[0], gamma=gamma, **options), dtw(cost, gamma=gamma, **masks, **options)[0])


@pytest.mark.usefixtures("x64")
def test_the_free_row_of_smooth_min(rng):
    cost, gamma = rng.random((3, 5)), 0.3
    table = np.zeros((5, 7))
    table[1:, 0] = np.inf
    table[1:4, 6] = np.inf
    for i in range(1, 5):
        for j in range(7):
            if i == 4 or 1 <= j <= 5:
                before = [table[i - 1, j], *([table[i - 1, j - 1], table[i, j - 1]] if j else [])]
                table[i, j] = least(smooth_min, before, gamma) + (cost[i - 1, j - 1] if i < 4 else 0)
    options = {"open_begin": True, "open_end": True, "gamma": gamma}
    np.testing.assert_allclose(dtw(cost, minimum=smooth_min, **options), table[-1, -1], rtol=1e-10)
    visits = visitation_matrix(cost, **options)
    assert 0 < np.asarray(visits).min() < np.asarray(visits).max() <= 1
    np.testing.assert_allclose(
        dtw_table(cost, minimum=smooth_min, open_begin=True, gamma=gamma), table[1:4, 1:6], rtol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_slopes_of_open_ends(rng):
    cost, along, step = rng.random((4, 6)), rng.normal(size=(4, 6)), 1e-6
    run = jax.jit(partial(dtw, open_begin=True, open_end=True))
    slope = jax.jvp(lambda c, g: run(c, gamma=g), (cost, 0.3), (along, 0.7))[1]
    of_cost, of_gamma = jax.grad(lambda c, g: run(c, gamma=g), argnums=(0, 1))(cost, 0.3)
    up, down = (run(cost + e * along, gamma=0.3 + 0.7 * e) for e in (step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-7)
    np.testing.assert_allclose(slope, (of_cost * along).sum() + 0.7 * of_gamma, rtol=1e-10)


@pytest.mark.parametrize(("begin", "end"), [(True, True), (True, False), (False, True)])
def test_open_paths_are_the_cheapest(rng, begin, end):
    cost = rng.random((6, 4, 7)).astype(np.float32)
    mask = np.arange(7) < np.array([7, 7, 5, 5, 3, 1])[:, None]
    path = dtw_path(cost, y_mask=mask, open_begin=begin, open_end=end)
    want = dtw(cost, y_mask=mask, minimum=hard_min, open_begin=begin, open_end=end)
    for k in range(6):
        steps = np.asarray(path.cells[k])[np.asarray(path.mask[k])]
        assert steps[0, 0] == 0
        assert steps[-1, 0] == 3
        assert begin or steps[0, 1] == 0
        assert end or steps[-1, 1] == mask[k].sum() - 1
        moves = np.diff(steps, axis=0)
        assert ((moves == 0) | (moves == 1)).all()
        assert moves.any(axis=1).all()
        np.testing.assert_allclose(cost[k][tuple(steps.T)].sum(), want[k], rtol=1e-6)
        assert (np.asarray(path.cells[k])[len(steps) :] == steps[-1]).all()


def test_a_sequence_is_found_within_another(rng):
    y = rng.normal(size=(20, 3)).astype(np.float32)
    cost = squared_distance(y[7:12], y)
    path = dtw_path(cost, open_begin=True, open_end=True)
    assert path.cells[path.mask].tolist() == [[i, 7 + i] for i in range(5)]
    one = squared_distance(np.float32([[2], [3]]), np.float32([[1], [2], [2], [3], [4]]))  # tslearn's example
    path = dtw_path(one, open_begin=True, open_end=True)
    assert path.cells[path.mask].tolist() == [[0, 2], [1, 3]]
    assert float(dtw(one, minimum=hard_min, open_begin=True, open_end=True)) == 0
