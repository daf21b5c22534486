"""CoLA and ACM-Net."""

import base_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import torch
from base_checks import LABELS, LENGTHS, MASK, B, C
from flax import nnx
from scipy import ndimage

from casejax.methods import acmnet, cola

COLA = {"top_k_divisor": 3, "easy_divisor": 4, "hard_divisor": 5, "temperature": 0.2, "contrast_weight": 0.5}
MINING = {"easy_divisor": 4, "hard_divisor": 5}
ACM = {"top_k_divisor": 4, "context_divisor": 3, "background_divisor": 2, "instance_weight": 5.0}
ACM_WEIGHTS = {"guide_weight": 0.2, "feature_weight": 0.3, "sparse_weight": 0.4, "margin": 0.5}


def predict(model, x, scores, foreground, **options):
    """Outputs, and the scores made of them without and with a foreground, compiled in one piece."""
    graphdef, params = nnx.split(model, nnx.Param)

    def run(params, x, foreground):
        outputs = nnx.merge(graphdef, params)(x, mask=jnp.asarray(MASK))
        return outputs, [scores(outputs, given, mask=jnp.asarray(MASK), **options) for given in (None, foreground)]

    return jax.jit(run)(params, x, foreground)


@pytest.fixture(scope="module")
def x():
    return checks.features(np.random.default_rng(4))


@pytest.fixture(scope="module")
def foreground():
    return np.random.default_rng(1).random(MASK.shape).astype(np.float32)


@pytest.fixture(scope="module")
def cola_model():
    return cola.CoLANet(checks.DIMS, C, hidden=10, class_width=3, rngs=nnx.Rngs(2))


@pytest.fixture(scope="module")
def cola_predicted(cola_model, x, foreground):
    return predict(cola_model, x, cola.cola_scores, foreground, top_k_divisor=3)


@pytest.fixture(scope="module")
def cola_step(cola_model):
    def objective(outputs):
        return cola.cola_objective(outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), **COLA)

    return checks.Step(cola_model, objective, jax.random.key(1))


@pytest.fixture(scope="module")
def acm_model():
    return acmnet.ACMNet(checks.DIMS, C, hidden=10, input_dropout=0.3, attention_dropout=0.2, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def acm_predicted(acm_model, x, foreground):
    return predict(acm_model, x, acmnet.acm_scores, foreground, top_k_divisor=4, frame_weight=0.7)


@pytest.fixture(scope="module")
def acm_step(acm_model):
    def objective(outputs):
        return acmnet.acm_objective(outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), **ACM, **ACM_WEIGHTS)

    return checks.Step(acm_model, objective, jax.random.key(1))


def test_parameter_counts_are_the_published_ones():
    assert checks.count(lambda: cola.CoLANet((1024, 1024), 20, rngs=nnx.Rngs(0))) == 12_625_920
    assert checks.count(lambda: acmnet.ACMNet((1024, 1024), 20, rngs=nnx.Rngs(0))) == 12_634_136


def spanned(values):
    """Values over time, not negative, from 0 to 1."""
    spread = values.max(0) - values.min(0)
    return (values - values.min(0)) / np.where(spread > 0, spread, 1)


def class_filter(layer, x):
    """Each class on its own, three taps two snippets apart."""
    kernel, bias = (np.asarray(p[...], np.float64) for p in (layer.kernel, layer.bias))
    out = np.zeros_like(x) + bias
    for t in range(len(x)):
        for tap, place in enumerate((t - 2, t, t + 2)):
            if 0 <= place < len(x):
                out[t] += x[place] * kernel[tap, 0]
    return out


def test_cola_forward_is_the_written_out_network(cola_model, x, cola_predicted):
    outputs, _ = cola_predicted
    assert cola_model.embedding_dims == (10,)
    for b in range(B):
        joint = np.concatenate([checks.cropped(a, b) for a in x], 1)
        embedding = np.maximum(checks.conv(cola_model.encoder, joint), 0)
        logits = embedding @ np.asarray(cola_model.classifier.kernel[...], np.float64)
        cas = np.maximum(class_filter(cola_model.class_filter, logits), 0)
        want = {"cas": [cas], "embedding": [embedding], "attention": [spanned(cas.sum(1))], "select_scores": cas}
        checks.assert_forward(outputs, want, b)
        np.testing.assert_allclose(outputs.own.actionness[b, : LENGTHS[b]], cas.sum(1), rtol=1e-4, atol=1e-5)
    assert np.asarray(outputs.own.drawn).all()


