import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, LABELS, LENGTHS, MASK, B, C
from scipy import ndimage

from casejax.methods import cola
from casejax.methods.cola import CoLASettings
from casejax.methods.contract import Step

MINING = {"easy_divisor": 4, "hard_divisor": 5}


@pytest.fixture(scope="module")
def small():
    options = {"hidden": 10, "class_width": 3, "top_k_divisor": 3, "temperature": 0.2, "contrast_weight": 0.5}
    return checks.Small(cola.METHOD, seed=4, step=Step(key=jax.random.key(1)), **options, **MINING)


def test_parameter_count_is_the_published_one():
    assert checks.count(cola.METHOD) == 12_625_920


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


def forward(model, x):
    """The network on one video without padding or dropout."""
    embedding = np.maximum(checks.conv(model.encoder, np.concatenate(x, 1)), 0)
    logits = embedding @ np.asarray(model.classifier.kernel[...], np.float64)
    cas = np.maximum(class_filter(model.class_filter, logits), 0)
    own = [cas.sum(1), np.ones(len(cas), bool)]
    return {"cas": [cas], "embedding": [embedding], "attention": [spanned(cas.sum(1))], "own": own}


def test_forward_is_the_written_out_network(small):
    small.assert_forward(forward)


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
    found = jax.device_get(mine(np.where(mask, actionness, np.nan), drawn))
    for fill, got in zip(fills, found, strict=True):
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
            total -= checks.log_softmax(np.array(near + far) / 0.2)[0]
    return total


def test_loss_is_the_sum_of_its_terms(small):
    noisy, video, near = small.noisy, [], []
    assert 0.2 < noisy.own.drawn[MASK].mean() < 0.6  # of 0.4
    for b in range(B):
        cas, embedding = checks.cropped(noisy.cas[0], b), checks.cropped(noisy.embedding[0], b)
        video.append(checks.binary_cross_entropy(checks.top_means(cas, 3), LABELS[b] / LABELS[b].sum()))
        near.append(contrast(embedding, mined(cas.sum(1), noisy.own.drawn[b, : LENGTHS[b]], fill=False)))
    assert np.mean(near) > 0
    checks.assert_loss(small.found, {"loss_video": np.mean(video), "loss_contrast": 0.5 * np.mean(near)}, rtol=1e-4)
    checks.assert_foreground(small.found.foreground, noisy, lambda b: checks.cropped(noisy.cas[0], b), 3)


def test_attention_is_thresholded_and_scaled_logits_ranked(small):
    for scores, foreground in small.found_scores:

        def want(b, foreground=foreground):
            cas, attention = checks.cropped(small.outputs.cas[0], b), checks.cropped(foreground, b)
            fused = np.broadcast_to(attention[:, None], cas.shape)
            return fused, oracles.softmax(checks.top_means(cas, 3)), spanned(cas)

        checks.assert_scores(scores, want, rtol=1e-5, atol=1e-6)


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="widths must be odd, got width=3 and class_width=4"):
        cola.CoLANet(DIMS, C, settings=CoLASettings(class_width=4), rngs=nnx.Rngs(0))
