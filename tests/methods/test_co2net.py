import base_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from base_checks import LABELS, LENGTHS, MASK, B, C
from flax import nnx

from casejax.methods import co2net, wtalc


@pytest.fixture(scope="module")
def model():
    return co2net.CO2Net(checks.DIMS, C, hidden=6, smoothing=3, rngs=nnx.Rngs(2))


@pytest.fixture(scope="module")
def x():
    return checks.features(np.random.default_rng(4))


@pytest.fixture(scope="module")
def outputs(model, x):
    graphdef, params = nnx.split(model, nnx.Param)
    return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, mask=jnp.asarray(MASK)))(params, x)


@pytest.fixture(scope="module")
def step(model):
    return checks.Step(model, objective, jax.random.key(1))


@pytest.fixture(scope="module")
def noisy(step, x):
    """With dropout."""
    return step(x)[0][1][1]


def test_parameter_count_is_that_of_the_layers_in_use():
    assert checks.count(lambda: co2net.CO2Net((1024, 1024), 20, rngs=nnx.Rngs(0))) == 34_133_015


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


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
    least = cas.min(1, keepdims=True)
    select = (sum(attention)[:, None] / 2 * (cas - least) + least)[:, :C]
    return {"cas": [cas], "embedding": embedding, "attention": attention, "select_scores": select}, feature


def test_forward_is_the_written_out_network(model, x, outputs):
    for b in range(B):
        want, feature = forward(model, [checks.cropped(a, b) for a in x])
        checks.assert_forward(outputs, want, b)
        np.testing.assert_allclose(outputs.own.feature[b, : LENGTHS[b]], feature, rtol=1e-4, atol=1e-5)
        checks.assert_forward(outputs.own, {"attention": want["attention"]}, b)


def test_dropout_spares_the_attention_that_the_clusters_see(outputs, noisy):
    # The logits of what the own losses see are dropped, one in two; of the mean over three, one in eight is 1/2.
    seen, spared = (np.stack(group)[:, MASK] for group in (noisy.own.attention, noisy.attention))
    assert 0.03 < np.mean(seen == 0.5) < 0.3
    assert not (spared == 0.5).any()
    jax.tree.map(np.testing.assert_array_equal, outputs.attention, outputs.own.attention)
    assert 0.6 < np.mean(np.asarray(noisy.own.feature) == 0) < 0.8


def mil(cas, labels, background, divisor):
    pooled = np.array([checks.top_mean(column, divisor) for column in cas.T])
    targets = np.append(labels, background)
    return -(targets / (targets.sum() + 1e-4) * checks.log_softmax(pooled)).sum()


def co_activity(features, logits, labels, pairs, margin):
    """Pair by pair and class by class; features and logits are lists of unpadded videos."""
    total, shared = 0.0, 0
    for i in range(0, 2 * pairs, 2):
        for c in np.flatnonzero(labels[i] * labels[i + 1]):
            high, low = [], []
            for feature, cas in zip(features[i : i + 2], logits[i : i + 2], strict=True):
                weight = np.exp(cas[:, c] - cas[:, c].max())
                weight /= weight.sum()
                high.append(weight @ feature)
                low.append((1 - weight) / max(len(feature) - 1, 1) @ feature)
            near = 1 - checks.cosine(high[0], high[1])
            for far in (1 - checks.cosine(high[0], low[1]), 1 - checks.cosine(high[1], low[0])):
                total += 0.5 * max(near - far + margin, 0)
            shared += 1
    return total / max(shared, 1)


