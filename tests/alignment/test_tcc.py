import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from slopes import assert_gradient

from casejax.alignment import tcc
from casejax.alignment.pairwise import inner_product

LOSSES = {
    "classification": tcc.classification,
    "regression_mse": tcc.regression_mse,
    "regression_mse_var": tcc.regression_mse_var,
    "regression_huber": tcc.regression_huber,
}
OPTIONS = {  # of the published program, with its defaults, and what they are called here
    "label_smoothing": ("classification", "label_smoothing", 0.1),
    "variance_lambda": ("regression_mse_var", "variance_weight", 0.001),
    "huber_delta": ("regression_huber", "delta", 0.1),
}


def variant(weights, cosine, options):
    """A weighted sum of all losses and of both similarities, so that one compilation serves to compute each."""

    def loss(*row, mask):
        losses = [function(*row, mask=mask, **options.get(name, {})) for name, function in LOSSES.items()]
        return sum(weight * value for weight, value in zip(weights, losses, strict=True))

    def similarity(x, y):
        return (1 - cosine) * tcc.negative_squared_distance(x, y) + cosine * inner_product(x, y)

    return {"loss": loss, "similarity": similarity}


def only(name, similarity="l2"):
    """Weights of one loss, and of one similarity."""
    return [float(name == other) for other in LOSSES], {"l2": 0.0, "cosine": 1.0}[similarity]


@jax.jit
def deterministic(embeddings, mask, times, weights, options, temperature):
    def mean(embeddings):
        losses = tcc.tcc_loss(embeddings, mask=mask, times=times, temperature=temperature, **variant(*weights, options))
        return losses.mean(), losses

    (_, losses), gradient = jax.value_and_grad(mean, has_aux=True)(embeddings)
    return losses, gradient


@jax.jit
def stochastic(embeddings, cycles, starts, mask, times, weights):
    def mean(embeddings):
        losses = tcc.stochastic_tcc_loss(embeddings, cycles, starts, mask=mask, times=times, **variant(*weights, {}))
        return losses.mean(), losses

    (_, losses), gradient = jax.value_and_grad(mean, has_aux=True)(embeddings)
    return losses, gradient


# Oracles: one row at a time, in float64


def similarities(frame, frames, similarity):
    if similarity == "cosine":
        products = [frame @ other for other in frames]
    else:
        products = [-((frame - other) ** 2).sum() for other in frames]
    return np.array(products) / len(frame) / 0.1


def walk(videos, start, cycle, similarity="l2"):
    """Logits of one frame's cycle: videos a list of (T_v, D), cycle the videos with the first again at the end."""
    frame = videos[cycle[0]][start]
    for video in cycle[1:-1]:
        frame = oracles.softmax(similarities(frame, videos[video], similarity)) @ videos[video]
    return similarities(frame, videos[cycle[-1]], similarity)


def row_loss(name, logits, start, times):
    p = oracles.softmax(logits)
    if name == "classification":
        target = np.full(len(p), 0.1 / len(p))
        target[start] += 0.9
        return oracles.cross_entropy(logits, target)
    mean = sum(p * times)
    error, variance = times[start] - mean, sum(p * (times - mean) ** 2)
    if name == "regression_huber":
        return error**2 / 2 if abs(error) <= 0.1 else 0.1 * abs(error) - 0.005
    return error**2 / variance + 0.001 * np.log(variance) if name == "regression_mse_var" else error**2


def pair_losses(name, videos, similarity):
    return [
        np.mean(
            [
                row_loss(name, walk(videos, t, (u, v, u), similarity), t, np.arange(len(videos[u])) / len(videos[u]))
                for t in range(len(videos[u]))
            ]
        )
        for u in range(len(videos))
        for v in range(len(videos))
        if u != v
    ]


# Published values


