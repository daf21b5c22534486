import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from slopes import assert_gradient

from casejax import losses

EXPONENTS = (0.0, 1e-3, 0.3, 0.7, 1.0)


@jax.jit
def bce(p, q):
    """By exponent."""
    return [losses.generalized_bce(p, q, exponent=exponent) for exponent in EXPONENTS]


def test_video_cross_entropy_shares_the_target_out(rng):
    logits = rng.normal(size=(3, 4)).astype(np.float32)
    labels = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], np.float32)
    targets = labels / np.maximum(labels.sum(1, keepdims=True), 1)
    got = jax.jit(losses.video_cross_entropy)(logits, labels)
    np.testing.assert_allclose(got, oracles.cross_entropy(logits, targets), rtol=1e-5, atol=1e-7)
    assert float(got[2]) < 1e-7


def test_generalized_bce_agrees_with_the_sum(rng):
    p, q = rng.random((3, 30)).astype(np.float32), (rng.random((3, 30)) < 0.4).astype(np.float32)
    q[2] = 0  # a side without a snippet contributes nothing
    for got, exponent in zip(bce(p, q)[2:], EXPONENTS[2:], strict=True):
        want = [oracles.generalized_bce(p[b].astype(np.float64), q[b], exponent) for b in range(3)]
        np.testing.assert_allclose(got, want, rtol=2e-6)


def test_generalized_bce_tends_to_cross_entropy(rng):
    p, q = rng.uniform(0.1, 0.9, (3, 30)), rng.random((3, 30)) < 0.5
    limit, near, *_ = bce(np.float32(p), np.float32(q))
    np.testing.assert_allclose(near, limit, rtol=2e-3)
    want = -(q * np.log(p)).sum(1) / q.sum(1) - (~q * np.log(1 - p)).sum(1) / (~q).sum(1)
    np.testing.assert_allclose(limit, want, rtol=1e-4)


def test_masked_snippets_are_inert(rng):
    p, q = rng.random((2, 8)).astype(np.float32), (rng.random((2, 8)) < 0.5).astype(np.float32)
    mask = np.arange(8)[None] < np.array([[8], [5]])

    @jax.jit
    def masked_and_cropped(p, q):
        def total(p):
            loss = losses.generalized_bce(p, q, mask=jnp.asarray(mask))
            return loss.sum(), loss

        return jax.value_and_grad(total, has_aux=True)(p), losses.generalized_bce(p[:, :5], q[:, :5])

    ((_, loss), gradient), cropped = masked_and_cropped(np.where(mask, p, np.nan), np.where(mask, q, np.nan))
    np.testing.assert_allclose(loss[1], cropped[1], rtol=1e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[~mask].any()


def test_gradients_are_bounded_at_certainty():
    slope = jax.jit(jax.grad(lambda p: losses.generalized_bce(p, jnp.asarray([1.0, 0.0])).sum()))
    np.testing.assert_allclose(
        np.abs(slope(np.float32([0, 1]))), 1e-7**-0.3, rtol=0.3
    )  # 126 as measured on the published loss


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(rng):
    q, targets = (rng.random((4, 6)) < 0.5).astype(float), oracles.softmax(rng.normal(size=(4, 6)))

    @jax.jit
    def both(p, logits):
        def total(p, logits):
            entropy = losses.soft_cross_entropy(logits, jnp.asarray(targets))
            return (losses.generalized_bce(p, jnp.asarray(q)) * entropy).sum()

        return jax.value_and_grad(total, argnums=(0, 1))(p, logits)

    assert_gradient(both, (rng.uniform(0.1, 0.9, (4, 6)), rng.normal(size=(4, 6))))


def test_soft_cross_entropy_and_entropy(rng):
    logits, targets = rng.normal(size=(5, 3)).astype(np.float32), oracles.softmax(rng.normal(size=(5, 3)))
    targets[0] = [0, 1, 0]
    got, entropy = jax.jit(lambda x, q: (losses.soft_cross_entropy(x, q), losses.entropy(q)))(
        logits, np.float32(targets)
    )
    np.testing.assert_allclose(got, oracles.cross_entropy(logits, targets), rtol=1e-5)
    np.testing.assert_allclose(entropy[1:], -(targets[1:] * np.log(targets[1:])).sum(1), rtol=1e-6)
    assert entropy[0] == 0


def test_softmax_bce_needs_no_cut():
    logits, targets = np.array([[60.0, -50, 0], [-3, 4, 1]]), np.array([[0, 0.5, 0.5], [1, 0, 0]])
    loss = jax.jit(jax.value_and_grad(lambda x: losses.softmax_bce(x, jnp.float32(targets)).sum()))
    value, slope = loss(np.float32(logits))
    p = oracles.softmax(logits)
    others = p[:, None, :] * (1 - np.eye(3))
    rest = others.sum(axis=2)  # 1 - p as a sum, since p is 1 in float64 as well
    np.testing.assert_allclose(
        value, -(targets * np.log(p) + (1 - targets) * np.log(rest)).mean(axis=1).sum(), rtol=1e-6
    )
    of_own, of_rest = np.eye(3) - p[:, None, :], others / rest[..., None] - p[:, None, :]
    want = -(targets[..., None] * of_own + (1 - targets)[..., None] * of_rest).mean(axis=1)
    np.testing.assert_allclose(slope, want, rtol=1e-5, atol=1e-6)


def test_an_exponent_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"exponent must lie in \[0, 1\], got 1.5"):
        losses.generalized_bce(jnp.ones(3), jnp.ones(3), exponent=1.5)