def losses(outputs, *, divisor, pairs, margin=0.5, norm=0.8, guide=0.8, pair=1.0, mutual=1.0):
    """All terms, in NumPy and float64, from attention after dropout; with what each needs of a video."""
    videos, features, suppressed = [], [], []
    for b in range(B):
        cas, feature = checks.cropped(outputs.cas[0], b), checks.cropped(outputs.own.feature, b)
        v, f = (checks.cropped(a, b) for a in outputs.own.attention)
        three = np.stack([(v + f) / 2, v, f])
        least = cas.min(1, keepdims=True)
        acted = three[0][:, None] * (cas - least) + least
        features.append(feature)
        suppressed.append(acted)
        distance = np.abs(1 - three - oracles.softmax(cas)[:, -1]).mean(0)
        videos.append(
            [
                mil(cas, LABELS[b], 1, divisor),
                mil(acted, LABELS[b], 0, divisor),
                mutual * ((v - f) ** 2).mean(),
                norm * three.mean(),
                guide * distance.mean(),
            ]
        )
    video, acted, mutual, norm, guide = np.mean(videos, axis=0)
    return {
        "loss_video": video,
        "loss_suppressed": acted,
        "loss_pairs": pair * co_activity(features, [s[:, :C] for s in suppressed], LABELS, pairs, margin),
        "loss_mutual": mutual,
        "loss_norm": norm,
        "loss_guide": guide,
    }


def objective(outputs):
    return co2net.co2_objective(outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), pairs=2, top_k_divisor=3)


def test_objective_is_the_sum_of_its_terms(step, x, noisy):
    loss, (terms, _) = step(x)[0]
    want = losses(noisy, divisor=3, pairs=2)
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-5)


def test_pairs_that_share_no_class_have_no_loss(outputs):
    labels = jnp.asarray([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], jnp.float32)
    loss = jax.jit(lambda f, s: wtalc.co_activity_loss(f, s, labels, mask=jnp.asarray(MASK), pairs=2))
    value, slope = jax.value_and_grad(loss)(outputs.own.feature, outputs.cas[0])
    assert float(value) == 0
    np.testing.assert_array_equal(slope, np.zeros_like(slope))


def test_each_stream_is_drawn_to_the_other_as_it_stands(outputs):
    v, f = outputs.attention
    slope = jax.grad(lambda v: co2net.mutual_loss([v, f]).sum())(v)
    # Of the mean square only the half in which v moves; through the other half there is no gradient.
    np.testing.assert_allclose(slope, (v - f) / v.shape[1], rtol=1e-4, atol=1e-7)


def test_padding_is_inert(step, x):
    checks.assert_padding_is_inert(step, x)


@pytest.mark.parametrize("given", [False, True])
def test_attention_is_thresholded_and_its_product_with_logits_ranked(outputs, given):
    foreground = np.random.default_rng(1).random(MASK.shape).astype(np.float32) if given else None
    got = jax.jit(lambda o, f: co2net.co2_scores(o, f, mask=jnp.asarray(MASK), video_divisor=4))(outputs, foreground)
    for b in range(B):
        own = np.mean([checks.cropped(a, b) for a in outputs.attention], 0)
        attention = own if foreground is None else checks.cropped(foreground, b)
        ranked = checks.cropped(outputs.cas[0], b) * attention[:, None]
        pooled = np.array([checks.top_mean(column, 4) for column in ranked.T])
        for c in range(C):
            np.testing.assert_allclose(got.thresholded[b, : LENGTHS[b], c], attention, rtol=1e-6)
        np.testing.assert_allclose(got.ranked[b, : LENGTHS[b]], ranked[:, :C], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(got.video[b], oracles.softmax(pooled)[:C], rtol=1e-5)
    assert float(jnp.abs(jnp.where(MASK[..., None], 0, got.thresholded)).max()) == 0


def test_settings_are_the_defaults():
    checks.assert_settings_are_defaults(co2net.THUMOS14, co2net.CO2Net, co2net.co2_objective, co2net.co2_scores)


def test_what_does_not_fit_is_refused(outputs):
    with pytest.raises(ValueError, match=r"two or more streams and an odd smoothing, got dims=\(5,\)"):
        co2net.CO2Net((5,), C, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="smoothing=4"):
        co2net.CO2Net((5, 4), C, smoothing=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"rates of dropout must lie in \[0, 1\), got dropout=1.0"):
        co2net.CO2Net((5, 4), C, dropout=1.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="3 pairs need a batch of 6 videos or more, got 4"):
        wtalc.co_activity_loss(outputs.own.feature, outputs.cas[0], jnp.asarray(LABELS), pairs=3)
