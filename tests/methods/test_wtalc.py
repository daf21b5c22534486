import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, LABELS, LENGTHS, MASK, B, C, T

from casejax import localize
from casejax.methods import wtalc
from casejax.methods.contract import Outputs, Step
from casejax.methods.wtalc import WTALCSettings


@pytest.fixture(scope="module")
def small():
    step = Step(pairs=2, key=jax.random.key(1))
    options = {"hidden": 12, "top_k_divisor": 3, "video_weight": 0.7}
    return checks.Small(wtalc.METHOD, seed=4, step=step, inference=False, **options)


def test_parameter_count_is_that_of_the_layers_in_use():
    assert checks.count(wtalc.METHOD) == 4_237_332


def test_forward_is_the_written_out_network(small):
    def forward(model, x):
        embedding = np.maximum(checks.dense(model.encoder, np.concatenate(x, 1)), 0)
        return {"cas": [checks.dense(model.classifier, embedding)], "embedding": [embedding], "attention": ()}

    small.assert_forward(forward)


def test_loss_is_the_sum_of_its_terms(small):
    features, logits = ([checks.cropped(a[0], b) for b in range(B)] for a in (small.noisy.embedding, small.noisy.cas))
    assert 0.6 < np.mean(np.concatenate(features) == 0) < 0.95  # dropout of 0.7 after a rectification
    video = []
    for b in range(B):
        k = int(np.ceil(LENGTHS[b] / 3))
        pooled = np.array([np.sort(column)[-k:].mean() for column in logits[b].T])
        video.append(oracles.cross_entropy(pooled, LABELS[b] / LABELS[b].sum()))
    pairs = checks.co_activity(features, logits, 2, 0.5)
    assert pairs > 0
    checks.assert_loss(small.found, {"loss_video": 0.7 * np.mean(video), "loss_pairs": 0.3 * pairs})


def test_pairs_that_share_no_class_have_no_loss(rng):
    feature, cas = (jnp.asarray(rng.normal(size=(B, T, d)), jnp.float32) for d in (6, C + 1))
    labels = jnp.asarray([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], jnp.float32)
    loss = lambda f: wtalc.co_activity_loss(f, cas, labels, mask=jnp.asarray(MASK), pairs=2)  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(loss))(feature)
    assert float(value) == 0
    assert not slope.any()


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


def test_scores_make_the_published_segments():
    # Smooth logits, so that there are runs; a class nowhere confident, a video without another, and constant logits.
    rng = np.random.default_rng(3)
    cas = rng.normal(size=(B, T, C)).cumsum(axis=1).astype(np.float32)
    cas[1, :, 2] -= cas[1, :, 2].max() + 1
    cas[2] -= cas[2].max() + 1
    cas[3, :, 0] = 1.0
    cas[3, :, 1:] += 2
    outputs = Outputs((np.where(MASK[..., None], cas, np.float32(99)),), ())
    score = jax.jit(lambda o: wtalc.wtalc_scores(o, settings=WTALCSettings(top_k_divisor=4), mask=jnp.asarray(MASK)))
    got = jax.device_get(score(outputs))
    own = wtalc.METHOD.localization
    table = localize.localize(
        got.fused,
        got.video,
        LENGTHS.astype(float),  # a second a snippet
        ranked=got.ranked,
        lengths=LENGTHS,
        options=own,
    )
    want = [(b, *row) for b in range(B) for row in published_segments(checks.cropped(cas, b), 4, 0.7)]
    have = zip(table.video, table.label, table.segment[:, 0], table.segment[:, 1], table.score, strict=True)
    assert len(want) > 5
    np.testing.assert_allclose(sorted(have), sorted(want), rtol=1e-5)
    confidence = [checks.top_means(checks.cropped(cas, b), 4) for b in range(B)]
    np.testing.assert_allclose(got.video, checks.sigmoid(np.array(confidence)), rtol=1e-5)
    assert not got.fused[~MASK].any()
    assert not got.ranked[~MASK].any()


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"rates of dropout must lie in \[0, 1\), got dropout=1.0"):
        wtalc.WTALCNet(DIMS, C, settings=WTALCSettings(dropout=1.0), rngs=nnx.Rngs(0))
    outputs = Outputs((jnp.zeros((B, T, C)),), (jnp.zeros((B, T, 6)),))
    with pytest.raises(ValueError, match="3 pairs need a batch of 6 videos or more, got 4"):
        jax.eval_shape(lambda o: wtalc.wtalc_loss(o, jnp.asarray(LABELS), Step(pairs=3)), outputs)
