import itertools
import re

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau

from casejax.alignment.evaluate import kendall as alignment

DISTANCES = {"sq": alignment.squared_euclidean, "cos": alignment.cosine_distance}


def videos(rng, lengths, dim=3):
    return [np.cumsum(rng.normal(size=(length, dim)), axis=0).astype(np.float32) for length in lengths]


def test_taus_are_those_of_the_published_program(golden):
    arrays, notes = golden.arrays("gta/kendall"), golden.notes("gta/kendall")
    checked = 0
    for key, result in notes["results"].items():
        name, stride = re.fullmatch(r"(.+)/stride(\d+)/", key).groups()
        count = sum(re.fullmatch(rf"{re.escape(name)}/\d+", array) is not None for array in arrays)
        embeddings = [arrays[f"{name}/{i}"] for i in range(count)]
        for short, distance in DISTANCES.items():
            got = alignment.kendall_tau(embeddings, stride=int(stride), distance=distance)
            np.testing.assert_allclose(got.taus, arrays[f"{key}tau_{short}"], rtol=0, atol=1e-12)
            np.testing.assert_allclose(got.tau, result[f"mean_{short}"], atol=1e-12)
            assert (got.num_pairs, got.num_skipped) == (count * (count - 1), 0)
            checked += 1
        sq = alignment.kendall_tau(embeddings, stride=int(stride))
        assert sq.nan_rate == result["nan"] / sq.num_pairs
    assert checked


def test_everything_agrees_with_scipy_pair_by_pair(rng):
    embeddings = [np.round(video) for video in videos(rng, (23, 17, 31))]  # whole numbers, for ties
    got = alignment.kendall_tau(embeddings, stride=2)
    taus, orders, ties, total = [], [], 0, 0
    for x, y in itertools.permutations(embeddings, 2):
        n = cdist(x[::2], y[::2], "sqeuclidean").argmin(1)
        taus.append(kendalltau(np.arange(len(n)), n).statistic)
        signs = [np.sign(n[b] - n[a]) for a, b in itertools.combinations(range(len(n)), 2)]
        orders.append(np.mean(signs))
        ties, total = ties + signs.count(0), total + len(signs)
    np.testing.assert_allclose(got.taus, taus, atol=1e-12)
    np.testing.assert_allclose((got.tau, got.tau_a, got.tie_rate), (np.nanmean(taus), np.mean(orders), ties / total))
    assert ties
    assert np.isnan(taus).any()


def test_tau_of_neighbours_of_many_lengths(rng):
    neighbours = [rng.integers(0, 6, rng.integers(2, 9)) for _ in range(40)] + [np.array([3, 3, 3]), np.array([4])]
    got = alignment.tau_of_neighbours(neighbours)
    want = [kendalltau(np.arange(len(n)), n).statistic if len(n) > 1 else np.nan for n in neighbours]
    np.testing.assert_allclose(got.taus, want, atol=1e-12)
    assert got.nan_rate == np.isnan(want).mean()
    np.testing.assert_allclose(got.tau, np.nanmean(want))


