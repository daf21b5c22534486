from functools import partial
from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.alignment import sampling
from casejax.alignment.shuffle_and_learn import in_order

DRAWS = 4000


def draws(function, *lengths, count=DRAWS):
    """Many draws for each of some lengths, compiled once: arrays (lengths, count, ...)."""
    keys = jax.random.split(jax.random.key(0), (len(lengths), count))
    many = jax.jit(jax.vmap(jax.vmap(function, (None, 0)), (0, 0)))
    return jax.tree.map(np.asarray, many(jnp.asarray(lengths, jnp.int32), keys))


def assert_ascending_below(frames, length):
    assert frames.dtype == np.int32
    assert (np.diff(frames, axis=-1) > 0).all()
    assert frames.max() < length


def assert_as_likely(counts, draws):
    """Counts of equally likely outcomes: chi squared less than six standard deviations above its mean."""
    expected, freedom = draws / len(counts), len(counts) - 1
    chi_squared = ((np.asarray(counts) - expected) ** 2 / expected).sum()
    assert chi_squared < freedom + 6 * np.sqrt(2 * freedom), counts


# Frames


def test_every_set_of_frames_is_as_likely():
    long, six, exact, short, one = draws(lambda n, key: sampling.sample_frames(n, 3, key), 60, 6, 4, 3, 1)
    assert_ascending_below(six, 6)
    outcomes = [(six == subset).all(axis=1).sum() for subset in combinations(range(1, 6), 3)]
    assert sum(outcomes) == DRAWS
    assert_as_likely(outcomes, DRAWS)
    assert_ascending_below(long, 60)
    assert_as_likely(np.bincount(long.ravel(), minlength=60)[1:], long.size)
    assert (exact == [1, 2, 3]).all()
    assert (short == [0, 1, 2]).all()  # too short without frame 0
    assert (one == 0).all()


def test_context_is_clipped_and_ends_with_the_frame():
    frames = jnp.asarray([[0, 14], [15, 40]], jnp.int32)
    got = sampling.context_indices(frames)
    np.testing.assert_array_equal(got, [[[0, 0], [0, 14]], [[0, 15], [25, 40]]])
    np.testing.assert_array_equal(sampling.context_indices(frames[1, 1], num_context=3, stride=25), [0, 15, 40])
    assert got.dtype == jnp.int32


# TCC's cycles


def test_cycles_are_closed_and_as_likely():
    lengths = jnp.asarray([3, 5, 4], jnp.int32)
    draw = partial(sampling.random_cycles, num_cycles=DRAWS, cycle_length=3)
    videos, starts = map(np.asarray, jax.jit(draw)(lengths, jax.random.key(1)))
    assert videos.dtype == starts.dtype == np.int32
    np.testing.assert_array_equal(videos[:, 0], videos[:, 3])
    outcomes = [((videos[:, :3] == order).all(axis=1)).sum() for order in permutations(range(3))]
    assert sum(outcomes) == DRAWS
    assert_as_likely(outcomes, DRAWS)
    for video, length in enumerate(lengths):
        own = starts[videos[:, 0] == video]
        assert_as_likely(np.bincount(own, minlength=int(length)), len(own))
    published = jax.eval_shape(sampling.random_cycles, lengths, jax.random.key(1))
    assert published.videos.shape == (20, 3)
    assert published.starts.shape == (20,)


# TCN's pairs


def test_positives_are_a_little_earlier():
    long, short = draws(lambda n, key: sampling.tcn_pairs(n, 4, key), 40, 3)
    assert_ascending_below(long[..., 1], 40)
    inside = long[..., 1] >= 5  # of the others the frame before the video's begin becomes frame 0
    back = (long[..., 1] - long[..., 0])[inside]
    assert_as_likely(np.bincount(back, minlength=6)[1:], inside.sum())
    assert back.min() == 1
    early = long[~inside]
    assert (early[:, 0] < early[:, 1]).all()
    assert early.min() == 0
    assert (short[..., 1] == [0, 1, 2, 2]).all()
    assert (short[..., 0] <= short[..., 1]).all()
    assert short.min() == 0


# Shuffle and Learn's triplets