def test_windows_are_those_of_scipy():
    widths = (1, 2, 3, 6)
    active = np.random.default_rng(0).random((3, 40)) < 0.7
    got = jax.jit(lambda a: [(cola.erode(a, width), cola.dilate(a, width)) for width in widths])(active)
    for width, (smaller, greater) in zip(widths, got, strict=True):
        np.testing.assert_array_equal(smaller, ndimage.binary_erosion(active, np.ones((1, width))))
        np.testing.assert_array_equal(greater, ndimage.binary_dilation(active, np.ones((1, width))))


def best(kind, by, divisor, fill):
    """Snippets of a kind by descending value, of equals the earlier; then, to fill up, the first of the others."""
    k = max(len(by) // divisor, 1)
    order = sorted(np.flatnonzero(kind), key=lambda t: (-by[t], t))[:k]
    if fill:
        order += [t for t in range(len(by)) if t not in order][: k - len(order)]
    return np.isin(np.arange(len(by)), order)


def mined(actionness, drawn, fill):
    """Of one video without padding; no snippet's value is 0, but for the greatest's distance from itself."""
    high = (actionness > np.median(actionness))[None]
    inside = ndimage.binary_erosion(high, np.ones((1, 3))) & ~ndimage.binary_erosion(high, np.ones((1, 6)))
    outside = ndimage.binary_dilation(high, np.ones((1, 6))) & ~ndimage.binary_dilation(high, np.ones((1, 3)))
    easy, hard = MINING.values()
    return (
        best(drawn, actionness, easy, fill),
        best(drawn, actionness.max() - actionness, easy, fill),
        best(inside[0], actionness, hard, fill),
        best(outside[0], actionness, hard, fill),
    )


def test_mining_takes_the_written_out_snippets():
    rng = np.random.default_rng(5)
    lengths = np.array([48, 31, 40])
    mask = np.arange(48)[None] < lengths[:, None]
    smooth = ndimage.gaussian_filter1d(rng.normal(size=mask.shape), 3, axis=1)
    actionness = (1 + smooth - smooth.min()).astype(np.float32)
    drawn = rng.random(mask.shape) < 0.6
    drawn[0] = np.arange(48) < 5  # fewer than are wanted
    fills = (False, True)
    mine = jax.jit(lambda a, d: [cola.mine(a, d, mask=jnp.asarray(mask), **MINING, fill=fill) for fill in fills])
    for fill, got in zip(fills, mine(np.where(mask, actionness, np.nan), drawn), strict=True):
        for b, length in enumerate(lengths):
            want = mined(actionness[b, :length].astype(np.float64), drawn[b, :length], fill)
            for name, kind, expected in zip(got._fields, got, want, strict=True):
                assert expected.any()
                np.testing.assert_array_equal(kind[b, :length], expected, err_msg=f"{name} of video {b}, {fill=}")
                assert not kind[b, length:].any()


def contrast(embedding, kinds):
    """Both terms for one video, snippet by snippet."""
    easy_action, easy_background, hard_action, hard_background = (embedding[kind] for kind in kinds)
    total = 0.0
    for query, positive, negatives in (
        (hard_action, easy_action, easy_background),
        (hard_background, easy_background, easy_action),
    ):
        if len(query) and len(positive):
            near = [checks.cosine(query.mean(0), positive.mean(0))]
            far = [checks.cosine(query.mean(0), one) if one.any() else 0.0 for one in negatives]
            total -= checks.log_softmax(np.array(near + far) / COLA["temperature"])[0]
    return total


def test_cola_objective_is_the_sum_of_its_terms(cola_step, x):
    loss, (terms, noisy) = cola_step(x)[0]
    assert 0.2 < np.asarray(noisy.own.drawn)[MASK].mean() < 0.6  # of 0.4
    video, near = [], []
    for b in range(B):
        cas, embedding = checks.cropped(noisy.cas[0], b), checks.cropped(noisy.embedding[0], b)
        pooled = torch.tensor([checks.top_mean(column, 3) for column in cas.T])
        targets = torch.tensor(LABELS[b] / LABELS[b].sum(), dtype=torch.float64)
        video.append(torch.nn.functional.binary_cross_entropy(pooled.softmax(0), targets).item())
        drawn = np.asarray(noisy.own.drawn)[b, : LENGTHS[b]]
        near.append(contrast(embedding, mined(cas.sum(1), drawn, fill=False)))
    want = {"loss_video": np.mean(video), "loss_contrast": 0.5 * np.mean(near)}
    assert want["loss_contrast"] > 0
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-4)


