import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, LABELS, B, C

from casejax.methods import asl


@pytest.fixture(scope="module")
def small():
    return checks.Small(asl.METHOD, seed=0, hidden=6, top_k_divisor=3, test_cas_weight=0.2)


def test_parameter_count_is_the_published_one():
    assert checks.count(asl.METHOD) == 2_109_974


def forward(model, x):
    """The network on one video without padding."""
    cas = checks.dense(model.classifier, np.maximum(checks.dense(model.class_encoder, np.concatenate(x, 1)), 0))
    embedding = [np.maximum(checks.dense(layer, a), 0) for layer, a in zip(model.embedding_encoders, x, strict=True)]
    attention = [
        checks.sigmoid(checks.dense(layer, e)[:, 0]) for layer, e in zip(model.attention, embedding, strict=True)
    ]
    return {"cas": [cas], "embedding": embedding, "attention": attention}


def test_forward_is_the_written_out_network(small):
    small.assert_forward(forward)


def selection(outputs, b):
    """What snippets are selected by."""
    cas, attention = (checks.cropped(group, b) for group in (outputs.cas[0], np.mean(outputs.attention, axis=0)))
    return (oracles.softmax(cas) + 2 * attention[:, None]) / 3


def losses(outputs, divisor=3, exponent=0.7):
    videos = []
    for b in range(B):
        cas = checks.cropped(outputs.cas[0], b)
        chosen = oracles.select_top_k(selection(outputs, b)[None], divisor)[0]
        pooled = np.array([cas[chosen[:, c], c].mean() for c in range(C)])
        foreground = chosen[:, LABELS[b] > 0].any(axis=1).astype(float)
        video = -((LABELS[b] / LABELS[b].sum() + 1e-10) * checks.log_softmax(pooled)).sum()
        attention = [oracles.generalized_bce(checks.cropped(a, b), foreground, exponent) for a in outputs.attention]
        videos.append([video, sum(attention)])
    return dict(zip(("loss_video", "loss_attention"), np.mean(videos, axis=0), strict=True))


def test_loss_is_the_sum_over_videos_and_streams(small):
    checks.assert_loss(small.found, losses(small.outputs), rtol=1e-5)
    checks.assert_foreground(small.found.foreground, small.outputs, lambda b: selection(small.outputs, b), 3)


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_scores_average_class_probability_and_foreground(small):
    for scores, foreground in small.found_scores:

        def want(b, foreground=foreground):
            cas = checks.cropped(small.outputs.cas[0], b)
            fused = 0.2 * oracles.softmax(cas) + 0.8 * checks.cropped(foreground, b)[:, None]
            chosen = oracles.select_top_k(fused[None], 3)[0]
            return fused, oracles.softmax(np.array([cas[chosen[:, c], c].mean() for c in range(C)])), None

        checks.assert_scores(scores, want)


def test_one_stream_and_three_have_as_many_attentions():
    for dims in ((4,), (2, 3, 2)):
        net = nnx.eval_shape(lambda dims=dims: asl.ASLNet(dims, C, rngs=nnx.Rngs(0)))
        shaped = [jax.ShapeDtypeStruct((2, 5, d), jnp.float32) for d in dims]
        out = nnx.eval_shape(lambda net, x: net(x), net, shaped)
        assert [a.shape for a in out.attention] == [(2, 5)] * len(dims)
        assert [a.shape for a in out.cas] == [(2, 5, C)]


def test_what_does_not_fit_is_refused(small):
    with pytest.raises(ValueError, match=r"dims=\(5, 4\), num_classes=0, hidden=6"):
        asl.ASLNet(DIMS, 0, settings=small.settings, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"streams of \(5, 4\) dimensions, got features of shapes"):
        small.network([jnp.asarray(small.x[0])])