def test_blocks_change_nothing(rng, monkeypatch):
    neighbours = [rng.integers(0, 6, 7) for _ in range(40)]
    whole = alignment.tau_of_neighbours(neighbours)
    monkeypatch.setattr(alignment, "_BLOCK", 100)
    for one, other in zip(whole, alignment.tau_of_neighbours(neighbours), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ends_of_the_scale():
    times = np.arange(12, dtype=np.float32)[:, None]
    same = alignment.kendall_tau([times, times], stride=1)
    assert (same.tau, same.tau_a, same.nan_rate, same.tie_rate) == (1, 1, 0, 0)
    reverse = alignment.kendall_tau([times, times[::-1].copy()], stride=1)
    assert (reverse.tau, reverse.tau_a) == (-1, -1)
    constant = alignment.kendall_tau([np.zeros((12, 2))] * 2, stride=1)
    assert np.isnan(constant.tau)
    assert (constant.tau_a, constant.nan_rate, constant.tie_rate) == (0, 1, 1)


def test_a_clock_that_stops_has_a_high_tau_b_and_not_a_high_tau_a():
    clocks = [np.minimum(np.arange(length), 15.0)[:, None] for length in (60, 80, 100)]
    got = alignment.kendall_tau(clocks)
    assert got.tau > 0.5
    assert got.tau_a < got.tau - 0.2
    assert got.tie_rate > 0.5
    assert np.isnan(alignment.kendall_tau(clocks, first_frame=15).tau)


def test_order_of_the_videos_only_permutes_the_taus(rng):
    embeddings = videos(rng, (20, 25, 30))
    one, other = (alignment.kendall_tau(e, stride=1) for e in (embeddings, embeddings[::-1]))
    np.testing.assert_allclose(np.sort(one.taus), np.sort(other.taus))
    np.testing.assert_allclose(one[:4], other[:4])


def test_a_later_first_frame_is_a_crop_and_leaves_out_short_videos(rng):
    embeddings = videos(rng, (30, 22, 16, 9, 28))  # from frame 8 on: 22, 14, 8, 1 and 20 frames
    got = alignment.kendall_tau(embeddings, stride=5, first_frame=8)
    want = alignment.kendall_tau([embeddings[v][8:] for v in (0, 1, 4)], stride=5)
    np.testing.assert_array_equal(got.taus, want.taus)
    assert (got.num_skipped, want.num_skipped) == (2, 0)


def test_cosine_of_a_zero_vector_is_no_nan():
    x = np.array([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(alignment.cosine_distance(x, np.array([[2.0, 0.0], [0.0, 1.0]])), [[1, 1], [0, 1]])


def cheapest_paths(distances):
    """Every path of steps right, down and diagonal with its cost."""
    n, m = distances.shape
    stack = [([(0, 0)], distances[0, 0])]
    while stack:
        path, cost = stack.pop()
        i, j = path[-1]
        if (i, j) == (n - 1, m - 1):
            yield path, cost
        for a, b in ((i, j + 1), (i + 1, j), (i + 1, j + 1)):
            if a < n and b < m:
                stack.append(([*path, (a, b)], cost + distances[a, b]))


def test_the_warping_path_is_the_cheapest_of_all(rng):
    distances = rng.random((4, 6))
    path, _ = min(cheapest_paths(distances), key=lambda found: found[1])
    np.testing.assert_array_equal(alignment.warping_path(distances), path)
    want = [min((distances[i, j], j) for a, j in path if a == i)[1] for i in range(4)]
    np.testing.assert_array_equal(alignment.monotone_match(distances), want)


def test_synchronised_playback(rng):
    x, y = videos(rng, (40, 30))
    nearest = alignment.synchronise(x, y)
    np.testing.assert_array_equal(nearest, cdist(x, y).argmin(1))
    warped = alignment.synchronise(x, y, match=alignment.monotone_match)
    assert warped.shape == (40,)
    assert (np.diff(warped) >= 0).all()
    assert (np.diff(nearest) < 0).any()
    slow = np.repeat(x, 2, axis=0)  # half speed
    np.testing.assert_array_equal(
        alignment.synchronise(slow[:40], x[:20], match=alignment.monotone_match), np.arange(40) // 2
    )


@pytest.mark.parametrize(
    ("says", "embeddings", "options"),
    [
        ("stride >= 1", [np.ones((4, 2))] * 2, {"stride": 0}),
        ("got 5 and -1", [np.ones((4, 2))] * 2, {"first_frame": -1}),
        ("at least two videos, got 1", [np.ones((4, 2))], {}),
        (r"video 1 has shape \(4, 3\)", [np.ones((4, 2)), np.ones((4, 3))], {}),
        (r"video 0 has shape \(0, 2\)", [np.ones((0, 2)), np.ones((4, 2))], {}),
        (
            "video 1 holds values that are not finite, from frame 2",
            [np.ones((4, 1)), np.array([[0], [1], [np.nan]])],
            {},
        ),
        ("0 of 2 videos have samples enough from frame 9", [np.ones((4, 2))] * 2, {"first_frame": 9}),
        ("distance returned shape", [np.ones((4, 2))] * 2, {"stride": 1, "distance": lambda x, y: np.ones((1, 1))}),
        ("with 32 NaN", [np.ones((4, 2))] * 2, {"stride": 1, "distance": lambda x, y: cdist(x, y) * np.nan}),
    ],
)
def test_bad_input_is_refused(says, embeddings, options):
    with pytest.raises(ValueError, match=says):
        alignment.kendall_tau(embeddings, **options)


def test_bad_pairs_are_refused():
    with pytest.raises(ValueError, match="need a pair"):
        alignment.tau_of_neighbours([])
    with pytest.raises(ValueError, match="finite distances"):
        alignment.warping_path(np.array([[np.inf, 1.0]]))
    with pytest.raises(ValueError, match="video 1 holds values that are not finite, from frame 0"):
        alignment.synchronise(np.ones((3, 2)), np.full((4, 2), np.inf))
