from functools import partial

import base_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from base_checks import LABELS, LENGTHS, MASK, B, C
from flax import nnx

from casejax.methods import asl


@pytest.fixture(scope="module")
def model():
    return asl.ASLNet(checks.DIMS, C, hidden=6, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def x():
    return checks.features(np.random.default_rng(0))


@pytest.fixture(scope="module")
def step(model):
    return checks.Step(model, objective)


@pytest.fixture(scope="module")
def outputs(step, x):
    return step(x)[0][1][1]


def test_parameter_count_is_the_published_one():
    assert checks.count(lambda: asl.ASLNet((1024, 1024), 20, rngs=nnx.Rngs(0))) == 2_109_974


def forward(model, x):
    """The network on one video without padding."""
    cas = checks.dense(model.classifier, np.maximum(checks.dense(model.class_encoder, np.concatenate(x, 1)), 0))
    embedding = [np.maximum(checks.dense(layer, a), 0) for layer, a in zip(model.embedding_encoders, x, strict=True)]
    attention = [
        checks.sigmoid(checks.dense(layer, e)[:, 0]) for layer, e in zip(model.attention, embedding, strict=True)
    ]
    select = (oracles.softmax(cas) + sum(attention)[:, None]) / 3
    return {"cas": [cas], "embedding": embedding, "attention": attention, "select_scores": select}


def test_forward_is_the_written_out_network(model, x, outputs):
    for b in range(B):
        checks.assert_forward(outputs, forward(model, [checks.cropped(a, b) for a in x]), b)


def losses(outputs, b, divisor=3, exponent=0.7):
    select, cas = checks.cropped(outputs.select_scores, b), checks.cropped(outputs.cas[0], b)
    chosen = oracles.select_top_k(select[None], divisor)[0]
    pooled = np.array([cas[chosen[:, c], c].mean() for c in range(C)])
    foreground = chosen[:, LABELS[b] > 0].any(axis=1).astype(float)
    video = -((LABELS[b] / LABELS[b].sum() + 1e-10) * checks.log_softmax(pooled)).sum()
    attention = [oracles.generalized_bce(checks.cropped(a, b), foreground, exponent) for a in outputs.attention]
    return video, sum(attention)


def objective(outputs):
    return asl.asl_objective(outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), top_k_divisor=3)


def test_objective_is_the_sum_over_videos_and_streams(step, x, outputs):
    loss, (terms, _) = step(x)[0]
    video, attention = np.mean([losses(outputs, b) for b in range(B)], axis=0)
    np.testing.assert_allclose([terms["loss_video"], terms["loss_attention"]], [video, attention], rtol=1e-5)
    np.testing.assert_allclose(loss, video + attention, rtol=1e-5)


def test_padding_is_inert(step, x):
    checks.assert_padding_is_inert(step, x)


@pytest.mark.parametrize("given", [False, True])
def test_scores_average_class_probability_and_foreground(outputs, given):
    foreground = np.random.default_rng(1).random(MASK.shape).astype(np.float32) if given else None
    weight = 0.2 if given else 1 / 3
    score = jax.jit(partial(asl.asl_scores, cas_weight=weight, top_k_divisor=3))
    got = score(outputs, foreground, mask=MASK)
    for b in range(B):
        cas = checks.cropped(outputs.cas[0], b)
        mean = np.mean([checks.cropped(a, b) for a in outputs.attention], 0)
        share = mean if foreground is None else checks.cropped(foreground, b)
        want = weight * oracles.softmax(cas) + (1 - weight) * share[:, None]
        chosen = oracles.select_top_k(want[None], 3)[0]
        pooled = np.array([cas[chosen[:, c], c].mean() for c in range(C)])
        np.testing.assert_allclose(got.thresholded[b, : LENGTHS[b]], want, rtol=1e-5)
        np.testing.assert_allclose(got.video[b], oracles.softmax(pooled), rtol=1e-5)
    np.testing.assert_array_equal(got.ranked, got.thresholded)
    assert float(jnp.abs(jnp.where(MASK[..., None], 0, got.ranked)).max()) == 0


def test_one_stream_and_three_have_as_many_attentions(rng):
    for dims in ((4,), (2, 3, 2)):
        net = nnx.eval_shape(lambda dims=dims: asl.ASLNet(dims, C, hidden=6, rngs=nnx.Rngs(0)))
        shaped = [jax.ShapeDtypeStruct((2, 5, d), jnp.float32) for d in dims]
        out = nnx.eval_shape(lambda net, x: net(x), net, shaped)
        assert [a.shape for a in out.attention] == [(2, 5)] * len(dims)
        assert [a.shape for a in out.cas] == [(2, 5, C)]


def test_settings_are_the_defaults():
    checks.assert_settings_are_defaults(asl.THUMOS14, asl.ASLNet, asl.asl_objective, asl.asl_scores)
    assert asl.THUMOS14.localization.thresholds[2] == np.arange(0.1, 1, 0.1)[2]


def test_what_does_not_fit_is_refused(model, outputs, x):
    with pytest.raises(ValueError, match=r"dims=\(5, 4\), num_classes=0, hidden=6"):
        asl.ASLNet(checks.DIMS, 0, hidden=6, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"streams of \(5, 4\) dimensions, got features of shapes"):
        model([jnp.asarray(x[0])])
    with pytest.raises(ValueError, match=r"foreground must have the attention's shape \(4, 11\)"):
        asl.asl_scores(outputs, jnp.ones((4, 3)))
