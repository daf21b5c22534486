import jax
import numpy as np
import pytest
from slopes import assert_gradient

from casejax.alignment import d3tw
from casejax.alignment.pairwise import squared_distance
from casejax.alignment.soft_min import hard_min


def published_cases(arrays):
    names = sorted({key.rsplit("/", 1)[0] for key in arrays if key.startswith("d3tw/") and "/beta" in key})
    assert names
    return names


@jax.jit
def loss_and_gradients(x, positive, negative, margin):
    def loss(*sequences):
        return d3tw.d3tw_loss(*sequences, margin=margin)

    return jax.value_and_grad(loss, argnums=(0, 1, 2))(x, positive, negative)


@pytest.mark.parametrize("x64", [False, True])
def test_published_loss_and_gradients(golden, x64):
    """No published program exists for the starred form: these are an independent float64 computation."""
    arrays = golden.arrays("gta/baselines")
    with jax.enable_x64(x64):
        for name in published_cases(arrays):
            data, beta = name.rsplit("/beta", 1)
            dtype = np.float64 if x64 else np.float32
            sequences = [arrays[f"{data}/{key}"].astype(dtype) for key in ("X", "Ypos", "Yneg")]
            got, gradients = loss_and_gradients(*sequences, float(beta))
            # the loss is a difference, as exact as the two accumulated costs it is taken of
            scale = arrays[f"{name}/dpos"] + arrays[f"{name}/dneg"]
            np.testing.assert_allclose(got, arrays[f"{name}/loss"], rtol=0, atol=(1e-12 if x64 else 2e-7) * scale)
            for gradient, key in zip(gradients, ("dX", "dYpos", "dYneg"), strict=True):
                want = arrays[f"{name}/{key}"]
                tolerance = (1e-11 if x64 else 2e-5) * np.abs(want).max()
                np.testing.assert_allclose(gradient, want, rtol=0, atol=tolerance, err_msg=f"{name}/{key}")


@pytest.fixture(scope="module")
def ragged():
    rng = np.random.default_rng(4)
    lengths = [(4, 5, 3), (3, 4, 5)]
    masks = [np.arange(5)[None] < np.array(n)[:, None] for n in zip(*lengths, strict=True)]
    sequences = [*rng.normal(size=(3, 2, 5, 3)).astype(np.float32)]
    return sequences, dict(zip(("x_mask", "positive_mask", "negative_mask"), masks, strict=True)), lengths


def cheapest_path(cost, i=0, j=0):
    """The hard minimum over all paths from (i, j), by going down every one of them."""
    n, m = cost.shape
    ways = [(i + di, j + dj) for di, dj in ((1, 1), (1, 0), (0, 1)) if i + di < n and j + dj < m]
    return cost[i, j] + (min(cheapest_path(cost, *way) for way in ways) if ways else 0)


def test_ragged_videos_are_those_without_padding(ragged):
    sequences, masks, lengths = ragged
    options = {"cost": squared_distance, "minimum": hard_min, "margin": 3.0}
    got = np.asarray(jax.jit(lambda s, masks: d3tw.d3tw_loss(*s, **masks, **options))(sequences, masks))
    for b in range(2):
        x, positive, negative = (np.asarray(s[b, :n], np.float64) for s, n in zip(sequences, lengths[b], strict=True))
        distances = [((x[:, None] - y[None]) ** 2).sum(-1) for y in (positive, negative)]
        want = max(cheapest_path(distances[0]) - cheapest_path(distances[1]) + 3, 0)
        np.testing.assert_allclose(got[b], want, rtol=1e-5, atol=1e-5)
    assert got.max() > 0


@jax.jit
def masked_loss_and_gradients(sequences, masks):
    def loss(*sequences):
        losses = d3tw.d3tw_loss(*sequences, **masks, margin=30.0)
        return losses.sum(), losses

    (_, losses), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*sequences)
    return losses, gradients


def test_padding_is_inert(ragged):
    sequences, masks, _ = ragged
    losses, got = masked_loss_and_gradients(sequences, masks)
    spoiled = [np.where(m[:, :, None], s, np.nan) for s, m in zip(sequences, masks.values(), strict=True)]
    same, again = masked_loss_and_gradients(spoiled, masks)
    np.testing.assert_array_equal(losses, same)
    np.testing.assert_array_equal(got, again)
    for gradient, mask in zip(np.asarray(got), masks.values(), strict=True):
        assert (gradient[~mask] == 0).all()
        assert np.abs(gradient[mask]).max() > 0


def test_a_kept_margin_has_no_gradient(golden):
    arrays = golden.arrays("gta/baselines")
    data = published_cases(arrays)[0].rsplit("/beta", 1)[0]
    x, one, other = (arrays[f"{data}/{key}"] for key in ("X", "Ypos", "Yneg"))
    forward, backward = (float(loss_and_gradients(x, *pair, 1e3)[0]) - 1e3 for pair in ((one, other), (other, one)))
    assert forward == pytest.approx(-backward, abs=1e-3)
    positive, negative = (one, other) if forward < 0 else (other, one)
    value, gradients = loss_and_gradients(x, positive, negative, abs(forward) / 2)
    assert value == 0
    assert not np.any(gradients)
    value, gradients = loss_and_gradients(x, positive, negative, abs(forward) + 0.5)
    np.testing.assert_allclose(value, 0.5, rtol=1e-3)
    assert all(np.any(gradient) for gradient in gradients)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(ragged):
    sequences, masks, _ = ragged
    assert_gradient(lambda *s: masked_loss_and_gradients(list(s), masks), sequences)
