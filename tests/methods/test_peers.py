"""W-TALC and BaS-Net."""

import base_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import torch
from base_checks import LABELS, LENGTHS, MASK, B, C
from flax import nnx

from casejax import localize, losses
from casejax.methods import basnet, wtalc
from casejax.records import Localization


def predict(model, x):
    graphdef, params = nnx.split(model, nnx.Param)
    return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, mask=jnp.asarray(MASK)))(params, x)


@pytest.fixture(scope="module")
def x():
    return checks.features(np.random.default_rng(4))


@pytest.fixture(scope="module")
def wtalc_model():
    return wtalc.WTALCNet(checks.DIMS, C, hidden=12, rngs=nnx.Rngs(2))


@pytest.fixture(scope="module")
def wtalc_outputs(wtalc_model, x):
    return predict(wtalc_model, x)


@pytest.fixture(scope="module")
def wtalc_step(wtalc_model):
    def objective(outputs):
        return wtalc.wtalc_objective(
            outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), pairs=2, top_k_divisor=3, video_weight=0.7
        )

    return checks.Step(wtalc_model, objective, jax.random.key(1))


@pytest.fixture(scope="module")
def bas_model():
    return basnet.BaSNet(checks.DIMS, C, hidden=6, class_hidden=8, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def bas_outputs(bas_model, x):
    return predict(bas_model, x)


@pytest.fixture(scope="module")
def bas_step(bas_model):
    def objective(outputs):
        return basnet.bas_objective(
            outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), top_k_divisor=3, norm_weight=0.1
        )

    return checks.Step(bas_model, objective, jax.random.key(1))


@pytest.fixture(scope="module")
def bas_localized():
    """Compiled once: outputs to scores, without and with a foreground."""

    def both(outputs, foreground):
        return tuple(basnet.bas_scores(outputs, f, mask=jnp.asarray(MASK), top_k_divisor=3) for f in (None, foreground))

    return jax.jit(both)


def test_parameter_counts_are_those_of_the_layers_in_use():
    assert checks.count(lambda: wtalc.WTALCNet((1024, 1024), 20, rngs=nnx.Rngs(0))) == 4_237_332
    assert checks.count(lambda: basnet.BaSNet((1024, 1024), 20, rngs=nnx.Rngs(0))) == 26_262_529


def test_wtalc_forward_is_the_written_out_network(wtalc_model, x, wtalc_outputs):
    assert wtalc_outputs.attention == ()
    assert wtalc_model.embedding_dims == (12,)
    for b in range(B):
        joint = np.concatenate([checks.cropped(a, b) for a in x], 1)
        embedding = np.maximum(checks.dense(wtalc_model.encoder, joint), 0)
        cas = checks.dense(wtalc_model.classifier, embedding)
        checks.assert_forward(wtalc_outputs, {"cas": [cas], "embedding": [embedding], "select_scores": cas}, b)


def co_activity(features, logits, pairs, margin):
    """Pair by pair and class by class; features and logits are lists of unpadded videos."""
    total, shared = 0.0, 0
    for i in range(0, 2 * pairs, 2):
        for c in np.flatnonzero(LABELS[i] * LABELS[i + 1]):
            weights = [oracles.softmax(cas[:, c]) for cas in logits[i : i + 2]]
            high = [w @ f for w, f in zip(weights, features[i : i + 2], strict=True)]
            low = [(1 - w) @ f for w, f in zip(weights, features[i : i + 2], strict=True)]
            near = checks.cosine(*high)
            for far in (checks.cosine(high[0], low[1]), checks.cosine(high[1], low[0])):
                total += 0.5 * max(far - near + margin, 0)
            shared += 1
    return total / shared


def test_wtalc_objective_is_the_sum_of_its_terms(wtalc_step, x):
    loss, (terms, noisy) = wtalc_step(x)[0]
    features = [checks.cropped(noisy.embedding[0], b) for b in range(B)]
    logits = [checks.cropped(noisy.cas[0], b) for b in range(B)]
    assert 0.6 < np.mean(np.concatenate(features) == 0) < 0.95  # dropout of 0.7 after a rectification
    video = []
    for b in range(B):
        k = int(np.ceil(LENGTHS[b] / 3))
        pooled = np.array([np.sort(column)[-k:].mean() for column in logits[b].T])
        video.append(oracles.cross_entropy(pooled, LABELS[b] / LABELS[b].sum()))
    want = {"loss_video": 0.7 * np.mean(video), "loss_pairs": 0.3 * co_activity(features, logits, 2, 0.5)}
    assert want["loss_pairs"] > 0
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-5)


