from dataclasses import replace

import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import pytest
import test_co2net as co2
from method_checks import DIMS, LABELS, LENGTHS, MASK, B, C, T

from casejax.methods import co2net, delu
from casejax.methods.contract import Outputs, Step


def test_the_network_and_the_inference_are_those_of_co2net():
    assert delu.METHOD.network is co2net.CO2Net
    assert delu.METHOD.scores is co2net.co2_scores


def log_loss(evidence, labels):
    """Class by class for one video."""
    alpha = evidence + 1
    total = alpha.sum()
    of_labels = np.flatnonzero(labels)
    certainty = 1 - len(labels) / total
    mass = sum(1 / alpha[c] for c in of_labels)
    return sum(
        certainty * len(of_labels) * (1 / alpha[c] / mass) * (np.log(total) - np.log(alpha[c])) for c in of_labels
    )


def square_loss(evidence, labels):
    alpha = evidence + 1
    return sum((y - a / alpha.sum()) ** 2 for y, a in zip(labels, alpha, strict=True))


def exp_evidence(logits):
    return np.exp(np.clip(logits, -10, 10))


def true_order(values):
    return np.argsort(np.argsort(values, kind="stable"))


def published_order(values):
    return np.argsort(values, kind="stable")


def terms_of_delu(outputs, progress, order, video_loss, evidence, *, divisor=2, amplitude=0.7):
    videos = []
    for b, n in enumerate(LENGTHS):
        cas = checks.cropped(outputs.cas[0], b)
        v, f = (checks.cropped(a, b) for a in outputs.own.attention)
        fused, acted = (v + f) / 2, co2.suppressed(outputs, outputs.own.attention, b)
        best = np.argsort(-fused)[: max(n // divisor, 1)]
        certain = 1 / (exp_evidence(acted) + 1).sum(1)
        theta = 2 * (order(certain) + 0.5) / n - 1
        weight = amplitude * np.tanh(theta * (1 - 2 * progress)) + 1
        background = np.exp(checks.log_softmax(cas))[:, -1]
        distance = np.mean([np.abs(1 - a - background) for a in (fused, v, f)], axis=0)
        videos.append([video_loss(evidence(acted[best, :C].mean(0)), LABELS[b]), (weight * distance).mean()])
    return dict(zip(("loss_evidence", "loss_uncertain"), [1.3, 0.4] * np.mean(videos, axis=0), strict=True))


@pytest.fixture(scope="module")
def outputs():
    """What a network might say; the losses do not ask which."""
    rng = np.random.default_rng(7)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    attention, dropped = (tuple(checks.sigmoid(normal(B, T)) for _ in DIMS) for _ in range(2))
    own = co2net.CO2Own(normal(B, T, 5), dropped)
    return Outputs((2 * normal(B, T, C + 1),), (normal(B, T, 6),) * 2, attention, own=own)


SNIPPET_LABELS = np.random.default_rng(8).normal(size=(B, T, C + 1)).astype(np.float32)
PUBLISHED = {"uncertainty_rank": "argsort", "video_loss": "square", "evidence": "relu"}


@pytest.fixture(scope="module")
def losses():
    """From outputs to two losses, and their sum with its gradient; one compilation."""

    def both(outputs):
        late = Step(done=9, total=10, pairs=2, snippet_labels=jnp.asarray(SNIPPET_LABELS))
        found = []
        for step, options in ((Step(done=1, total=5, pairs=2), {}), (late, PUBLISHED)):
            settings = replace(delu.METHOD.settings, top_k_divisor=3, evidence_divisor=2, **options)
            found.append(delu.delu_loss(outputs, jnp.asarray(LABELS), step, settings=settings, mask=jnp.asarray(MASK)))
        return found[0].value + found[1].value, found

    return jax.jit(jax.value_and_grad(both, has_aux=True))


def test_loss_is_the_sum_of_its_terms(outputs, losses):
    thumos, activitynet = jax.device_get(losses(outputs))[0][1]
    shared = co2.losses(outputs, divisor=3, pairs=2, guide=0.4)
    checks.assert_loss(thumos, shared | terms_of_delu(outputs, 0.2, true_order, log_loss, exp_evidence))
    own = terms_of_delu(outputs, 0.9, published_order, square_loss, lambda x: np.maximum(x, 0))
    towards = [
        -(checks.cropped(SNIPPET_LABELS, b) * checks.log_softmax(checks.cropped(outputs.cas[0], b))).sum(1).mean()
        for b in range(B)
    ]
    checks.assert_loss(activitynet, shared | own | {"loss_labels": np.mean(towards)})
    co2.assert_foreground(thumos, outputs, 3)


def test_padding_is_inert(outputs, losses):
    """Of the network it is tested with CO2-Net."""
    spoiled = jax.tree.map(lambda x: np.where(MASK.reshape(B, T, *(1,) * (x.ndim - 2)), x, np.float32(7.5)), outputs)
    clean, other = jax.device_get((losses(outputs), losses(spoiled)))
    jax.tree.map(np.testing.assert_array_equal, clean, other)
    assert not any(slope[~MASK].any() for slope in jax.tree.leaves(clean[1]))


def test_the_uncertain_count_more_at_first_and_less_in_the_end(rng):
    values = jnp.asarray(rng.random((B, T)), jnp.float32)
    weigh = jax.jit(lambda progress: delu.progress_weights(values, progress, amplitude=0.5))
    first, middle, last = (np.asarray(weigh(p)) for p in (0.0, 0.5, 1.0))
    order = np.argsort(values, axis=1)
    assert (np.diff(np.take_along_axis(first, order, 1)) > 0).all()
    np.testing.assert_array_equal(middle, np.ones_like(middle))
    np.testing.assert_allclose(first + last, 2, rtol=1e-6)
    reach = 0.5 * np.tanh(10 / 11)
    np.testing.assert_allclose(np.sort(first)[:, [0, -1]] - 1, [[-reach, reach]] * B, rtol=1e-6)


def test_evidence_without_a_label_has_no_loss_and_uncertainty_no_gradient():
    evidence, labels = jnp.asarray([[1.0, 2.0, 3.0]] * 2), jnp.asarray([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    losses, pull_back = jax.vjp(jax.jit(lambda e: delu.evidence_log_loss(e, labels)), evidence)
    (slope,) = pull_back(jnp.ones(2))
    assert losses[0] == 0
    assert not slope[0].any()
    # One label: g is (1 - u) alone, held still, and what moves is log S - log alpha
    alpha = np.array([2.0, 3.0, 4.0])
    want = (1 - 3 / alpha.sum()) * (1 / alpha.sum() - np.array([0, 1 / 3, 0]))
    np.testing.assert_allclose(slope[1], want, rtol=1e-5)