@pytest.mark.parametrize(("coin_per_row", "shuffled"), [(False, 0.75), (True, 0.7)])
def test_triplets_have_the_properties_of_the_published_draws(golden, coin_per_row, shuffled):
    arrays, notes = golden.arrays("gta/baselines"), golden.notes("gta/baselines")["results"]["sal"]
    lengths = jnp.full(notes["batch"], notes["T"], jnp.int32)
    draw = jax.vmap(
        partial(sampling.random_triplets, per_video=notes["num_samples"], coin_per_row=coin_per_row, shuffled=shuffled),
        (None, 0),
    )
    draw, keys = jax.jit(draw), jax.random.split(jax.random.key(3), 200)
    triplets = draw(lengths, keys)
    assert triplets.frames.shape == (200, *arrays["sal/indices"].shape)
    assert triplets.frames.dtype == triplets.labels.dtype == triplets.videos.dtype == jnp.int32
    np.testing.assert_array_equal(triplets.videos[7], np.arange(triplets.videos.shape[1]) % notes["batch"])
    labels, frames = np.asarray(triplets.labels), np.asarray(triplets.frames)
    if shuffled == notes["label1_fraction"]:
        np.testing.assert_array_equal(labels.sum(axis=1), arrays["sal/labels"][:, 1].sum())
    np.testing.assert_array_equal(labels.sum(axis=1), int(shuffled * labels.shape[1]))
    np.testing.assert_array_equal(in_order(triplets.frames), labels == 0)

    # the middle one of a shuffled triplet lies outside of the others, on both sides as often
    first, middle, last = np.moveaxis(frames, -1, 0)
    before = middle < np.minimum(first, last)
    after = middle > np.maximum(first, last)
    np.testing.assert_array_equal(before | after, labels == 1)
    assert abs(before.sum() / labels.sum() - 0.5) < 0.05
    assert frames.min() == 0
    assert frames.max() == notes["T"] - 1

    # the places of the shuffled rows, and the direction of all rows of a batch or of each
    assert_as_likely(labels.sum(axis=0), labels.sum())
    forwards = (first < last).mean(axis=1)
    assert abs(forwards.mean() - 0.5) < 0.15
    assert set(forwards) == {0.0, 1.0} or coin_per_row
    assert not coin_per_row or 0.0 < forwards.min() < forwards.max() < 1.0

    shorter = draw(lengths.at[0].set(5), keys)  # whose five frames are all there are: b is 1 and d is 3
    frames, labels = (np.asarray(x)[:, :: notes["batch"]] for x in (shorter.frames, shorter.labels))
    assert (np.sort(frames[..., [0, 2]]) == [1, 3]).all()
    assert set(frames[labels == 0][:, 1]) == {2}
    assert set(frames[labels == 1][:, 1]) == {0, 4}


# SpeedNet's clips


def test_clips_skip_frames_at_their_factors():
    long, short, tiny = (
        sampling.SpeedClips(*clips)
        for clips in zip(*draws(lambda n, key: sampling.speed_clips(n, 16, key), 200, 24, 3), strict=True)
    )
    full = long.mask.all(axis=2)
    assert full[:, 0].all()
    assert full[:, 1].mean() > 0.98  # of 48 frames about 25 are left over
    for speed, (low, high) in enumerate([(1.0, 1.2), (1.7, 2.2)]):
        frames = long.frames[full[:, speed], speed]
        assert_ascending_below(frames, 200)
        step = (frames[:, -1] - frames[:, 0]) / 15
        mean = (low + high) / 2
        assert abs(step.mean() - mean) < 6 * step.std() / np.sqrt(len(step)) + 0.01
    # one piece for both: the clips begin at the same frame up to skipped ones, on average 0.1 and 0.95
    assert np.abs(long.frames[:, 0, 0] - long.frames[:, 1, 0]).max() < 16
    assert long.frames[:, 0, 0].min() < 10
    assert long.frames[:, 0, 0].max() > 140
    for clips, length in ((short, 24), (tiny, 3)):
        assert clips.frames.min() >= 0
        assert clips.frames.max() == length - 1
        assert (np.diff(clips.frames, axis=2) >= 0).all()
        np.testing.assert_array_equal(np.diff(clips.frames, axis=2) > 0, clips.mask[..., 1:])
        assert (np.diff(clips.mask.astype(int), axis=2) <= 0).all()
        assert (clips.mask[:, 0].sum(axis=1).mean() > clips.mask[:, 1].sum(axis=1).mean()).all()


def test_exact_clips():
    long, short = (
        sampling.SpeedClips(*clips)
        for clips in zip(*draws(lambda n, key: sampling.regular_speed_clips(n, 4, key), 9, 4), strict=True)
    )
    assert long.mask.all()
    np.testing.assert_array_equal(np.diff(long.frames, axis=2), np.broadcast_to([[[1], [2]]], (DRAWS, 2, 3)))
    np.testing.assert_array_equal(long.frames[:, 0, 0], long.frames[:, 1, 0])
    assert_as_likely(np.bincount(long.frames[:, 0, 0], minlength=3), DRAWS)
    assert (short.frames == [[0, 1, 2, 3], [0, 2, 2, 2]]).all()
    assert (short.mask == [[True] * 4, [True, True, False, False]]).all()


