from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from casejax import records
from casejax.data import sampling
from casejax.records import Features

KEY = jax.random.key(3)
LENGTHS = np.array([9, 4, 2, 1, 7], np.int32)
LABELS = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]], np.float32)
draw = jax.jit(sampling.random_snippets, static_argnums=2)
gather = jax.jit(sampling.gather, static_argnames="num_rows")


@pytest.fixture(scope="module")
def batches():
    """600 steps of 4 of 5 videos: crops, crops behind a pair of similar videos, and similar pairs alone."""

    @jax.jit
    def sample(steps, lengths, labels):
        def batch(step, pairs):
            options = {"num_snippets": 4, "batch_size": 4, "kind": "crop", "labels": labels, "similar_pairs": pairs}
            return sampling.draw(KEY, step, lengths, **options)

        def similar(step):
            return sampling.similar_videos(jax.random.fold_in(KEY, step), labels, 2)

        return jax.vmap(lambda step: (batch(step, 0), batch(step, 1), similar(step)))(steps)

    plain, paired, pairs = sample(jnp.arange(600), jnp.asarray(LENGTHS), jnp.asarray(LABELS))
    return jax.device_get((plain, paired, pairs.reshape(-1, 2)))


def test_every_epoch_visits_every_video_once():
    @jax.jit
    def of_steps(key, steps):
        return jax.vmap(lambda step: sampling.batch_videos(key, step, num_videos=11, batch_size=3))(steps)

    steps = np.asarray(of_steps(KEY, jnp.arange(12))).reshape(4, 9)
    for epoch in steps:
        assert len(set(epoch.tolist())) == 9
        assert set(epoch.tolist()) <= set(range(11))
    assert steps[0].tolist() != steps[1].tolist()
    again = np.asarray(of_steps(KEY, jnp.full(12, 7)))
    np.testing.assert_array_equal(again[5], steps.reshape(12, 3)[7])  # a function of the step alone
    other = of_steps(jax.random.key(4), jnp.arange(12))[7]
    assert other.tolist() != steps.reshape(12, 3)[7].tolist()


def test_too_few_videos_are_refused():
    with pytest.raises(ValueError, match="2 videos do not fill one batch of 3"):
        sampling.batch_videos(KEY, jnp.int32(0), num_videos=2, batch_size=3)


@pytest.mark.parametrize("num_snippets", [1, 7, 50])
def test_uniform_snippets(num_snippets):
    lengths = [1, 3, 7, 50, 2615, 2**30]
    got = sampling.uniform_snippets(jnp.asarray(lengths), num_snippets)
    for row, n in zip(got.tolist(), lengths, strict=True):
        assert row == [i * n // num_snippets for i in range(num_snippets)]


@pytest.mark.parametrize("num_snippets", [1, 7, 50])
def test_random_snippets_stay_in_their_cells(num_snippets):
    lengths = np.array([1, 3, 7, 50, 2615])
    draws = np.asarray(jax.vmap(lambda k: draw(k, jnp.asarray(lengths), num_snippets))(jax.random.split(KEY, 200)))
    for v, n in enumerate(lengths):
        edges = [int(np.floor(i * n / num_snippets)) for i in range(num_snippets)] + [n - 1]
        for i in range(num_snippets):
            seen = set(draws[:, v, i].tolist())
            cell = {edges[i]} if n == num_snippets else set(range(edges[i], edges[i + 1] + 1))
            assert seen <= cell
            if len(cell) < 10:
                assert seen == cell  # the cell's end belongs to it


def test_a_crop_is_a_stretch_of_the_video(batches):
    (videos, snippets), *_ = batches
    for v, n in enumerate(LENGTHS.tolist()):
        own = snippets[videos == v]
        assert len(own) > 300
        if n <= 4:  # whole, then its last snippet again
            assert_array_equal(own, np.tile(np.minimum(np.arange(4), n - 1), (len(own), 1)))
            continue
        assert_array_equal(own - own[:, :1], np.tile(np.arange(4), (len(own), 1)))
        counts = np.bincount(own[:, 0], minlength=n - 3)
        assert len(counts) == n - 3  # the last possible place is the last
        expected = len(own) / (n - 3)
        assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()  # every place as often


def test_real_places_are_those_that_a_crop_does_not_repeat(batches):
    (videos, snippets), *_ = batches
    real = np.asarray(sampling.real_places(jnp.asarray(LENGTHS), 4))
    assert_array_equal(real, np.arange(4)[None] < LENGTHS[:, None])
    first_time = np.diff(snippets, axis=2, prepend=-1) > 0
    assert_array_equal(real[videos], first_time)


def test_crops_are_of_the_videos_of_the_step(batches):
    (videos, snippets), *_ = batches
    for step in (0, 1, 7):
        batch = sampling.batch_videos(jax.random.split(KEY)[0], jnp.int32(step), num_videos=5, batch_size=4)
        assert_array_equal(videos[step], batch)
    assert snippets.dtype == LENGTHS.dtype
    assert len(np.unique(snippets[videos == 0], axis=0)) == 6  # a function of the step


def test_similar_videos_share_a_class_of_two_or_more(batches):
    *_, pairs = batches
    assert pairs.shape == (1200, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    shared = LABELS[pairs[:, 0]] * LABELS[pairs[:, 1]]
    assert (shared.sum(axis=1) > 0).all()
    seen = {frozenset(pair) for pair in pairs.tolist()}
    # Three videos of class 0, two of class 3; classes 1 and 2 have one each.
    assert seen == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2), (3, 4))}
    of_class_three = (shared[:, 3] > 0).mean()
    assert abs(of_class_three - 1 / 2) < 4.5 * np.sqrt(1 / 4 / 1200)  # both classes as often, not both videos
    for pair in ((0, 1), (1, 0), (4, 3), (3, 4)):
        assert (pairs == pair).all(axis=1).any()