def test_cola_attention_is_thresholded_and_scaled_logits_ranked(cola_predicted, foreground):
    outputs, found = cola_predicted
    for scores, given in zip(found, (None, foreground), strict=True):
        for b in range(B):
            cas = checks.cropped(outputs.cas[0], b)
            attention = checks.cropped(outputs.attention[0] if given is None else given, b)
            pooled = np.array([checks.top_mean(column, 3) for column in cas.T])
            want = np.broadcast_to(attention[:, None], cas.shape)
            np.testing.assert_allclose(scores.thresholded[b, : LENGTHS[b]], want, rtol=1e-6)
            np.testing.assert_allclose(scores.ranked[b, : LENGTHS[b]], spanned(cas), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(scores.video[b], oracles.softmax(pooled), rtol=1e-5)
        for array in scores[:2]:
            assert not np.asarray(array)[~MASK].any()


def test_acm_forward_is_the_written_out_network(acm_model, x, acm_predicted):
    outputs, _ = acm_predicted
    assert acm_model.embedding_dims == (10,)
    for b in range(B):
        joint = np.concatenate([checks.cropped(a, b) for a in x], 1)
        embedding = np.maximum(checks.conv(acm_model.encoder, joint), 0)
        three = oracles.softmax(checks.dense(acm_model.attention, embedding))
        cas = checks.dense(acm_model.classifier, embedding)
        want = {
            "cas": [cas],
            "embedding": [embedding],
            "attention": [three[:, 0]],
            "select_scores": (cas * three[:, :1])[:, :C],
            "own": (three[:, 1], three[:, 2]),
        }
        checks.assert_forward(outputs, want, b)


def acm_losses(outputs):
    """All terms, video by video."""
    videos = []
    for b in range(B):
        cas, embedding = checks.cropped(outputs.cas[0], b), checks.cropped(outputs.embedding[0], b)
        three = [checks.cropped(a, b) for a in (outputs.attention[0], *outputs.own)]
        targets = np.append(LABELS[b], 0), np.append(LABELS[b], 1), np.eye(C + 1)[C]
        divisors = [ACM[f"{name}_divisor"] for name in ("top_k", "context", "background")]
        terms, norms = [], []
        for attention, target, divisor in zip(three, targets, divisors, strict=True):
            pooled = np.array([checks.top_mean(column, divisor) for column in (cas * attention[:, None]).T])
            terms.append(oracles.cross_entropy(pooled, target / target.sum()))
            chosen = np.argsort(-attention, kind="stable")[: max(len(attention) // divisor, 1)]
            norms.append(np.linalg.norm(embedding[chosen].mean(0)))
        margin = ACM_WEIGHTS["margin"]
        steps = max(margin - norms[0] + norms[1], 0) + max(margin - norms[1] + norms[2], 0) + norms[2]
        guide = np.abs(1 - oracles.softmax(cas * three[0][:, None])[:, -1] - three[0]).sum()
        videos.append([5 * terms[0], *terms[1:], 0.2 * guide, 0.3 * steps**2, 0.4 * (three[0] + three[1]).sum() / 2])
    names = ("instance", "context", "background", "guide", "features", "sparse")
    return {f"loss_{name}": value for name, value in zip(names, np.mean(videos, axis=0), strict=True)}


def test_acm_objective_is_the_sum_of_its_terms(acm_model, acm_step, x):
    loss, (terms, noisy) = acm_step(x)[0]
    # Snippets that are dropped as a whole have the bias for logits.
    bias = np.asarray(acm_model.classifier.bias[...])
    assert 0.5 < np.isclose(np.asarray(noisy.cas[0])[MASK], bias).all(axis=1).mean() < 1
    want = acm_losses(noisy)
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-5)


def test_guidance_leaves_instance_attention_alone(acm_predicted):
    outputs = acm_predicted[0]._replace(cas=(jnp.zeros((*MASK.shape, C + 1)),))

    def loss(instance):
        own = outputs._replace(attention=(instance,))
        weights = ACM_WEIGHTS | {"sparse_weight": 0.0}
        return acmnet.acm_objective(own, jnp.asarray(LABELS), mask=jnp.asarray(MASK), **ACM, **weights)[0]

    # Without logits attention can be drawn nowhere, but for the distance in which it holds still.
    assert not jax.jit(jax.grad(loss))(outputs.attention[0]).any()


def test_norms_have_a_margin_and_a_slope_where_nothing_is_left():
    rng = np.random.default_rng(0)
    features = [scale * rng.normal(size=(3, 8)) for scale in (2.0, 1.0, 0.5)]
    features[0][0] *= 9  # far enough
    features[2][1] = 0
    i, c, b = (np.linalg.norm(f, axis=1) for f in features)
    steps = np.maximum(4 - i + c, 0) + np.maximum(4 - c + b, 0) + b
    loss = jax.jit(jax.value_and_grad(lambda f: acmnet.norm_loss(*f, margin=4.0).sum()))
    value, slopes = loss([jnp.asarray(f, jnp.float32) for f in features])
    np.testing.assert_allclose(value, (steps**2).sum(), rtol=1e-5)
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert not slopes[2][1].any()


def test_acm_attention_is_thresholded_and_a_mixture_ranked(acm_predicted, foreground):
    outputs, found = acm_predicted
    for scores, given in zip(found, (None, foreground), strict=True):
        for b in range(B):
            attention = checks.cropped(outputs.attention[0] if given is None else given, b)[:, None]
            acted = checks.cropped(outputs.cas[0], b) * attention
            pooled = np.array([checks.top_mean(column, 4) for column in acted.T])
            want = np.broadcast_to(attention, (LENGTHS[b], C))
            ranked = 0.7 * oracles.softmax(acted)[:, :C] + 0.3 * attention
            np.testing.assert_allclose(scores.thresholded[b, : LENGTHS[b]], want, rtol=1e-6)
            np.testing.assert_allclose(scores.ranked[b, : LENGTHS[b]], ranked, rtol=1e-5)
            np.testing.assert_allclose(scores.video[b], oracles.softmax(pooled)[:C], rtol=1e-5)
        for array in scores[:2]:
            assert not np.asarray(array)[~MASK].any()


@pytest.mark.parametrize("name", ["cola", "acm"])
def test_padding_is_inert(name, x, request):
    checks.assert_padding_is_inert(request.getfixturevalue(f"{name}_step"), x)


def test_settings_are_the_defaults():
    # The metaclass of networks hides the options of their making, which stand here.
    made = cola.CoLANet.__init__, acmnet.ACMNet.__init__
    checks.assert_settings_are_defaults(cola.THUMOS14, made[0], cola.cola_objective, cola.cola_scores)
    checks.assert_settings_are_defaults(acmnet.THUMOS14, made[1], acmnet.acm_objective, acmnet.acm_scores)


def test_what_does_not_fit_is_refused(acm_predicted):
    with pytest.raises(ValueError, match="widths must be odd, got width=3 and class_width=4"):
        cola.CoLANet((5,), C, class_width=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"rates of dropout must lie in \[0, 1\), got dropout=0.7, input_dropout=1.0"):
        acmnet.ACMNet((5,), C, input_dropout=1.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="foreground must have the attention's shape"):
        acmnet.acm_scores(acm_predicted[0], jnp.ones((B, 3)))
