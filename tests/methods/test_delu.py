import base_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_co2net as co2
from base_checks import LABELS, LENGTHS, MASK, B, C, T
from casejax.methods.outputs import BaseOutputs

from casejax import ot
from casejax.methods import co2net, delu
from casejax.methods.co2net import CO2Net


@pytest.fixture(scope="module")
def outputs():
    """What a network might say; the losses do not ask which."""
    rng = np.random.default_rng(7)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    attention = tuple(jax.nn.sigmoid(normal(B, T)) for _ in checks.DIMS)
    own = co2net.CO2Own(normal(B, T, 5), tuple(jax.nn.sigmoid(normal(B, T)) for _ in checks.DIMS))
    return BaseOutputs((2 * normal(B, T, C + 1),), (normal(B, T, 6),) * 2, attention, normal(B, T, C), own)


def test_the_network_and_the_inference_are_those_of_co2net():
    assert delu.DELUNet is CO2Net
    assert delu.delu_scores is co2net.co2_scores


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
        fused = (v + f) / 2
        least = cas.min(1, keepdims=True)
        acted = fused[:, None] * (cas - least) + least
        best = np.argsort(-fused)[: max(n // divisor, 1)]
        certain = 1 / (exp_evidence(acted) + 1).sum(1)
        theta = 2 * (order(certain) + 0.5) / n - 1
        weight = amplitude * np.tanh(theta * (1 - 2 * progress)) + 1
        background = np.exp(checks.log_softmax(cas))[:, -1]
        distance = np.mean([np.abs(1 - a - background) for a in (fused, v, f)], axis=0)
        videos.append([video_loss(evidence(acted[best, :C].mean(0)), LABELS[b]), (weight * distance).mean()])
    return 1.3 * np.mean(videos, axis=0)[0], 0.4 * np.mean(videos, axis=0)[1]


CASES = [
    (0.2, ot.ascending_rank, true_order, delu.evidence_log_loss, log_loss, delu.exp_evidence, exp_evidence),
    (
        0.9, delu.published_order, published_order, delu.evidence_square_loss, square_loss, jax.nn.relu,
        lambda x: np.maximum(x, 0),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=["thumos", "activitynet and published order"])
def test_objective_is_the_sum_of_its_terms(outputs, case):
    progress, rank, order, video_loss, own_video_loss, evidence, own_evidence = case
    objective = lambda outputs, progress: delu.delu_objective(  # noqa: E731
        outputs, jnp.asarray(LABELS), progress, mask=jnp.asarray(MASK), pairs=2, top_k_divisor=3, evidence_divisor=2,
        video_loss=video_loss, evidence=evidence, rank=rank,
    )  # fmt: skip
    loss, terms = jax.jit(objective)(outputs, progress)
    want = co2.losses(outputs, divisor=3, pairs=2, guide=0.4)
    want["loss_evidence"], want["loss_uncertain"] = terms_of_delu(
        outputs, progress, order, own_video_loss, own_evidence
    )
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-5)


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


def test_a_video_without_a_label_has_no_evidence_loss():
    evidence, labels = jnp.asarray([[1.0, 2.0, 3.0]]), jnp.zeros((1, 3))
    value, slope = jax.value_and_grad(lambda e: delu.evidence_log_loss(e, labels).sum())(evidence)
    assert float(value) == 0
    np.testing.assert_array_equal(slope, np.zeros_like(slope))


def test_no_gradient_goes_through_uncertainty_of_a_video():
    evidence, labels = jnp.asarray([[1.0, 2.0, 3.0]]), jnp.asarray([[0.0, 1.0, 0.0]])
    slope = jax.grad(lambda e: delu.evidence_log_loss(e, labels).sum())(evidence)
    # One label: g is (1 - u) alone, held still, and what moves is log S - log alpha
    alpha = np.array([2.0, 3.0, 4.0])
    want = (1 - 3 / alpha.sum()) * (1 / alpha.sum() - np.array([0, 1 / 3, 0]))
    np.testing.assert_allclose(slope[0], want, rtol=1e-5)


def test_padding_is_inert(outputs):
    """Of the network it is tested with CO2-Net."""

    def objective(outputs):
        return delu.delu_objective(
            outputs, jnp.asarray(LABELS), 0.3, mask=jnp.asarray(MASK), pairs=2, evidence_divisor=3
        )

    def spoil(x):
        return jnp.where(MASK.reshape(B, T, *(1,) * (x.ndim - 2)), x, 7.5)

    step = jax.jit(jax.value_and_grad(objective, has_aux=True))
    spoiled = jax.tree.map(spoil, outputs)
    clean, other = step(outputs), step(spoiled)
    jax.tree.map(np.testing.assert_array_equal, clean, other)
    for slope in jax.tree.leaves(clean[1]):
        assert float(jnp.abs(jnp.where(MASK.reshape(B, T, *(1,) * (slope.ndim - 2)), 0, slope)).max()) == 0


def test_settings_are_the_defaults():
    checks.assert_settings_are_defaults(delu.THUMOS14, delu.DELUNet, delu.delu_objective, delu.delu_scores)