def test_a_batch_begins_with_similar_videos(batches):
    (plain, _), (videos, snippets), _ = batches
    assert_array_equal(videos[:, 2:], plain[:, 2:])  # the others are those of the step
    assert (videos[:, 0] != videos[:, 1]).all()
    assert (LABELS[videos[:, 0]] * LABELS[videos[:, 1]]).any(axis=1).all()
    seen = {frozenset(pair) for pair in videos[:, :2].tolist()}
    assert len(seen) == 4
    assert (snippets < LENGTHS[videos][:, :, None]).all()  # of the videos that are there now
    assert (snippets[videos == 0].max(axis=1) > 3).any()


def test_gather_reads_the_right_rows(rng):
    lengths = np.array([3, 5, 2], np.int32)
    offsets = np.array([0, 3, 8], np.int32)
    stream = rng.normal(size=(10, 4)).astype(np.float32)
    split = sampling.PackedSplit(
        (jnp.asarray(stream),), jnp.asarray(offsets), jnp.asarray(lengths), jnp.arange(6.0).reshape(3, 2)
    )
    batch = gather(split, jnp.asarray([2, 0]), jnp.asarray([[0, 1, 1], [2, 0, 1]]))
    np.testing.assert_array_equal(batch.labels, split.labels[jnp.asarray([2, 0])])
    np.testing.assert_array_equal(batch.streams[0], stream[[[8, 9, 9], [2, 0, 1]]])


@pytest.mark.parametrize(("num_videos", "parts"), [(10, 1), (11, 4), (7, 7), (200, 3)])
def test_parts_are_contiguous_even_and_nest(num_videos, parts):
    found = [records.videos_of_part(num_videos, p, parts) for p in range(parts)]
    assert [v for part in found for v in part] == list(range(num_videos))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    halves = [records.videos_of_part(num_videos, p, 2 * parts) for p in range(2 * parts)]
    assert [v for part in halves[:2] for v in part] == list(found[0])


