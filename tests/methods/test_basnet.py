import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, FOREGROUND, LABELS, MASK, B, C, T

from casejax import localize
from casejax.methods import basnet
from casejax.methods.basnet import BaSSettings
from casejax.methods.contract import Outputs, Step
from casejax.records import Localization


@pytest.fixture(scope="module")
def small():
    options = {"hidden": 6, "class_hidden": 8, "top_k_divisor": 3, "norm_weight": 0.1}
    step = Step(key=jax.random.key(1))
    return checks.Small(basnet.METHOD, seed=4, step=step, inference=False, **options)


@pytest.fixture(scope="module")
def localized():
    """From class logits to scores, and to those with clusters."""

    def both(cas):
        plain = Outputs((cas,), (), (jnp.zeros((B, T)),))
        settings = BaSSettings(top_k_divisor=3)
        return [
            basnet.bas_scores(outputs, settings=settings, mask=jnp.asarray(MASK))
            for outputs in (plain, checks.clustered(plain))
        ]

    return jax.jit(both)


def test_parameter_count_is_that_of_the_layers_in_use():
    assert checks.count(basnet.METHOD) == 26_262_529


def leaky(x):
    return checks.leaky(x, 0.01)


def forward(model, x):
    """The network on one video without padding or dropout."""

    def classify(x):
        x = leaky(checks.conv(model.second, leaky(checks.conv(model.first, x))))
        return x @ np.asarray(model.classifier.kernel[...], np.float64)

    joint = np.concatenate(x, 1)
    embedding = leaky(checks.dense(model.filter_encoder, joint))
    weight = checks.sigmoid(checks.dense(model.filter, embedding))
    own = [classify(joint)]
    return {"cas": [classify(weight * joint)], "embedding": [embedding], "attention": [weight[:, 0]], "own": own}


def test_forward_is_the_written_out_network(small):
    small.assert_forward(forward)


def classification(cas, labels, background):
    targets = np.append(labels, background)
    return checks.binary_cross_entropy(checks.top_means(cas, 3), targets / targets.sum())


def test_loss_is_the_sum_of_its_terms(small):
    noisy = small.noisy
    assert not np.allclose(noisy.own.base, small.outputs.own.base)
    videos = [
        (
            classification(checks.cropped(noisy.own.base, b), LABELS[b], 1),
            classification(checks.cropped(noisy.cas[0], b), LABELS[b], 0),
            0.1 * checks.cropped(noisy.attention[0], b).sum(),
        )
        for b in range(B)
    ]
    names = ("loss_base", "loss_suppressed", "loss_norm")
    checks.assert_loss(small.found, dict(zip(names, np.mean(videos, axis=0), strict=True)))
    checks.assert_foreground(small.found.foreground, noisy, lambda b: checks.cropped(noisy.cas[0], b)[:, :C], 3)


def scaled(cas):
    """Least and greatest over time, rectified, become 0 and 1."""
    least, greatest = (np.maximum(extreme(cas, axis=0), 0) for extreme in (np.min, np.max))
    return (cas - least) / np.where(greatest > least, greatest - least, 1)


def test_scores_are_scaled_by_their_range(localized):
    # Classes that are negative throughout, positive throughout, and constant.
    cas = np.random.default_rng(2).normal(size=(B, T, C + 1)).astype(np.float32)
    cas[0, :, 0] -= 9
    cas[1, :, 1] += 9
    cas[2, :, 2] = 3
    found = jax.device_get(localized(np.where(MASK[..., None], cas, np.float32(99))))
    for scores, foreground in zip(found, (np.ones((B, T)), FOREGROUND), strict=True):

        def want(b, foreground=foreground):
            fused = scaled(checks.cropped(cas, b))[:, :C] * checks.cropped(foreground, b)[:, None]
            video = oracles.softmax(checks.top_means(checks.cropped(cas, b), 3))[:C]
            return fused, video, np.maximum(fused, 0)

        checks.assert_scores(scores, want, rtol=1e-5, atol=1e-6)


def test_a_video_whose_only_class_is_the_first_is_localised(localized):
    cas = np.full((B, T, C + 1), -9.0, np.float32)
    cas[:, 2:6, 0] = 9.0
    scores = jax.device_get(localized(cas))[0]
    table = localize.localize(scores.fused, scores.video, np.full(B, 11.0), options=Localization(scale=1))
    assert set(table.label) == {0}
    assert set(table.video) == set(range(B))
    np.testing.assert_allclose(table.segment, np.tile([2.0, 6.0], (len(table.segment), 1)))


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="class_hidden=0"):
        basnet.BaSNet(DIMS, C, settings=BaSSettings(class_hidden=0), rngs=nnx.Rngs(0))