def published_segments(logits, divisor, weight):
    """Class by class: runs of two or more snippets above the middle of the range, scored by their greatest logit."""
    found = []
    for c, column in enumerate(logits.T):
        confidence = checks.top_mean(column, divisor)
        active = np.append((column > (column.max() + column.min()) / 2) & (confidence > 0), False)
        start = None
        for t in range(len(active)):
            if active[t] and start is None:
                start = t
            if not active[t] and start is not None:
                if t - start >= 2:
                    found.append((c, start, t, column[start:t].max() + weight * confidence))
                start = None
    return found


def test_wtalc_scores_make_the_published_segments(wtalc_outputs):
    # Smooth logits, so that there are runs; a class nowhere confident, a video without another, and constant logits.
    rng = np.random.default_rng(3)
    cas = rng.normal(size=(B, *MASK.shape[1:], C)).cumsum(axis=1).astype(np.float32)
    cas[1, :, 2] -= cas[1, :, 2].max() + 1
    cas[2] -= cas[2].max() + 1
    cas[3, :, 0] = 1.0
    cas[3, :, 1:] += 2
    outputs = wtalc_outputs._replace(cas=(jnp.asarray(np.where(MASK[..., None], cas, 99.0)),))
    got = jax.jit(lambda o: wtalc.wtalc_scores(o, None, mask=jnp.asarray(MASK), top_k_divisor=4))(outputs)
    table = localize.localize(
        np.asarray(got.fused),
        np.asarray(got.video),
        LENGTHS.astype(float),  # a second a snippet
        options=wtalc.METHOD.localization,
        ranked=np.asarray(got.ranked),
        lengths=LENGTHS,
    )
    want = [(b, *row) for b in range(B) for row in published_segments(checks.cropped(cas, b), 4, 0.7)]
    have = zip(table.video, table.label, table.segment[:, 0], table.segment[:, 1], table.score, strict=True)
    assert len(want) > 5
    np.testing.assert_allclose(sorted(have), sorted(want), rtol=1e-5)
    confidence = [[checks.top_mean(column, 4) for column in checks.cropped(cas, b).T] for b in range(B)]
    np.testing.assert_allclose(got.video, checks.sigmoid(np.array(confidence)), rtol=1e-5)
    for scores in got[:2]:
        assert not np.asarray(scores)[~MASK].any()


def test_wtalc_refuses_a_foreground(wtalc_outputs):
    with pytest.raises(ValueError, match=r"W-TALC has no attention .*; choose a base that has"):
        wtalc.wtalc_scores(wtalc_outputs, jnp.ones(MASK.shape))


def leaky(x):
    return np.where(x > 0, x, 0.01 * x)


def test_bas_forward_is_the_written_out_network(bas_model, x, bas_outputs):
    def classify(x):
        x = leaky(checks.conv(bas_model.second, leaky(checks.conv(bas_model.first, x))))
        return x @ np.asarray(bas_model.classifier.kernel[...], np.float64)

    assert bas_model.embedding_dims == (6,)
    for b in range(B):
        joint = np.concatenate([checks.cropped(a, b) for a in x], 1)
        embedding = leaky(checks.dense(bas_model.filter_encoder, joint))
        weight = checks.sigmoid(checks.dense(bas_model.filter, embedding))
        cas = classify(weight * joint)
        want = {"cas": [cas], "embedding": [embedding], "attention": [weight[:, 0]], "select_scores": cas[:, :C]}
        checks.assert_forward(bas_outputs, want, b)
        checks.assert_forward(bas_outputs.own, {"base": classify(joint)}, b)


def binary(cas, labels, background):
    """Binary cross-entropy of softmax probabilities by PyTorch, mean over classes."""
    pooled = torch.tensor([checks.top_mean(column, 3) for column in cas.T])
    targets = torch.tensor(np.append(labels, background), dtype=torch.float64)
    return torch.nn.functional.binary_cross_entropy(pooled.softmax(0), targets / targets.sum()).item()


def test_bas_objective_is_the_sum_of_its_terms(bas_step, bas_outputs, x):
    loss, (terms, noisy) = bas_step(x)[0]
    assert not np.allclose(noisy.own.base, bas_outputs.own.base)
    videos = [
        (
            binary(checks.cropped(noisy.own.base, b), LABELS[b], 1),
            binary(checks.cropped(noisy.cas[0], b), LABELS[b], 0),
            0.1 * checks.cropped(noisy.attention[0], b).sum(),
        )
        for b in range(B)
    ]
    want = dict(zip(("loss_base", "loss_suppressed", "loss_norm"), np.mean(videos, axis=0), strict=True))
    assert want.keys() == terms.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(loss, sum(want.values()), rtol=1e-5)