# D3TW*'s negatives


def test_portions_are_missing_from_the_negatives():
    """With nearly as many draws as frames are left, most of these show up: long gaps are what was cut out."""
    length = 401
    (frames,) = draws(lambda n, key: sampling.frames_without_portions(n, 200, key), length, count=500)
    assert_ascending_below(frames, length)
    assert frames.min() == 1
    padded = np.pad(frames, ((0, 0), (1, 1)), constant_values=(0, length))
    gaps = -np.sort(-(np.diff(padded, axis=1) - 1), axis=1)
    # by chance alone a frame is skipped with probability at most 1/3, and a run of more than 15 is next to impossible
    portions = np.where(gaps > 15, gaps, 0)
    assert (portions[:, 2] == 0).all()
    missing = portions.sum(axis=1) / (length - 1)
    assert missing.min() > 0.2
    assert missing.max() < 0.55
    assert abs(missing.mean() - 0.375) < 0.03
    assert 0.33 < (portions[:, 1] > 0).mean() < 0.49  # half of them, but for portions too short to be seen


def test_every_lone_frame_is_as_likely_to_be_cut_out():
    draw = partial(sampling.frames_without_portions, share=(0.2, 0.28))
    six, four, three = draws(lambda n, key: draw(n, 4, key), 6, 4, 3)
    assert_ascending_below(six, 6)
    missing = 15 - six.sum(axis=1)  # of 1 + 2 + 3 + 4 + 5
    assert_as_likely(np.bincount(missing, minlength=6)[1:], DRAWS)
    # too short: what is left, and the last again
    outcomes = [(four == [*left, left[1], left[1]]).all(axis=1).sum() for left in ((1, 2), (1, 3), (2, 3))]
    assert sum(outcomes) == DRAWS
    assert_as_likely(outcomes, DRAWS)
    assert_as_likely(np.bincount(three[:, 0], minlength=3)[1:], DRAWS)
    assert (three == three[:, :1]).all()


# All


def test_draws_are_the_same_inside_jit():
    key = jax.random.key(6)
    eager = sampling.sample_frames(300, 4, key, offset=0)
    compiled = jax.jit(partial(sampling.sample_frames, num_frames=4, offset=0))
    np.testing.assert_array_equal(compiled(300, key=key), eager)
    assert (compiled(300, key=jax.random.key(7)) != eager).any()
    np.testing.assert_array_equal(compiled(4, key=key), range(4))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda key: sampling.sample_frames(0, 4, key), "cannot draw from a video of 0 frames"),
        (lambda key: sampling.sample_frames(9, 0, key), "must be 1 or more, got 0"),
        (lambda key: sampling.sample_frames(9, 4, key, offset=-1), "offset must be 0 or more, got -1"),
        (lambda key: sampling.context_indices(jnp.zeros(2, jnp.int32), stride=0), "got 2 and 0"),
        (lambda key: sampling.random_cycles(np.array([4, 4]), key, cycle_length=3), "the 2 videos of the batch, got 3"),
        (lambda key: sampling.random_cycles(np.array([4, 4]), key, num_cycles=0), "num_cycles must be 1 or more"),
        (lambda key: sampling.tcn_pairs(9, 4, key, window=0), "window must be 1 or more, got 0"),
        (lambda key: sampling.random_triplets(np.array([7, 4]), key), r"5 frames or more, got lengths \[7 4\]"),
        (
            lambda key: sampling.random_triplets(np.array([7]), key, shuffled=1.5),
            r"shuffled in \[0, 1\], got 8 and 1.5",
        ),
        (lambda key: sampling.random_triplets(np.zeros(0, int), key), "lengths is empty"),
        (lambda key: sampling.speed_clips(50, 8, key, normal=(0.9, 1.0)), r"normal=\(0.9, 1.0\)"),
        (lambda key: sampling.regular_speed_clips(50, 8, key, steps=(0,)), r"steps must be 1 or more, got \(0,\)"),
        (lambda key: sampling.frames_without_portions(2, 8, key), "takes 3 frames or more, got a video of 2"),
        (lambda key: sampling.frames_without_portions(20, 8, key, share=(0.5, 1.0)), r"got \(0.5, 1.0\)"),
        (lambda key: sampling.frames_without_portions(20, 8, key, offset=-2), "offset must be 0 or more, got -2"),
    ],
)
def test_hopeless_requests_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(jax.random.key(0))