@pytest.mark.parametrize("x64", [False, True])
def test_published_losses_and_gradients(golden, x64):
    arrays, dtype = golden.arrays("gta/tcc"), np.float64 if x64 else np.float32
    for name, notes in golden.notes("gta/tcc")["results"].items():
        data = name.split("/")[0]
        embeddings, given = arrays[f"{data}/E"].astype(dtype), dict(notes["kw"])
        times, divisor = np.broadcast_to(np.arange(embeddings.shape[1]), embeddings.shape[:2]), embeddings.shape[1]
        if not notes["uniform_steps"]:
            times, divisor = arrays[f"{data}/steps"], arrays[f"{data}/seq_lens"][:, None]
        if given.pop("normalize_indices", True):
            times = times / divisor
        norms = np.linalg.norm(embeddings, axis=-1, keepdims=True)
        normalised = given.pop("normalize_embeddings", False)
        if normalised:
            embeddings = embeddings / norms
        weights = only(given.pop("loss_type", "classification"), given.pop("similarity_type", "l2"))
        temperature = dtype(given.pop("temperature", 0.1))
        options = {loss: {ours: dtype(given.pop(key, value))} for key, (loss, ours, value) in OPTIONS.items()}
        assert not given, f"{name}: options this test does not know"
        with jax.enable_x64(x64):
            losses, gradient = deterministic(embeddings, None, times.astype(dtype), weights, options, temperature)
        loss, gradient = np.asarray(losses).mean(), np.asarray(gradient)
        if normalised:
            gradient = (gradient - embeddings * (gradient * embeddings).sum(-1, keepdims=True)) / norms
        want = arrays[f"{name}grad"]
        np.testing.assert_allclose(loss, arrays[f"{name}f64_loss"], rtol=1e-11 if x64 else 1e-6)
        np.testing.assert_allclose(loss, arrays[f"{name}loss"], rtol=1e-6)
        np.testing.assert_allclose(gradient, want, rtol=0, atol=5e-6 * np.abs(want).max(), err_msg=name)


def test_published_cycles(golden):
    arrays, logits = golden.arrays("gta/tcc"), jax.jit(tcc.cycle_back_logits)
    walks = {"stoch/logits": (arrays["stoch/cycles"], arrays["stoch/start"])}
    for key in (key for key in arrays if key.startswith("stoch/len")):
        _, videos, start = re.fullmatch(r"stoch/len(\d+)_(\d+)_start(\d+)", key).groups()
        walks[key] = np.array([[int(video) for video in videos]], np.int32), np.array([int(start)])
    for key, (cycles, starts) in walks.items():
        want = np.atleast_2d(arrays[key])
        # which of the data sets was walked through is not written down; at least one fits, and only one agrees
        fitting = [
            embeddings
            for name, embeddings in arrays.items()
            if name.endswith("/E") and len(embeddings) > cycles.max() and embeddings.shape[1] == want.shape[1]
        ]
        got = [np.asarray(logits(x[cycles[:, 0], starts][:, None], x, cycles))[:, 0] for x in fitting]
        best = min(got, key=lambda x: np.abs(x - want).max())
        np.testing.assert_allclose(best, want, rtol=2e-6, atol=2e-6 * np.abs(want).max())
    for key in (key for key in arrays if key.endswith("/logits01")):
        embeddings = arrays[key.replace("logits01", "E")]
        got = np.asarray(logits(embeddings[:1], embeddings, np.array([[0, 1, 0]], np.int32)))
        np.testing.assert_allclose(got[0], arrays[key], rtol=0, atol=5e-6 * np.abs(arrays[key]).max())


# Ours against the oracle, on ragged videos