def test_binary_loss_needs_no_cut():
    logits = jnp.asarray([[60.0, -50.0, 0.0], [-3.0, 4.0, 1.0]])
    targets = jnp.asarray([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    value, slope = jax.jit(jax.value_and_grad(lambda x: losses.softmax_bce(x, targets).sum()))(logits)
    exact = torch.tensor(np.asarray(logits, np.float64), requires_grad=True)
    p = exact.softmax(1)
    t = torch.tensor(np.asarray(targets, np.float64))
    # 1 - p as a sum, since p is 1 in float64 as well
    rest = torch.stack([p[:, [j for j in range(3) if j != i]].sum(1) for i in range(3)], 1)
    want = -(t * p.log() + (1 - t) * rest.log()).mean(1).sum()
    want.backward()
    np.testing.assert_allclose(value, want.item(), rtol=1e-6)
    np.testing.assert_allclose(slope, exact.grad.numpy(), rtol=1e-5, atol=1e-6)


def scaled(cas):
    """Least and greatest over time, rectified, become 0 and 1."""
    least, greatest = (np.maximum(extreme(cas, axis=0), 0) for extreme in (np.min, np.max))
    return (cas - least) / np.where(greatest > least, greatest - least, 1)


def assert_bas_scores(got, outputs, foregrounds):
    for scores, foreground in zip(got, foregrounds, strict=True):
        for b in range(B):
            cas = checks.cropped(outputs.cas[0], b)
            want = scaled(cas)[:, :C] * (1 if foreground is None else checks.cropped(foreground, b)[:, None])
            pooled = np.array([checks.top_mean(column, 3) for column in cas.T])
            np.testing.assert_allclose(scores.thresholded[b, : LENGTHS[b]], want, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(scores.ranked[b, : LENGTHS[b]], np.maximum(want, 0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(scores.video[b], oracles.softmax(pooled)[:C], rtol=1e-5)
        for array in scores[:2]:
            assert not np.asarray(array)[~MASK].any()


def test_bas_scores_are_scaled_by_their_range(bas_outputs, bas_localized):
    foreground = np.random.default_rng(1).random(MASK.shape).astype(np.float32)
    # Classes that are negative throughout, positive throughout, and constant.
    cas = np.random.default_rng(2).normal(size=(*MASK.shape, C + 1)).astype(np.float32)
    cas[0, :, 0] -= 9
    cas[1, :, 1] += 9
    cas[2, :, 2] = 3
    outputs = bas_outputs._replace(cas=(jnp.asarray(np.where(MASK[..., None], cas, 99.0)),))
    got = bas_localized(outputs, foreground)
    assert_bas_scores(got, outputs, (None, foreground))


def test_bas_localises_a_video_whose_only_class_is_the_first(bas_outputs, bas_localized):
    cas = np.full((*MASK.shape, C + 1), -9.0, np.float32)
    cas[:, 2:6, 0] = 9.0
    scores = bas_localized(bas_outputs._replace(cas=(jnp.asarray(cas),)), jnp.ones(MASK.shape))[0]
    table = localize.localize(
        np.asarray(scores.fused), np.asarray(scores.video), np.full(B, 11.0), options=Localization(scale=1)
    )
    assert set(table.label) == {0}
    assert set(table.video) == set(range(B))
    np.testing.assert_allclose(table.segment, np.tile([2.0, 6.0], (len(table.segment), 1)))


@pytest.mark.parametrize("name", ["wtalc", "bas"])
def test_padding_is_inert(name, x, request):
    checks.assert_padding_is_inert(request.getfixturevalue(f"{name}_step"), x)


def test_settings_are_the_defaults():
    checks.assert_settings_are_defaults(wtalc.THUMOS14, wtalc.wtalc_objective, wtalc.wtalc_scores)
    checks.assert_settings_are_defaults(basnet.THUMOS14, basnet.bas_objective, basnet.bas_scores)


def test_what_does_not_fit_is_refused(wtalc_outputs):
    with pytest.raises(ValueError, match=r"rates of dropout must lie in \[0, 1\), got dropout=1.0"):
        wtalc.WTALCNet((5,), C, dropout=1.0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="class_hidden=0"):
        basnet.BaSNet((5,), C, class_hidden=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="3 pairs need a batch of 6 videos or more, got 4"):
        wtalc.wtalc_objective(wtalc_outputs, jnp.asarray(LABELS))
