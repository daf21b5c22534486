import jax
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import oracles
import pytest
from flax import nnx
from method_checks import DIMS, LABELS, LENGTHS, MASK, B, C, T

from casejax.methods import representatives, rskp
from casejax.methods.contract import Step
from casejax.methods.rskp import RSKPSettings

TOKENS, PLACES, D = 3, 2, 6


@pytest.fixture(scope="module")
def memory():
    rng = np.random.default_rng(6)
    tokens = rng.normal(size=(C, PLACES, D)).astype(np.float32)
    scores = np.sort(rng.random((C, PLACES)).astype(np.float32))[:, ::-1] / 2
    return representatives.Memory(jnp.asarray(tokens), jnp.asarray(scores))


@pytest.fixture(scope="module")
def small(memory):
    step = Step(key=jax.random.key(3), memory=memory)
    options = {"hidden": D, "num_tokens": TOKENS, "divisor": 3, "late_until": 150, "frame_mix": 0.85}
    return checks.Small(rskp.METHOD, seed=5, step=step, **options)


@pytest.fixture(scope="module")
def walk():
    return jax.jit(
        lambda x, tokens, real: representatives.reallocate(x, tokens, mask=jnp.asarray(MASK), token_mask=real)
    )


def test_parameter_count_is_the_published_one():
    assert checks.count(rskp.METHOD) == 4_257_792


def test_foreground_starts_opposite_to_background(small):
    @jax.jit
    def centers():
        model = rskp.RSKPNet(DIMS, C, settings=small.settings, rngs=nnx.Rngs(3))
        return model.foreground_center[...], model.class_centers[...]

    foreground, classes = jax.device_get(centers())
    np.testing.assert_array_equal(foreground, -classes[-1])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def shares(tokens, x):
    return oracles.softmax(5 * unit(x) @ unit(tokens).T).T


def refine(tokens, x):
    for _ in range(2):
        share = shares(tokens, x)
        tokens = share / share.sum(1, keepdims=True) @ x
    return tokens


def reallocate(x, tokens, weight=0.5):
    """With the inverse of a matrix of all snippets, as published."""
    share = shares(tokens, x)
    affinity = share.T @ (share / share.sum(1, keepdims=True))
    inverse = np.linalg.inv(np.eye(len(x)) - weight**2 * affinity)
    return (1 - weight) * inverse @ (weight * share.T @ tokens + x)


def predict(model, x):
    centers, foreground = (np.asarray(p[...], np.float64) for p in (model.class_centers, model.foreground_center))
    frames = 20 * unit(x) @ unit(centers).T
    attention = checks.sigmoid(20 * unit(x) @ unit(foreground))
    classwise = checks.sigmoid(frames)
    agnostic = 20 * unit(attention / (attention.sum() + 1e-5) @ x) @ unit(centers).T
    pooled = [classwise[:, c] / (classwise[:, c].sum() + 1e-5) @ x for c in range(C + 1)]
    own = np.array([20 * checks.cosine(p, m) for p, m in zip(pooled, centers, strict=True)])
    return rskp.Prediction(agnostic, own, attention, frames)


def test_forward_is_the_written_out_network(small):
    near = {"rtol": 2e-4, "atol": 2e-4}
    model, outputs = small.network, small.outputs

    def forward(model, x):
        embedding = np.maximum(checks.dense(model.encoder, np.concatenate(x, 1)), 0)
        original = predict(model, embedding)
        return {"cas": [original.frames], "embedding": [embedding], "attention": [original.attention]}

    small.assert_forward(forward, **near)
    for b, n in enumerate(LENGTHS):
        embedding = checks.cropped(outputs.embedding[0], b)
        tokens = refine(np.asarray(model.tokens[...], np.float64), embedding)
        original, carried = predict(model, embedding), predict(model, reallocate(embedding, tokens))
        np.testing.assert_allclose(outputs.own.tokens[b], tokens, **near)
        logits = 20 * unit(tokens) @ unit(np.asarray(model.class_centers[...], np.float64)).T
        np.testing.assert_allclose(outputs.own.token_logits[b], logits, **near)
        for got, expected in ((outputs.own.original, original), (outputs.own.reallocated, carried)):
            for a, e in zip(got[:2], expected[:2], strict=True):
                np.testing.assert_allclose(a[b], e, **near)
            for a, e in zip(got[2:], expected[2:], strict=True):
                np.testing.assert_allclose(a[b, :n], e, **near)