def test_every_part_fills_an_equal_share_of_every_batch():
    num_videos, batch_size, parts = 23, 6, 3
    videos = jax.jit(
        lambda step: sampling.batch_videos(KEY, step, num_videos=num_videos, batch_size=batch_size, data_parts=parts)
    )
    steps = sampling.steps_per_epoch(num_videos, batch_size, parts)
    assert steps == 3
    epochs = []
    for epoch in range(4):
        batches = np.stack([videos(jnp.int32(epoch * steps + s)) for s in range(steps)])
        assert len(np.unique(batches)) == steps * batch_size
        for p, share in enumerate(np.split(batches, parts, axis=1)):
            assert set(share.ravel().tolist()) <= set(records.videos_of_part(num_videos, p, parts))
        epochs.append(batches.tolist())
    assert epochs[0] != epochs[1]
    assert len(np.unique(epochs)) == num_videos  # every video has its turn


def test_what_is_drawn_for_a_video_needs_no_other_length():
    lengths = jnp.asarray([30, 11, 50, 7, 90, 23])
    options = {"num_snippets": 12, "batch_size": 4, "data_parts": 2}
    draw = jax.jit(partial(sampling.draw, **options))
    videos, snippets = jax.device_get(draw(KEY, jnp.int32(1), lengths))
    known = jnp.where(jnp.arange(6) < 3, lengths, 1)
    again, others = jax.device_get(draw(KEY, jnp.int32(1), known))
    np.testing.assert_array_equal(again, videos)
    np.testing.assert_array_equal(others[:2], snippets[:2])
    assert not np.array_equal(others[2:], snippets[2:])


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="a batch of 16 videos cannot take an equal share of 3 parts"):
        sampling.steps_per_epoch(100, 16, 3)


@pytest.mark.parametrize(("num_snippets", "compact"), [(5, True), (5, False), (20, True), (3, True)])
def test_the_host_gathers_what_the_device_does(rng, num_snippets, compact):
    lengths = np.array([9, 3, 5, 2])
    features = Features.end_to_end(tuple(rng.normal(size=(19, d)).astype(np.float32) for d in (4, 2)), lengths)
    split = sampling.PackedSplit(
        tuple(map(jnp.asarray, features.streams)), jnp.asarray(features.starts), jnp.asarray(lengths), jnp.eye(4)
    )
    videos = np.array([3, 0, 1])
    snippets = np.asarray(draw(KEY, jnp.asarray(lengths[videos]), num_snippets))
    half = sampling.half_the_places(3, num_snippets)
    fits = compact and np.minimum(lengths[videos], num_snippets).sum() <= half
    assert fits == (compact and num_snippets == 20)
    streams, rows = sampling.gather_on_host(features, videos, snippets, compact=compact)
    want = gather(split, jnp.asarray(videos), jnp.asarray(snippets), num_rows=half if fits else None)
    for mine, theirs in zip(streams, want.streams, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.ctypes.data % 64 == 0
    assert (rows is None) == (want.rows is None)
    if fits:
        np.testing.assert_array_equal(rows, want.rows)


@pytest.mark.parametrize("num_rows", [10, 13])
def test_no_snippet_is_gathered_twice(rng, num_rows):
    lengths, num_snippets = np.array([9, 3, 5, 2], np.int32), 5
    split = sampling.PackedSplit(
        (jnp.asarray(rng.normal(size=(19, 4)), jnp.float32),),
        jnp.asarray(np.cumsum(lengths) - lengths),
        jnp.asarray(lengths),
        jnp.eye(4),
    )
    videos = jnp.asarray([3, 0, 1])  # two rows, five of nine, three
    snippets = draw(KEY, split.lengths[videos], num_snippets)
    assert sampling.distinct_rows(split.lengths[videos], num_snippets).tolist() == [2, 5, 3]
    plain, once = (jax.device_get(gather(split, videos, snippets, num_rows=n)) for n in (None, num_rows))
    assert once.streams[0].shape == (num_rows, 4)
    assert int(once.rows.max()) == 9
    np.testing.assert_array_equal(once.streams[0][once.rows], plain.streams[0])
    np.testing.assert_array_equal(once.labels, plain.labels)


def test_lengths_say_beforehand_which_batches_are_compact():
    lengths = np.array([3, 4, 5, 30, 40, 50])
    assert sampling.all_compact(lengths, 2, 4) is False  # even the shortest two fill 7 of 8 places
    assert sampling.all_compact(lengths, 2, 100) is True  # the longest two fill 90 of 200
    assert sampling.all_compact(lengths, 2, 20) is None
