import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, LABELS, MASK, B, C

from casejax.methods import co2net
from casejax.methods.co2net import CO2Settings
from casejax.methods.contract import Step


@pytest.fixture(scope="module")
def small():
    step = Step(pairs=2, key=jax.random.key(1))
    return checks.Small(co2net.METHOD, seed=2, step=step, hidden=6, smoothing=3, top_k_divisor=3, video_divisor=4)


def test_parameter_count_is_that_of_the_layers_in_use():
    assert checks.count(co2net.METHOD) == 34_133_015


def leaky(x):
    return checks.leaky(x, 0.2)


def average(x, window=3):
    """Over `window` snippets, of which there are zeros beyond either end."""
    padded = np.pad(x, ((window // 2, window // 2), *((0, 0),) * (x.ndim - 1)))
    return sum(padded[i : i + len(x)] for i in range(window)) / window


def forward(model, x):
    """The network on one video without padding or dropout."""
    filtered, embedding, attention = [], [], []
    for layer, main, other in zip(model.filters, x, x[::-1], strict=True):
        whole = leaky(checks.conv(layer.whole, main.mean(0, keepdims=True)))
        filtered.append(checks.sigmoid(leaky(checks.conv(layer.each, other)) * whole) * main)
        embedding.append(leaky(checks.conv(layer.second, leaky(checks.conv(layer.first, filtered[-1])))))
        attention.append(average(checks.sigmoid(checks.dense(layer.attention, embedding[-1])[:, 0])))
    feature = leaky(checks.dense(model.fusion, np.concatenate(filtered, 1)))
    cas = average(checks.dense(model.classifier, leaky(checks.conv(model.class_encoder, feature))))
    return {"cas": [cas], "embedding": embedding, "attention": attention, "own": [feature, *attention]}


def test_forward_is_the_written_out_network(small):
    jax.tree.map(np.testing.assert_array_equal, small.outputs.attention, small.outputs.own.attention)
    small.assert_forward(forward)


def test_dropout_spares_the_attention_that_the_clusters_see(small):
    # The logits of what the own losses see are dropped, one in two; of the mean over three, one in eight is 1/2.
    seen, spared = (np.stack(group)[:, MASK] for group in (small.noisy.own.attention, small.noisy.attention))
    assert 0.03 < np.mean(seen == 0.5) < 0.3
    assert not (spared == 0.5).any()
    assert 0.6 < np.mean(small.noisy.own.feature == 0) < 0.8


def suppressed(outputs, attention, b):
    cas, attention = checks.cropped(outputs.cas[0], b), np.mean([checks.cropped(a, b) for a in attention], axis=0)
    least = cas.min(1, keepdims=True)
    return attention[:, None] * (cas - least) + least


def mil(cas, labels, background, divisor):
    targets = np.append(labels, background)
    return -(targets / (targets.sum() + 1e-4) * checks.log_softmax(checks.top_means(cas, divisor))).sum()


def losses(outputs, *, divisor, pairs, guide=0.8):
    """All terms, in NumPy and float64, from attention after dropout."""
    videos, features, acted = [], [], []
    for b in range(B):
        cas = checks.cropped(outputs.cas[0], b)
        v, f = (checks.cropped(a, b) for a in outputs.own.attention)
        three = np.stack([(v + f) / 2, v, f])
        features.append(checks.cropped(outputs.own.feature, b))
        acted.append(suppressed(outputs, outputs.own.attention, b))
        distance = np.abs(1 - three - oracles.softmax(cas)[:, -1]).mean(0)
        videos.append(
            [
                mil(cas, LABELS[b], 1, divisor),
                mil(acted[-1], LABELS[b], 0, divisor),
                ((v - f) ** 2).mean(),
                0.8 * three.mean(),
                guide * distance.mean(),
            ]
        )
    names = ("loss_video", "loss_suppressed", "loss_mutual", "loss_norm", "loss_guide")
    shared = {"loss_pairs": checks.co_activity(features, [s[:, :C] for s in acted], pairs, 0.5)}
    return dict(zip(names, np.mean(videos, axis=0), strict=True)) | shared


def assert_foreground(found, outputs, divisor):
    scores = lambda b: suppressed(outputs, outputs.attention, b)[:, :C]  # noqa: E731
    checks.assert_foreground(found.foreground, outputs, scores, divisor)


def test_loss_is_the_sum_of_its_terms(small):
    checks.assert_loss(small.found, losses(small.noisy, divisor=3, pairs=2))
    assert_foreground(small.found, small.noisy, 3)


def test_each_stream_is_drawn_to_the_other_as_it_stands(rng):
    v, f = jnp.asarray(rng.random((2, B, 5)), jnp.float32)
    slope = jax.jit(jax.grad(lambda v: co2net.mutual_loss([v, f]).sum()))(v)
    # Of the mean square only the half in which v moves; through the other half there is no gradient.
    np.testing.assert_allclose(slope, (v - f) / v.shape[1], rtol=1e-4, atol=1e-7)


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_attention_is_thresholded_and_its_product_with_logits_ranked(small):
    for scores, foreground in small.found_scores:

        def want(b, foreground=foreground):
            attention = checks.cropped(foreground, b)[:, None]
            ranked = checks.cropped(small.outputs.cas[0], b) * attention
            video = oracles.softmax(checks.top_means(ranked, 4))[:C]
            return np.broadcast_to(attention, ranked[:, :C].shape), video, ranked[:, :C]

        checks.assert_scores(scores, want, rtol=1e-5, atol=1e-7)


def test_what_does_not_fit_is_refused():
    for dims, options, message in (
        ((5,), {}, r"two or more streams and an odd smoothing, got dims=\(5,\)"),
        (DIMS, {"smoothing": 4}, "smoothing=4"),
        (DIMS, {"dropout": 1.0}, r"rates of dropout must lie in \[0, 1\), got dropout=1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            co2net.CO2Net(dims, C, settings=CO2Settings(**options), rngs=nnx.Rngs(0))