# Multiple-instance learning


def mil(mask, divisors):
    """From logits and labels to losses and means of the highest, with the gradient of the losses' sum, by divisor."""

    def one(cas, labels, divisor):
        def total(cas):
            loss = losses.mil_loss(cas, labels, mask=jnp.asarray(mask), divisor=divisor)
            return loss.sum(), (loss, losses.top_k_mean(cas, divisor=divisor, rounding="up", mask=jnp.asarray(mask)))

        (_, values), gradient = jax.value_and_grad(total, has_aux=True)(cas)
        return *values, gradient

    return jax.jit(lambda cas, labels: [one(cas, labels, divisor) for divisor in divisors])


def test_golden_mil_losses(golden):
    arrays = golden.arrays("a2cl_pt")
    cas, labels = arrays["mil/cas"], arrays["mil/label"]
    mask = np.arange(cas.shape[1])[None] < arrays["mil/len"][:, None]
    divisors = [re.fullmatch(r"mil/loss_s(\d+)", key) for key in arrays if key.startswith("mil/loss_s")]
    assert divisors
    assert all(divisors)
    found = mil(mask, [int(found[1]) or 1 for found in divisors])(cas, labels)  # there, 0 stands for all snippets
    for own, (loss, _, gradient) in zip(divisors, found, strict=True):
        np.testing.assert_allclose(np.mean(loss), arrays[own[0]], rtol=1e-6)
        np.testing.assert_allclose(gradient / len(cas), arrays[f"mil/grad_s{own[1]}"], rtol=1e-6, atol=1e-7)


def test_pooling_of_the_highest_and_mil(rng):
    cas, mask = rng.normal(size=(2, 9, 3)).astype(np.float32), np.arange(9)[None] < np.array([[9], [5]])
    labels = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
    compiled = mil(mask, [3])
    loss, got, gradient = clean = jax.device_get(compiled(cas, labels))[0]
    for b, c in np.ndindex(2, 3):
        n = mask[b].sum()
        want = sorted(cas[b, :n, c])[::-1][: -(-n // 3)]
        np.testing.assert_allclose(got[b, c], np.mean(want), rtol=1e-5)
    want = oracles.cross_entropy(np.asarray(got, float), labels / np.maximum(labels.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert loss[1] == 0  # without a label
    jax.tree.map(np.testing.assert_array_equal, compiled(np.where(mask[:, :, None], cas, np.nan), labels)[0], clean)
    assert not gradient[~mask].any()
