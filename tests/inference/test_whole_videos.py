"""Scoring videos of their own lengths: each as if it were alone, in its own place, in a few compilations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from casejax.data.sampling import uniform_snippets
from casejax.inference.scoring import score_videos, score_whole_videos
from casejax.records import Features, SnippetScores

LENGTHS = np.array([9, 40, 3, 17, 8, 1, 33, 16])
TRACED = []


@jax.jit
def running_means(streams, rows, mask):
    """A scorer that sees all of a video: means up to each snippet, and over all of them."""
    assert rows is None
    TRACED.append(mask.shape)
    x, y = (jnp.where(mask[:, :, None], stream, 0) for stream in streams)
    count = jnp.cumsum(mask, axis=1)[:, :, None].astype(jnp.float32)
    means = jnp.cumsum(x, axis=1) / count
    attention = 1 + jnp.cumsum(y[:, :, 0], axis=1)  # not 0 in padding
    return SnippetScores(means, x.sum(axis=1) / count[:, -1], attention=attention, foreground=-attention)


def by_hand(x, y):
    """The same for one video in NumPy."""
    means = np.array([x[: t + 1].mean(axis=0) for t in range(len(x))])
    attention = np.array([1 + y[: t + 1, 0].sum() for t in range(len(y))])
    return SnippetScores(means, x.mean(axis=0), attention=attention, foreground=-attention)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    streams = tuple(rng.random((LENGTHS.sum(), dim), np.float32) for dim in (4, 2))
    # Rows of the videos backwards, so that places and order differ.
    starts = LENGTHS.sum() - np.cumsum(LENGTHS)
    return Features(streams, starts, LENGTHS)


@pytest.fixture(scope="module")
def found(features):
    calls = []

    def counted(streams, rows, mask):
        calls.append((streams[0].shape, streams[1].shape, mask.shape))
        return running_means(streams, rows, mask)

    TRACED.clear()
    return score_whole_videos(counted, features, batch_size=3, shortest=8), calls, list(TRACED)


def test_every_video_scores_as_by_hand_in_its_own_place(features, found):
    scores = found[0]
    assert scores.fused.shape == (8, 40, 4)
    assert scores.attention.shape == scores.foreground.shape == (8, 40)
    assert scores.video.shape == (8, 4)
    assert scores.transformed is None
    assert scores.ranked is None
    for v, length in enumerate(LENGTHS):
        want = by_hand(*(stream[features.rows(v)] for stream in features.streams))
        for name in ("fused", "attention", "foreground"):
            got = getattr(scores, name)[v]
            assert_allclose(got[:length], getattr(want, name), rtol=1e-5, err_msg=f"{name} of video {v}")
            assert_array_equal(got[length:], 0, err_msg=f"{name} behind video {v}")
        assert_allclose(scores.video[v], want.video, rtol=1e-5)


def test_lengths_are_padded_to_few_sizes(found):
    _, calls, traced = found
    # By length: 1, 3 and 8 snippets; 9, 16 and 17; 33, 40 and the first of these again.
    assert [mask for *_, mask in calls] == [(3, 8), (3, 32), (3, 64)]
    assert [x for x, *_ in calls] == [(3, 8, 4), (3, 32, 4), (3, 64, 4)]
    assert sorted(traced) == [(3, 8), (3, 32), (3, 64)]


def test_other_videos_do_not_matter(features, found):
    """Alone, a video is padded to fewer snippets, and the call is filled up with itself."""
    scores = found[0]
    TRACED.clear()
    for v in (0, 3, 5):
        alone = score_whole_videos(running_means, features.take(np.array([v])), batch_size=3, shortest=8)
        length = LENGTHS[v]
        assert alone.fused.shape == (1, length, 4)
        assert_allclose(alone.fused[0], scores.fused[v, :length], rtol=1e-6)
        assert_allclose(alone.attention[0], scores.attention[v, :length], rtol=1e-6)
        assert_allclose(alone.video[0], scores.video[v], rtol=1e-6)
    assert TRACED == [(3, 16)]  # 9 snippets need 16; 8 and 32 were there already


def test_lengths_within_the_shortest_share_one_call_shape(features, found):
    scores = found[0]
    TRACED.clear()
    wide = score_whole_videos(running_means, features, batch_size=8, shortest=64)
    assert TRACED == [(8, 64)]
    for a, b in zip(jax.tree.leaves(wide), jax.tree.leaves(scores), strict=True):
        assert_allclose(a, b, rtol=1e-6)


def test_resampled_videos_are_not_made_compact_if_the_network_sees_more_than_a_snippet(features):
    shapes = []

    @jax.jit
    def scorer(streams, rows):
        shapes.append(streams[0].shape)
        x = streams[0] if rows is None else streams[0][rows]
        return SnippetScores(x, x.mean(axis=1), 2 * x)

    plain = score_videos(scorer, features, num_snippets=24, batch_size=4, compact=False)
    assert shapes == [(4, 24, 4)]
    compact = score_videos(scorer, features, num_snippets=24, batch_size=4)
    assert shapes == [(4, 24, 4), (48, 4)]
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(compact), strict=True):
        assert_allclose(a, b, rtol=1e-6)
    places = np.asarray(uniform_snippets(jnp.asarray(LENGTHS), 24))
    for v in range(len(LENGTHS)):
        want = features.streams[0][features.rows(v)][places[v]]
        assert_array_equal(plain.fused[v], want)
        assert_array_equal(plain.ranked[v], 2 * want)
        assert_allclose(plain.video[v], want.mean(axis=0), rtol=1e-6)
    assert plain.transformed is None
