"""Selected snippets, and means and softmax over streams and over time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from casejax import losses


@pytest.mark.parametrize("divisor", [1, 4, 100])
def test_select_top_k_agrees_with_sorting(rng, divisor):
    scores = rng.random((3, 17, 4)).astype(np.float32)
    mask = np.arange(17)[None, :] < np.array([17, 9, 1])[:, None]

    @jax.jit
    def select(scores):
        return [losses.select_top_k(scores, divisor=divisor, mask=m) for m in (None, jnp.asarray(mask))]

    for values in (scores, np.round(scores * 3) / 3):  # with ties
        for got, m in zip(select(values), (None, mask), strict=True):
            np.testing.assert_array_equal(got, oracles.select_top_k(values, divisor, m))


def test_select_top_k_of_scattered_and_empty_masks(rng):
    scores = rng.random((2, 12, 3)).astype(np.float32)
    mask = np.stack([rng.random(12) < 0.5, np.zeros(12, bool)])
    got = jax.jit(lambda scores, mask: losses.select_top_k(scores, divisor=2, mask=mask))(scores, mask)
    np.testing.assert_array_equal(got, oracles.select_top_k(scores, 2, mask))
    assert not got[1].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_select_top_k_of_negative_infinite_and_zero_scores(rng, dtype):
    values = np.array([-np.inf, -3.5, -1e-30, -0.0, 0.0, 2e-38, 1.0, np.inf])
    scores = rng.choice(values, (4, 40, 3)).astype(jnp.dtype(dtype))
    got = jax.jit(partial(losses.select_top_k, divisor=4))(scores)
    np.testing.assert_array_equal(got, oracles.select_top_k(scores.astype(np.float64), 4))


def test_selected_mean(rng):
    values = rng.normal(size=(2, 9, 3)).astype(np.float32)
    selected = rng.random((2, 9, 3)) < 0.4
    selected[1, :, 2] = False
    got = jax.jit(losses.selected_mean)(values, selected)
    for b, c in np.ndindex(2, 3):
        chosen = values[b, selected[b, :, c], c]
        np.testing.assert_allclose(got[b, c], chosen.mean() if len(chosen) else 0, rtol=1e-5, atol=1e-7)


def test_means_under_a_mask():
    values, mask = np.array([1.0, 2.0, np.nan], np.float32), np.array([True, True, False])
    mean = jax.jit(lambda values, mask: losses.masked_mean(values, mask=mask))
    np.testing.assert_allclose(mean(values, mask), 1.5)
    assert float(mean(values, np.zeros(3, bool))) == 0


def test_the_mean_over_streams(rng):
    streams = list(rng.normal(size=(2, 5, 3)).astype(np.float32))
    both, one = jax.jit(lambda streams: (losses.stream_mean(streams), losses.stream_mean(streams[:1])))(streams)
    np.testing.assert_allclose(both, np.mean(streams, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(one, streams[0])


def test_a_divisor_of_zero_is_refused():
    for function in (losses.select_top_k, losses.top_k_mean):
        with pytest.raises(ValueError, match="divisor must be 1 or more, got 0"):
            function(jnp.zeros((1, 2, 3)), divisor=0)
    with pytest.raises(ValueError, match="divisor must be 1 or more, got 0"):
        losses.mil_loss(jnp.zeros((1, 2, 3)), jnp.zeros((1, 3)), divisor=0)


@pytest.mark.parametrize(("rounding", "counts"), [("down", [5, 2, 1, 0]), ("up", [6, 3, 1, 0])])
def test_the_number_of_selected_snippets_is_rounded(rng, rounding, counts):
    scores, mask = rng.normal(size=(4, 17, 2)).astype(np.float32), np.arange(17) < np.array([[17], [8], [2], [0]])
    got = losses.select_top_k(jnp.asarray(scores), divisor=3, rounding=rounding, mask=jnp.asarray(mask))
    np.testing.assert_array_equal(got.sum(axis=1), np.stack([counts, counts], axis=1))
    mean = losses.top_k_mean(jnp.asarray(scores), divisor=3, rounding=rounding, mask=jnp.asarray(mask))
    for b, c in np.ndindex(4, 2):
        want = np.sort(scores[b, mask[b], c])[::-1][: counts[b]]
        np.testing.assert_allclose(mean[b, c], want.mean() if len(want) else 0, rtol=1e-5, atol=1e-7)


def test_weights_over_time_leave_padding_out(rng):
    logits, mask = rng.normal(size=(3, 9, 2)).astype(np.float32), np.arange(9) < np.array([[9], [5], [0]])
    spoiled = jnp.where(mask[..., None], logits, jnp.nan)
    got, pullback = jax.vjp(lambda x: losses.time_softmax(x, mask=jnp.asarray(mask)), spoiled)
    np.testing.assert_allclose(got[0], oracles.softmax(logits[0].T).T, rtol=1e-5)
    np.testing.assert_allclose(got[1, :5], oracles.softmax(logits[1, :5].T).T, rtol=1e-5)
    assert not np.asarray(got)[1, 5:].any()
    np.testing.assert_allclose(got[2], 1 / 9, rtol=1e-6)  # no snippet is real
    (gradient,) = pullback(jnp.asarray(rng.normal(size=logits.shape), jnp.float32))
    assert (np.asarray(gradient)[~mask] == 0).all()
    assert np.asarray(gradient)[:2].any()