@pytest.fixture(scope="module")
def ragged():
    rng = np.random.default_rng(1)
    lengths = np.array([5, 3, 4])
    mask = np.arange(5)[None] < lengths[:, None]
    return rng.normal(size=(3, 5, 2)).astype(np.float32), mask, lengths


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("similarity", ["l2", "cosine"])
def test_deterministic_and_stochastic_are_the_rows_one_by_one(ragged, name, similarity):
    embeddings, mask, lengths = ragged
    videos = [x[:n].astype(float) for x, n in zip(embeddings, lengths, strict=True)]
    got, _ = deterministic(embeddings, mask, None, only(name, similarity), {}, 0.1)
    np.testing.assert_allclose(got, pair_losses(name, videos, similarity), rtol=2e-5, atol=1e-6)

    cycles, starts = np.array([[1, 2, 1], [0, 1, 0], [2, 0, 2]], np.int32), np.array([2, 4, 0], np.int32)
    got, _ = stochastic(embeddings, cycles, starts, mask, None, only(name, similarity))
    want = [
        row_loss(name, walk(videos, t, c, similarity), t, np.arange(lengths[c[0]]) / lengths[c[0]])
        for c, t in zip(cycles, starts, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_longer_cycles_and_inert_padding(ragged, name):
    embeddings, mask, lengths = ragged
    videos = [x[:n].astype(float) for x, n in zip(embeddings, lengths, strict=True)]
    cycles, starts = np.array([[2, 0, 1, 2], [0, 1, 2, 0]], np.int32), np.array([3, 0], np.int32)
    times = np.broadcast_to(np.arange(5, dtype=np.float32) ** 2, mask.shape)
    got, gradient = stochastic(embeddings, cycles, starts, mask, times, only(name))
    want = [
        row_loss(name, walk(videos, t, c), t, np.arange(lengths[c[0]]) ** 2.0)
        for c, t in zip(cycles, starts, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=2e-5)
    spoiled = np.where(mask[:, :, None], embeddings, np.nan), np.where(mask, times, np.nan)
    again, same_gradient = stochastic(spoiled[0], cycles, starts, mask, spoiled[1], only(name))
    np.testing.assert_array_equal(got, again)
    np.testing.assert_array_equal(gradient, same_gradient)
    assert (np.asarray(gradient)[~mask] == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_padding_is_inert(ragged, name):
    embeddings, mask, _ = ragged
    got, gradient = deterministic(embeddings, mask, None, only(name), {}, 0.1)
    spoiled = np.where(mask[:, :, None], embeddings, np.nan)
    again, same_gradient = deterministic(spoiled, mask, None, only(name), {}, 0.1)
    np.testing.assert_array_equal(got, again)
    np.testing.assert_array_equal(gradient, same_gradient)
    assert (np.asarray(gradient)[~mask] == 0).all()
    assert np.abs(np.asarray(gradient)[mask]).min() > 0


def test_order_of_videos_does_not_matter(ragged):
    embeddings, mask, _ = ragged
    order = np.array([2, 0, 1])
    losses, gradient = deterministic(embeddings, mask, None, only("classification"), {}, 0.1)
    got, permuted = deterministic(embeddings[order], mask[order], None, only("classification"), {}, 0.1)
    np.testing.assert_allclose(np.sort(got), np.sort(losses), rtol=1e-6)
    np.testing.assert_allclose(permuted, np.asarray(gradient)[order], rtol=1e-4, atol=1e-7)


def test_an_empty_video_makes_no_nan(ragged):
    embeddings, mask, _ = ragged
    mask = mask & (np.arange(3) != 1)[:, None]
    losses, gradient = deterministic(embeddings, mask, None, only("regression_mse_var"), {}, 0.1)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()


def test_a_certain_cycle_is_finite(ragged):
    """Frames so far apart that a cycle ends in one frame for certain, where the published program divides by zero."""
    apart = np.broadcast_to(100 * np.arange(5, dtype=np.float32)[:, None], (3, 5, 2))
    got, gradient = deterministic(apart, ragged[1], None, only("regression_mse_var"), {}, 0.1)
    # the cycles from the video of 3 frames through the two others, which have those frames too
    np.testing.assert_allclose(np.asarray(got)[2:4], 0.001 * np.log(1e-12), rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(ragged, name):
    embeddings, mask, _ = ragged

    def loss(x):
        losses, gradient = deterministic(x, mask, None, only(name), {}, 0.1)
        return losses, (len(losses) * gradient,)

    assert_gradient(loss, (embeddings,))


def test_bad_input_is_refused(ragged):
    embeddings = jnp.asarray(ragged[0])
    with pytest.raises(ValueError, match="two videos or more, got a batch of 1"):
        tcc.tcc_loss(embeddings[:1])
    with pytest.raises(ValueError, match=r"temperature must be above 0, got 0\.0"):
        tcc.tcc_loss(embeddings, temperature=0.0)
    with pytest.raises(ValueError, match=r"cycles of shape \(1, 2\)"):
        tcc.stochastic_tcc_loss(embeddings, np.array([[0, 0]], np.int32), np.array([0], np.int32))
