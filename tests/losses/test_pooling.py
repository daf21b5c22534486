import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from casejax import losses


@pytest.mark.parametrize("divisor", [1, 4, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_select_top_k_agrees_with_sorting(rng, divisor, ties):
    scores = rng.random((3, 17, 4)).astype(np.float32)
    if ties:
        scores = np.round(scores * 3) / 3
    mask = np.arange(17)[None, :] < np.array([17, 9, 1])[:, None]
    for m in (None, mask):
        got = losses.select_top_k(jnp.asarray(scores), divisor=divisor, mask=None if m is None else jnp.asarray(m))
        np.testing.assert_array_equal(got, oracles.select_top_k(scores, divisor, m))


def test_select_top_k_of_scattered_and_empty_masks(rng):
    scores = rng.random((2, 12, 3)).astype(np.float32)
    mask = np.stack([rng.random(12) < 0.5, np.zeros(12, bool)])
    got = losses.select_top_k(jnp.asarray(scores), divisor=2, mask=jnp.asarray(mask))
    np.testing.assert_array_equal(got, oracles.select_top_k(scores, 2, mask))
    assert not bool(got[1].any())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_select_top_k_of_negative_infinite_and_zero_scores(rng, dtype):
    values = np.array([-np.inf, -3.5, -1e-30, -0.0, 0.0, 2e-38, 1.0, np.inf])
    scores = jnp.asarray(rng.choice(values, (4, 40, 3)), dtype)
    got = losses.select_top_k(scores, divisor=4)
    np.testing.assert_array_equal(got, oracles.select_top_k(np.asarray(scores, np.float64), 4))


def test_a_divisor_of_zero_is_refused():
    with pytest.raises(ValueError, match="divisor must be 1 or more, got 0"):
        losses.select_top_k(jnp.zeros((1, 2, 3)), divisor=0)


@pytest.mark.parametrize(("rounding", "counts"), [("down", [5, 2, 1, 0]), ("up", [6, 3, 1, 0])])
def test_the_number_of_selected_snippets_is_rounded(rng, rounding, counts):
    scores, mask = rng.normal(size=(4, 17, 2)).astype(np.float32), np.arange(17) < np.array([[17], [8], [2], [0]])
    got = losses.select_top_k(jnp.asarray(scores), divisor=3, rounding=rounding, mask=jnp.asarray(mask))
    np.testing.assert_array_equal(got.sum(axis=1), np.stack([counts, counts], axis=1))
    mean = losses.top_k_mean(jnp.asarray(scores), divisor=3, rounding=rounding, mask=jnp.asarray(mask))
    for b, c in np.ndindex(4, 2):
        want = np.sort(scores[b, mask[b], c])[::-1][: counts[b]]
        np.testing.assert_allclose(mean[b, c], want.mean() if len(want) else 0, rtol=1e-5, atol=1e-7)


def test_selected_mean(rng):
    values = rng.normal(size=(2, 9, 3)).astype(np.float32)
    selected = rng.random((2, 9, 3)) < 0.4
    selected[1, :, 2] = False
    got = losses.selected_mean(jnp.asarray(values), jnp.asarray(selected))
    for b in range(2):
        for c in range(3):
            chosen = values[b, selected[b, :, c], c]
            np.testing.assert_allclose(got[b, c], chosen.mean() if len(chosen) else 0, rtol=1e-5, atol=1e-7)


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
