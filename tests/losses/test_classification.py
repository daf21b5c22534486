import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from casejax.methods.case.outputs import Outputs
from jax.test_util import check_grads

from casejax import losses
from casejax.methods.case import scores


def test_video_cross_entropy_shares_the_target_out(rng):
    logits = rng.normal(size=(3, 4)).astype(np.float32)
    labels = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], np.float32)
    targets = labels / np.maximum(labels.sum(1, keepdims=True), 1)
    got = losses.video_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(got, oracles.cross_entropy(logits, targets), rtol=1e-5, atol=1e-7)
    assert float(got[2]) < 1e-7


@pytest.mark.parametrize("exponent", [0.3, 0.7, 1.0])
def test_generalized_bce_agrees_with_the_sum(rng, exponent):
    p, q = rng.random((3, 11)).astype(np.float32), (rng.random((3, 11)) < 0.4).astype(np.float32)
    q[2] = 0  # a side without a snippet contributes nothing
    got = losses.generalized_bce(jnp.asarray(p), jnp.asarray(q), exponent=exponent)
    want = [oracles.generalized_bce(p[b].astype(np.float64), q[b], exponent) for b in range(3)]
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_generalized_bce_tends_to_cross_entropy(rng):
    p, q = jnp.asarray(rng.uniform(0.1, 0.9, (2, 30)), jnp.float32), jnp.asarray(rng.random((2, 30)) < 0.5, jnp.float32)
    limit = losses.generalized_bce(p, q, exponent=0.0)
    np.testing.assert_allclose(losses.generalized_bce(p, q, exponent=1e-3), limit, rtol=2e-3)
    want = -(q * jnp.log(p)).sum(1) / q.sum(1) - ((1 - q) * jnp.log(1 - p)).sum(1) / (1 - q).sum(1)
    np.testing.assert_allclose(limit, want, rtol=1e-4)


def test_masked_snippets_are_inert(rng):
    p, q = rng.random((2, 8)).astype(np.float32), (rng.random((2, 8)) < 0.5).astype(np.float32)
    mask = jnp.asarray(np.arange(8)[None] < np.array([[8], [5]]))
    spoiled = jnp.where(mask, p, jnp.nan)

    def loss(p):
        return losses.generalized_bce(p, jnp.where(mask, q, jnp.nan), mask=mask)

    cropped = losses.generalized_bce(jnp.asarray(p[1:, :5]), jnp.asarray(q[1:, :5]))
    np.testing.assert_allclose(loss(spoiled)[1], cropped[0], rtol=1e-6)
    gradient = jax.grad(lambda p: loss(p).sum())(spoiled)
    assert bool(jnp.isfinite(gradient).all())
    assert float(jnp.abs(jnp.where(mask, 0, gradient)).max()) == 0
    values = jnp.asarray([1.0, 2.0, jnp.nan])
    np.testing.assert_allclose(losses.masked_mean(values, mask=jnp.asarray([True, True, False])), 1.5)
    assert float(losses.masked_mean(values, mask=jnp.zeros(3, bool))) == 0


def test_gradients_are_bounded_at_certainty():
    gradient = jax.grad(lambda p: losses.generalized_bce(p, jnp.asarray([1.0, 0.0])).sum())(jnp.asarray([0.0, 1.0]))
    np.testing.assert_allclose(jnp.abs(gradient), 1e-7**-0.3, rtol=0.3)  # 126 as measured on the published loss


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(rng):
    p, q = jnp.asarray(rng.uniform(0.1, 0.9, (2, 6))), jnp.asarray(rng.random((2, 6)) < 0.5, jnp.float64)
    check_grads(lambda p: losses.generalized_bce(jnp.asarray(p), q).sum(), (p,), order=1, modes=["rev"])
    logits, targets = rng.normal(size=(4, 3)), jnp.asarray(oracles.softmax(rng.normal(size=(4, 3))))
    check_grads(
        lambda x: losses.soft_cross_entropy(jnp.asarray(x), targets).sum(),
        (jnp.asarray(logits),),
        order=1,
        modes=["rev"],
    )


def test_soft_cross_entropy(rng):
    logits, targets = rng.normal(size=(5, 3)).astype(np.float32), oracles.softmax(rng.normal(size=(5, 3)))
    got = losses.soft_cross_entropy(jnp.asarray(logits), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(got, oracles.cross_entropy(logits, targets), rtol=1e-5)


def test_an_exponent_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"exponent must lie in \[0, 1\], got 1.5"):
        losses.generalized_bce(jnp.ones(3), jnp.ones(3), exponent=1.5)


# Scores


def outputs(rng, streams=2, b=2, t=16, c=5, k=4):
    def normal(*shape):
        return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(streams))

    return Outputs(normal(b, t, c), tuple(jax.nn.sigmoid(x) for x in normal(b, t)), normal(b, t, 3), normal(b, t, k))


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_clustering_assisted_scores(rng, streams):
    out = outputs(rng, streams)
    foreground = rng.random((streams, 4)).astype(np.float32)
    q = jnp.asarray(np.stack([foreground, 1 - foreground], 2))
    got = scores.clustering_assisted(out, q, cas_weight=0.25, transformed_weight=0.5, top_k_divisor=8)

    attention = np.mean([np.asarray(a, np.float64) for a in out.attention], 0)
    transformed = np.mean(
        [oracles.softmax(np.asarray(x, np.float64)) @ f for x, f in zip(out.cluster_logits, foreground, strict=True)], 0
    )
    fused = 0.5 * attention + 0.5 * transformed
    classes = np.mean([oracles.softmax(np.asarray(x, np.float64)) for x in out.cas], 0)
    cas = 0.25 * classes + 0.75 * fused[:, :, None]
    chosen = oracles.select_top_k(cas, 8)
    pooled = [(np.asarray(x) * chosen).sum(1) / chosen.sum(1) for x in out.cas]
    np.testing.assert_allclose(got.attention, attention, rtol=1e-5)
    np.testing.assert_allclose(got.transformed, transformed, rtol=1e-5)
    np.testing.assert_allclose(got.foreground, fused, rtol=1e-5)
    np.testing.assert_allclose(got.fused, cas, rtol=1e-5)
    np.testing.assert_allclose(got.video, np.mean([oracles.softmax(x) for x in pooled], 0), rtol=1e-5)


def test_published_fusion_is_the_mean_of_five_terms(rng):
    """omega = 1/5 with P^M half and half: class scores, two attentions and two P^T weigh the same."""
    out = outputs(rng)
    q = jnp.full((2, 4, 2), 0.5).at[:, 0, 0].set(0.9)
    got = scores.clustering_assisted(out, q, cas_weight=0.2, transformed_weight=0.5)
    transformed = [jax.nn.softmax(x) @ q[0, :, 0] for x in out.cluster_logits]
    terms = sum(x[:, :, None] for x in (*out.attention, *transformed))
    want = (losses.class_probabilities(out.cas) + terms) / 5
    np.testing.assert_allclose(got.fused, want, rtol=1e-5)
