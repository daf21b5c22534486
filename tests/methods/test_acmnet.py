import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, LABELS, MASK, B, C

from casejax.methods import acmnet
from casejax.methods.acmnet import ACMSettings
from casejax.methods.contract import Step

DIVISORS = {"top_k_divisor": 4, "context_divisor": 3, "background_divisor": 2}
WEIGHTS = {"instance_weight": 5.0, "guide_weight": 0.2, "feature_weight": 0.3, "sparse_weight": 0.4, "margin": 0.5}


@pytest.fixture(scope="module")
def small():
    options = {"hidden": 10, "input_dropout": 0.3, "attention_dropout": 0.2, "frame_weight": 0.7}
    return checks.Small(acmnet.METHOD, seed=4, step=Step(key=jax.random.key(1)), **options, **DIVISORS, **WEIGHTS)


def test_parameter_count_is_the_published_one():
    assert checks.count(acmnet.METHOD) == 12_634_136


def forward(model, x):
    """The network on one video without padding or dropout."""
    embedding = np.maximum(checks.conv(model.encoder, np.concatenate(x, 1)), 0)
    instance, *own = oracles.softmax(checks.dense(model.attention, embedding)).T
    cas = checks.dense(model.classifier, embedding)
    return {"cas": [cas], "embedding": [embedding], "attention": [instance], "own": own}


def test_forward_is_the_written_out_network(small):
    small.assert_forward(forward)


def losses(outputs):
    """All terms, video by video."""
    videos = []
    for b in range(B):
        cas, embedding = checks.cropped(outputs.cas[0], b), checks.cropped(outputs.embedding[0], b)
        three = [checks.cropped(a, b) for a in (outputs.attention[0], *outputs.own)]
        targets = np.append(LABELS[b], 0), np.append(LABELS[b], 1), np.eye(C + 1)[C]
        terms, norms = [], []
        for attention, target, divisor in zip(three, targets, DIVISORS.values(), strict=True):
            pooled = checks.top_means(cas * attention[:, None], divisor)
            terms.append(oracles.cross_entropy(pooled, target / target.sum()))
            chosen = np.argsort(-attention, kind="stable")[: max(len(attention) // divisor, 1)]
            norms.append(np.linalg.norm(embedding[chosen].mean(0)))
        steps = max(0.5 - norms[0] + norms[1], 0) + max(0.5 - norms[1] + norms[2], 0) + norms[2]
        guide = np.abs(1 - oracles.softmax(cas * three[0][:, None])[:, -1] - three[0]).sum()
        videos.append([5 * terms[0], *terms[1:], 0.2 * guide, 0.3 * steps**2, 0.4 * (three[0] + three[1]).sum() / 2])
    names = ("instance", "context", "background", "guide", "features", "sparse")
    return {f"loss_{name}": value for name, value in zip(names, np.mean(videos, axis=0), strict=True)}


def test_loss_is_the_sum_of_its_terms(small):
    noisy = small.noisy
    # Snippets that are dropped as a whole have the bias for logits.
    bias = np.asarray(small.network.classifier.bias[...])
    assert 0.5 < np.isclose(noisy.cas[0][MASK], bias).all(axis=1).mean() < 1
    checks.assert_loss(small.found, losses(noisy))
    scores = lambda b: (checks.cropped(noisy.cas[0], b) * checks.cropped(noisy.attention[0], b)[:, None])[:, :C]  # noqa: E731
    checks.assert_foreground(small.found.foreground, noisy, scores, 4)


def test_guidance_leaves_instance_attention_alone(small):
    outputs = small.outputs._replace(cas=(np.zeros((*MASK.shape, C + 1), np.float32),))

    def loss(instance):
        return small.loss(jax.tree.map(jnp.asarray, outputs)._replace(attention=(instance,))).value

    # Without logits attention can be drawn nowhere, but for the distance in which it holds still, and to be sparse.
    slope = np.asarray(jax.jit(jax.grad(loss))(outputs.attention[0]))
    np.testing.assert_allclose(slope, np.where(MASK, 0.4 / 2 / B, 0), rtol=1e-6)


def test_norms_have_a_margin_and_a_slope_where_nothing_is_left():
    rng = np.random.default_rng(0)
    features = [scale * rng.normal(size=(3, 8)) for scale in (2.0, 1.0, 0.5)]
    features[0][0] *= 9  # far enough
    features[2][1] = 0
    i, c, b = (np.linalg.norm(f, axis=1) for f in features)
    steps = np.maximum(4 - i + c, 0) + np.maximum(4 - c + b, 0) + b
    loss = jax.jit(jax.value_and_grad(lambda f: acmnet.norm_loss(*f, margin=4.0).sum()))
    value, slopes = jax.device_get(loss([f.astype(np.float32) for f in features]))
    np.testing.assert_allclose(value, (steps**2).sum(), rtol=1e-5)
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert not slopes[2][1].any()


def test_attention_is_thresholded_and_a_mixture_ranked(small):
    for scores, foreground in small.found_scores:

        def want(b, foreground=foreground):
            attention = checks.cropped(foreground, b)[:, None]
            acted = checks.cropped(small.outputs.cas[0], b) * attention
            frames = oracles.softmax(acted)[:, :C]
            video = oracles.softmax(checks.top_means(acted, 4))[:C]
            return np.broadcast_to(attention, frames.shape), video, 0.7 * frames + 0.3 * attention

        checks.assert_scores(scores, want)


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"rates of dropout must lie in \[0, 1\), got dropout=0.7, input_dropout=1.0"):
        acmnet.ACMNet(DIMS, C, settings=ACMSettings(input_dropout=1.0), rngs=nnx.Rngs(0))
