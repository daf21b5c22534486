import jax
import numpy as np
import oracles
import pytest
from slopes import assert_gradient

from casejax.alignment import tcn


def published_cases(arrays):
    names = sorted({key.rsplit("/", 1)[0] for key in arrays if key.startswith("tcn/")})
    assert names
    return names


@pytest.mark.parametrize("x64", [False, True])
def test_published_loss_and_gradient(golden, x64):
    arrays = golden.arrays("gta/baselines")
    with jax.enable_x64(x64):
        loss = jax.jit(jax.value_and_grad(lambda e: tcn.tcn_npairs_loss(e[0::2], e[1::2])))
        for name in published_cases(arrays):
            got, gradient = loss(arrays[f"{name}/E"].astype(np.float64 if x64 else np.float32))
            want = arrays[f"{name}/grad"]
            np.testing.assert_allclose(got, arrays[f"{name}/f64_loss"], rtol=1e-11 if x64 else 1e-6)
            np.testing.assert_allclose(got, arrays[f"{name}/loss"], rtol=1e-6)
            np.testing.assert_allclose(gradient, want, rtol=0, atol=2e-6 * np.abs(want).max())


def npairs(anchors, positives, regularisation):
    total = 0.0
    for k in range(len(anchors)):
        logits = np.array([anchors[k] @ positive for positive in positives])
        total -= np.log(oracles.softmax(logits)[k])
    norms = np.mean([a @ a for a in anchors]) + np.mean([p @ p for p in positives])
    return total / len(anchors) + 0.25 * regularisation * norms


@pytest.fixture(scope="module")
def ragged():
    rng = np.random.default_rng(2)
    mask = np.arange(4)[None] < np.array([[4], [3]])
    return *rng.normal(size=(2, 2, 4, 3)).astype(np.float32), mask


@jax.jit
def loss_and_gradient(anchors, positives, mask):
    def total(*pairs):
        losses = tcn.tcn_npairs_loss(*pairs, mask=mask, regularisation=0.5)
        return losses.sum(), losses

    (_, losses), gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(anchors, positives)
    return losses, gradient


def test_ragged_videos_are_those_without_padding(ragged):
    anchors, positives, mask = ragged
    got = np.asarray(loss_and_gradient(*ragged)[0])
    for b, length in enumerate(mask.sum(axis=1)):
        a, p = (np.asarray(x[b, :length], np.float64) for x in (anchors, positives))
        np.testing.assert_allclose(got[b], npairs(a, p, 0.5), rtol=1e-5)
    order = np.array([2, 0, 3, 1])
    permuted, _ = loss_and_gradient(*(x[:, order] for x in ragged))
    np.testing.assert_allclose(permuted, got, rtol=1e-6)


def test_padding_is_inert(ragged):
    anchors, positives, mask = ragged
    losses, got = loss_and_gradient(*ragged)
    same, spoiled = loss_and_gradient(*(np.where(mask[:, :, None], x, np.nan) for x in (anchors, positives)), mask)
    np.testing.assert_array_equal(losses, same)
    np.testing.assert_array_equal(got, spoiled)
    for gradient in np.asarray(got):
        assert (gradient[~mask] == 0).all()
        assert np.abs(gradient[mask]).min() > 0
    nothing, gradient = loss_and_gradient(anchors, positives, np.zeros_like(mask))
    assert (np.asarray(nothing) == 0).all()
    assert not np.isnan(gradient).any()


def test_triplets(ragged):
    anchors, positives, _ = ragged
    negatives = positives[:, ::-1]
    got = jax.jit(tcn.tcn_triplet_loss)(anchors, positives, negatives, margin=0.3)
    a, p, n = (np.asarray(x, np.float64) for x in (anchors, positives, negatives))
    want = np.maximum(((a - p) ** 2).sum(-1) - ((a - n) ** 2).sum(-1) + 0.3, 0)
    assert (want == 0).any()
    assert (want > 0).any()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(ragged):
    *pairs, mask = ragged
    assert_gradient(lambda *x: loss_and_gradient(*x, mask), pairs)
    triplets = jax.jit(jax.value_and_grad(lambda a, p: tcn.tcn_triplet_loss(a, p, p[::-1]).sum(), argnums=(0, 1)))
    assert_gradient(triplets, [x[0] for x in pairs])