def of_classes(memory, b):
    """The tokens of the classes of a video."""
    return np.asarray(memory.tokens, np.float64)[LABELS[b] > 0].reshape(-1, D)


def test_memory_is_walked_through_like_tokens_of_the_video(small, memory, walk):
    x = small.outputs.embedding[0]
    got = np.asarray(walk(x, *jax.jit(representatives.recall)(memory, LABELS)))
    for b, n in enumerate(LENGTHS):
        want = reallocate(checks.cropped(x, b), of_classes(memory, b))
        np.testing.assert_allclose(got[b, :n], want, rtol=1e-4, atol=1e-5)
        assert not got[b, n:].any()


def test_a_video_without_tokens_keeps_its_description_in_part(small, walk):
    nobody = np.zeros((B, C * PLACES), bool)
    tokens = np.full((B, C * PLACES, D), np.nan, np.float32)  # what does not count may be anything
    x = small.outputs.embedding[0]
    np.testing.assert_allclose(walk(x, tokens, nobody), np.where(MASK[..., None], x / 2, 0), rtol=1e-6)


def test_memory_keeps_the_best_of_all_videos_one_after_the_other(small, memory):
    own = small.outputs.own
    got = jax.jit(rskp.METHOD.remember)(memory, small.outputs, LABELS)
    tokens, scores = np.asarray(memory.tokens).copy(), np.asarray(memory.scores).copy()
    offered = oracles.softmax(own.token_logits)
    for b in range(B):
        for c in np.flatnonzero(LABELS[b]):
            all_scores = np.concatenate([scores[c], offered[b, :, c]])
            best = np.argsort(-all_scores, kind="stable")[:PLACES]
            tokens[c], scores[c] = np.concatenate([tokens[c], own.tokens[b]])[best], all_scores[best]
    np.testing.assert_allclose(got.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(got.tokens, tokens)
    assert (np.asarray(got.scores) != np.asarray(memory.scores)).any()
    empty = representatives.Memory.empty(C, D, places=PLACES)
    assert jax.tree.map(jnp.shape, empty) == jax.tree.map(jnp.shape, memory)


def cross_entropy(logits, labels, background):
    targets = np.append(labels, background)
    return -(targets / targets.sum() * checks.log_softmax(logits)).sum()


def losses(outputs, remembered=None, snippet_labels=None, consistency_weight=1.0):
    """All terms in NumPy and float64; `remembered` is a prediction of each video."""
    videos = []
    for b, n in enumerate(LENGTHS):
        said = [
            rskp.Prediction(p.agnostic[b].astype(np.float64), p.classwise[b], p.attention[b, :n], p.frames[b, :n])
            for p in outputs.own[:2]
        ]
        target = said[1].frames
        if remembered:
            said.append(remembered[b])
            target = 0.2 * said[2].frames + 0.8 * target
        weights = [1, 1, 0.5][: len(said)]
        attention, k = np.sort(said[0].attention), max(n // 3, 1)
        consistency = -(oracles.softmax(target / 0.2) * checks.log_softmax(said[0].frames / 0.2)).sum(1).mean()
        terms = [
            np.dot(weights, [cross_entropy(p.agnostic, LABELS[b], 0) for p in said]),
            0.2 * np.dot(weights, [cross_entropy(p.classwise, LABELS[b], 1) for p in said]),
            0.1 * (attention[:k].mean() - attention[-k:].mean()),
            consistency_weight * consistency,
        ]
        if snippet_labels is not None:
            q = checks.cropped(snippet_labels, b)
            own, carried = (-(q * checks.log_softmax(p.frames)).sum(1).mean() for p in said[:2])
            terms.append(0.8 * own + 0.2 * carried)
        videos.append(terms)
    names = ("loss_agnostic", "loss_classwise", "loss_attention", "loss_consistency", "loss_labels")
    return dict(zip(names, np.mean(videos, axis=0), strict=False))


def test_loss_is_the_sum_of_its_terms(small):
    def scores(b):
        cas, attention = (checks.cropped(group[0], b) for group in (small.noisy.cas, small.noisy.attention))
        return oracles.softmax(cas)[:, :C] * attention[:, None]

    checks.assert_loss(small.found, losses(small.noisy), rtol=1e-4)

    checks.assert_foreground(small.found.foreground, small.noisy, scores, 8)


@pytest.fixture(scope="module")
def later(small, memory):
    """The loss once so many of 20 steps are done, with labels of snippets."""

    def loss(params, outputs, done, snippet_labels):
        network = nnx.merge(small.graphdef, params)
        return small.loss(outputs, Step(network, done, total=20, memory=memory, snippet_labels=snippet_labels))

    compiled = jax.jit(loss)
    return lambda done, labels: jax.device_get(compiled(small.params, small.outputs, done, labels))


def test_memory_takes_part_from_its_epoch_on_and_consistency_is_weighed_by_epoch(small, memory, later):
    """The published 200 epochs in 20 steps; here the late weight holds for 50 of them."""
    snippet_labels = 10 * np.random.default_rng(8).normal(size=(B, T, C + 1)).astype(np.float32)
    remembered = [
        predict(small.network, reallocate(checks.cropped(small.outputs.embedding[0], b), of_classes(memory, b)))
        for b in range(B)
    ]
    for done, said, weight in ((9, None, 1.0), (10, remembered, 0.5), (15, remembered, 1.0)):
        want = losses(small.outputs, said, snippet_labels, weight)
        checks.assert_loss(later(done, snippet_labels), want, rtol=1e-4)


def test_the_learning_rate_follows_the_published_epochs():
    assert rskp.METHOD.rate(rskp.METHOD.settings, Step(done=3, total=7)) == 1
    rate = jax.jit(lambda done: rskp.ZHOU.rate(rskp.ZHOU.settings, Step(done=done, total=70)))
    factors = [rate(epoch // 5) for epoch in (0, 75, 85, 195, 205, 240, 250, 255, 265, 345)]
    want = [1, 1, 0.8, 0.8, 0.4096, 0.4096, 0.01024, 0.01024, 0.00512, 0.00512]
    np.testing.assert_allclose(factors, want, rtol=1e-6)


def test_the_target_of_consistency_holds_still(small):
    own = small.outputs.own
    slope = jax.jit(jax.grad(lambda both: rskp.consistency_loss(*both).sum()))
    moving, still = slope((own.original.frames, own.reallocated.frames))
    assert moving.any()
    assert not still.any()


def test_padding_is_inert(small):
    small.assert_padding_is_inert()


def test_scores_are_probabilities_times_foreground(small):
    both = small.outputs.own[:2]
    for scores, foreground in small.found_scores:

        def want(b, foreground=foreground):
            first, second = (oracles.softmax(checks.cropped(p.frames, b)) for p in both)
            fused = (0.85 * first + 0.15 * second)[:, :C] * checks.cropped(foreground, b)[:, None]
            first, second = (oracles.softmax(p.agnostic[b].astype(np.float64)) for p in both)
            return fused, (0.6 * first + 0.4 * second)[:C], None

        checks.assert_scores(scores, want, rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"weight must lie in \[0, 1\), or the walk never ends, got 1.0"):
        representatives.reallocate(jnp.zeros((B, T, D)), jnp.zeros((B, TOKENS, D)), weight=1.0)
    with pytest.raises(ValueError, match="num_tokens=0"):
        rskp.RSKPNet(DIMS, C, settings=RSKPSettings(num_tokens=0), rngs=nnx.Rngs(0))
