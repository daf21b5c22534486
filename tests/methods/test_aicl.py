import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import pytest
import test_asl as asl
from flax import nnx
from method_checks import LENGTHS, MASK, B, C, T

from casejax.methods import aicl


@pytest.fixture(scope="module")
def small():
    return checks.Small(
        aicl.METHOD, seed=3, inference=False, hidden=6, top_k_divisor=3, mined_divisor=3, temperature=0.3
    )


def test_parameter_count_is_the_published_one():
    assert checks.count(aicl.METHOD) == 6_304_278


def test_inference_is_that_of_asl():
    assert aicl.METHOD.scores is asl.asl.METHOD.scores


def forward(model, x):
    """The network on one video without padding."""
    joint = np.maximum(checks.conv(model.class_encoder, np.concatenate(x, 1)), 0)
    cas = checks.dense(model.classifier, joint)
    embedding = [np.maximum(checks.conv(layer, a), 0) for layer, a in zip(model.embedding_encoders, x, strict=True)]
    attention = [
        checks.sigmoid(checks.dense(layer, e)[:, 0]) for layer, e in zip(model.attention, embedding, strict=True)
    ]
    own = [joint, checks.sigmoid(cas.sum(1)), sum(attention) / 2]
    return {"cas": [cas], "embedding": embedding, "attention": attention, "own": own}


def test_forward_is_the_written_out_network(small):
    small.assert_forward(forward)


def mine(first, second, divisor, *, fill=False):
    """Sets of one video, as lists of snippets."""
    k = max(len(first) // divisor, 1)
    high = (first > np.median(first)).astype(int) + (second > np.median(second))

    def best(wanted, by):
        candidates = range(len(first)) if fill else np.flatnonzero(high == wanted)
        return sorted(candidates, key=lambda t: -by[t] * (high[t] == wanted))[:k]

    reverse = first.max() - first
    return best(2, first), best(0, reverse), best(1, first), best(1, reverse)


def test_mined_snippets_are_the_best_of_each_kind(rng):
    # Videos whose two kinds of actionness agree wholly, nearly, and not at all
    first = rng.random((B, T)).astype(np.float32)
    second = np.stack([first[0], np.round(first[1], 1), rng.random(T), rng.random(T)]).astype(np.float32)
    fills = (False, True)
    mined = jax.jit(lambda a, b: [aicl.mine(a, b, mask=jnp.asarray(MASK), divisor=3, fill=fill) for fill in fills])
    for fill, got in zip(fills, jax.device_get(mined(first, second)), strict=True):
        short = 0
        for b, n in enumerate(LENGTHS):
            want = mine(first[b, :n], second[b, :n], 3, fill=fill)
            for kind, snippets in zip(got, want, strict=True):
                assert set(np.flatnonzero(kind[b])) == set(snippets)
                short += len(snippets) < n // 3
        assert (short > 0) != fill


def test_medians_of_even_and_odd_numbers_are_those_of_numpy(rng):
    values = rng.random((B, T)).astype(np.float32)
    values[0] = np.round(3 * values[0])  # with ties
    got = jax.jit(aicl._above_median)(values, MASK)
    for b, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(np.asarray(got)[b, :n], values[b, :n] > np.median(values[b, :n]))


def contrast(embedding, sets, temperature):
    """The four terms for one video; sets of snippets as `mine` gives them."""
    action, background, unsure_action, unsure_background = sets
    total = 0.0
    for query, positive, negatives in (
        (unsure_action, action, background),
        (action, unsure_action, background),
        (unsure_background, background, action),
        (background, unsure_background, action),
    ):
        if not len(query) or not len(positive):
            continue
        q = embedding[query].mean(0)
        near = np.exp(checks.cosine(q, embedding[positive].mean(0)) / temperature)
        far = sum(np.exp(checks.cosine(q, embedding[t]) / temperature) for t in negatives)
        total -= np.log(near / (near + far))
    return total


def test_loss_is_the_sum_of_its_terms(small):
    outputs, videos = small.outputs, []
    for b in range(B):
        first, second = (checks.cropped(a, b) for a in outputs.own[1:])
        sets = mine(first, second, 3)
        embeddings = [checks.cropped(e, b) for e in (outputs.own.embedding, *outputs.embedding)]
        rgb, flow = (checks.cropped(a, b) for a in outputs.attention)
        videos.append(
            [
                5 * ((rgb - flow) ** 2).mean(),
                0.01 * sum(contrast(e, sets, 0.3) for e in embeddings),
                0.1 * ((first - second) ** 2).mean(),
            ]
        )
    names = ("loss_streams", "loss_contrast", "loss_actionness")
    own = dict(zip(names, np.mean(videos, axis=0), strict=True))
    checks.assert_loss(small.found, asl.losses(outputs) | own)
    checks.assert_foreground(small.found.foreground, outputs, lambda b: asl.selection(outputs, b), 3)


def test_a_term_without_snippets_is_0_and_has_a_gradient(rng):
    embedding = jnp.asarray(rng.normal(size=(1, 5, 3)), jnp.float32)
    none, some = jnp.zeros((1, 5), bool), jnp.asarray([[True, False, False, True, False]])
    loss = lambda e: aicl.contrastive_loss(e, aicl.Mined(some, some, none, none)).sum()  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(loss))(embedding)
    assert float(value) == 0
    assert not slope.any()


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"dims=\(\), num_classes=3, hidden=512"):
        aicl.AICLNet((), C, rngs=nnx.Rngs(0))
