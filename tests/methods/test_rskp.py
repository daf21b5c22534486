import base_checks as checks
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from base_checks import LABELS, LENGTHS, MASK, B, C
from flax import nnx

from casejax.methods import representatives, rskp

TOKENS, PLACES, D = 3, 2, 6


@pytest.fixture(scope="module")
def model():
    return rskp.RSKPNet(checks.DIMS, C, hidden=D, num_tokens=TOKENS, rngs=nnx.Rngs(3))


@pytest.fixture(scope="module")
def x():
    return checks.features(np.random.default_rng(5))


@pytest.fixture(scope="module")
def memory():
    rng = np.random.default_rng(6)
    tokens = rng.normal(size=(C, PLACES, D)).astype(np.float32)
    return representatives.Memory(jnp.asarray(tokens), jnp.asarray(np.sort(rng.random((C, PLACES)))[:, ::-1] / 2))


@pytest.fixture(scope="module")
def outputs(model, x):
    graphdef, params = nnx.split(model, nnx.Param)
    return jax.jit(lambda params, x: nnx.merge(graphdef, params)(x, mask=jnp.asarray(MASK)))(params, x)


@pytest.fixture(scope="module")
def remembered(model, outputs, memory):
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    def predict(params, x):
        tokens, token_mask = representatives.recall(memory, jnp.asarray(LABELS))
        carried = representatives.reallocate(x, tokens, mask=jnp.asarray(MASK), token_mask=token_mask)
        return carried, nnx.merge(graphdef, params).predict(carried, mask=jnp.asarray(MASK))

    return predict(params, outputs.embedding[0])


def test_parameter_count_is_the_published_one():
    assert checks.count(lambda: rskp.RSKPNet((1024, 1024), 20, rngs=nnx.Rngs(0))) == 4_257_792


def test_foreground_starts_opposite_to_background(model):
    np.testing.assert_array_equal(model.foreground_center[...], -model.class_centers[...][-1])


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
    return (
        agnostic,
        np.array([20 * checks.cosine(p, m) for p, m in zip(pooled, centers, strict=True)]),
        attention,
        frames,
    )


def test_forward_is_the_written_out_network(model, x, outputs):
    near = {"rtol": 2e-4, "atol": 2e-4}
    for b, n in enumerate(LENGTHS):
        features = np.concatenate([checks.cropped(a, b) for a in x], 1)
        embedding = np.maximum(checks.dense(model.encoder, features), 0)
        tokens = refine(np.asarray(model.tokens[...], np.float64), embedding)
        original, carried = predict(model, embedding), predict(model, reallocate(embedding, tokens))
        select = oracles.softmax(original[3])[:, :C] * original[2][:, None]
        want = {"cas": [original[3]], "embedding": [embedding], "attention": [original[2]], "select_scores": select}
        checks.assert_forward(outputs, want, b, **near)
        np.testing.assert_allclose(outputs.own.tokens[b], tokens, **near)
        logits = 20 * unit(tokens) @ unit(np.asarray(model.class_centers[...], np.float64)).T
        np.testing.assert_allclose(outputs.own.token_logits[b], logits, **near)
        for got, expected in ((outputs.own.original, original), (outputs.own.reallocated, carried)):
            for a, e in zip(got[:2], expected[:2], strict=True):
                np.testing.assert_allclose(a[b], e, **near)
            for a, e in zip(got[2:], expected[2:], strict=True):
                np.testing.assert_allclose(a[b, :n], e, **near)


def test_memory_is_walked_through_like_tokens_of_the_video(outputs, memory, remembered):
    for b, n in enumerate(LENGTHS):
        tokens = np.asarray(memory.tokens, np.float64)[LABELS[b] > 0].reshape(-1, D)
        want = reallocate(checks.cropped(outputs.embedding[0], b), tokens)
        np.testing.assert_allclose(remembered[0][b, :n], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(remembered[0][b, n:], np.zeros_like(remembered[0][b, n:]))


def test_a_video_without_tokens_keeps_its_description_in_part(outputs, memory):
    nobody = jnp.zeros((B, C * PLACES), bool)
    tokens = jnp.full((B, C * PLACES, D), jnp.nan)  # what does not count may be anything
    got = jax.jit(representatives.reallocate)(outputs.embedding[0], tokens, mask=MASK, token_mask=nobody)
    np.testing.assert_allclose(got, np.where(MASK[..., None], outputs.embedding[0] / 2, 0), rtol=1e-6)


def test_memory_keeps_the_best_of_all_videos_one_after_the_other(outputs, memory):
    own = outputs.own
    got = jax.jit(representatives.remember)(memory, own.tokens, own.token_logits, LABELS)
    tokens, scores = np.asarray(memory.tokens).copy(), np.asarray(memory.scores).copy()
    offered = oracles.softmax(np.asarray(own.token_logits))
    for b in range(B):
        for c in np.flatnonzero(LABELS[b]):
            all_scores = np.concatenate([scores[c], offered[b, :, c]])
            best = np.argsort(-all_scores, kind="stable")[:PLACES]
            tokens[c], scores[c] = np.concatenate([tokens[c], own.tokens[b]])[best], all_scores[best]
    np.testing.assert_allclose(got.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(got.tokens, tokens)
    assert (np.asarray(got.scores) != np.asarray(memory.scores)).any()
    np.testing.assert_array_equal(representatives.first_class(jnp.asarray(LABELS)), [[1, 0, 0]] * B)
    empty = representatives.Memory.empty(C, D, places=PLACES)
    assert jax.tree.map(jnp.shape, empty) == jax.tree.map(jnp.shape, memory)


def cross_entropy(logits, labels, background):
    targets = np.append(labels, background)
    return -(targets / targets.sum() * checks.log_softmax(logits)).sum()


def terms_of(outputs, remembered, snippet_labels):
    """All terms in NumPy and float64."""
    videos = []
    for b, n in enumerate(LENGTHS):
        said = [*outputs.own[:2], *([] if remembered is None else [remembered])]
        weights = [1, 1, 0.5][: len(said)]
        agnostic = [cross_entropy(np.asarray(p.agnostic[b], np.float64), LABELS[b], 0) for p in said]
        classwise = [cross_entropy(np.asarray(p.classwise[b], np.float64), LABELS[b], 1) for p in said]
        attention = np.sort(checks.cropped(said[0].attention, b))
        k = max(n // 3, 1)
        frames = [checks.cropped(p.frames, b) for p in said]
        target = frames[1] if remembered is None else 0.2 * frames[2] + 0.8 * frames[1]
        consistency = -(oracles.softmax(target / 0.2) * checks.log_softmax(frames[0] / 0.2)).sum(1).mean()
        terms = [
            np.dot(weights, agnostic),
            0.2 * np.dot(weights, classwise),
            0.1 * (attention[:k].mean() - attention[-k:].mean()),
            consistency,
        ]
        if snippet_labels is not None:
            q = checks.cropped(snippet_labels, b)
            own, carried = (-(q * checks.log_softmax(f)).sum(1).mean() for f in frames[:2])
            terms.append(10 * (0.8 * own + 0.2 * carried))
        videos.append(terms)
    return np.mean(videos, axis=0)


NAMES = ["loss_agnostic", "loss_classwise", "loss_attention", "loss_consistency", "loss_labels"]


@pytest.mark.parametrize("late", [False, True])
def test_objective_is_the_sum_of_its_terms(outputs, remembered, late):
    labels = np.random.default_rng(8).normal(size=(*MASK.shape, C + 1)).astype(np.float32) if late else None
    extra = remembered[1] if late else None
    objective = lambda outputs, extra, labels: rskp.rskp_objective(  # noqa: E731
        outputs, jnp.asarray(LABELS), extra, labels, mask=jnp.asarray(MASK), divisor=3, label_weight=10.0
    )
    loss, terms = jax.jit(objective)(outputs, extra, labels)
    want = terms_of(outputs, extra, labels)
    np.testing.assert_allclose([terms[name] for name in NAMES[: len(want)]], want, rtol=1e-4)
    assert len(terms) == len(want)
    np.testing.assert_allclose(loss, want.sum(), rtol=1e-4)


def test_the_target_of_consistency_holds_still(outputs):
    own = outputs.own
    slopes = jax.grad(lambda a, b: rskp.consistency_loss(a, b).sum(), argnums=(0, 1))(
        own.original.frames, own.reallocated.frames
    )
    assert float(jnp.abs(slopes[0]).max()) > 0
    np.testing.assert_array_equal(slopes[1], np.zeros_like(slopes[1]))


def test_padding_is_inert(model, x):
    def objective(outputs):
        return rskp.rskp_objective(outputs, jnp.asarray(LABELS), mask=jnp.asarray(MASK), divisor=3)

    checks.assert_padding_is_inert(checks.Step(model, objective, jax.random.key(3)), x)


@pytest.mark.parametrize("given", [False, True])
def test_scores_are_probabilities_times_foreground(outputs, given):
    foreground = np.random.default_rng(1).random(MASK.shape).astype(np.float32) if given else None
    got = jax.jit(lambda o, f: rskp.rskp_scores(o, f, mask=jnp.asarray(MASK), frame_mix=0.85))(outputs, foreground)
    original, carried = outputs.own.original, outputs.own.reallocated
    for b, n in enumerate(LENGTHS):
        attention = checks.cropped(original.attention if foreground is None else foreground, b)
        first, second = (oracles.softmax(checks.cropped(p.frames, b)) for p in (original, carried))
        want = (0.85 * first + 0.15 * second)[:, :C] * attention[:, None]
        np.testing.assert_allclose(got.ranked[b, :n], want, rtol=1e-4, atol=1e-6)
        first, second = (oracles.softmax(np.asarray(p.agnostic[b], np.float64)) for p in (original, carried))
        np.testing.assert_allclose(got.video[b], (0.6 * first + 0.4 * second)[:C], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(got.ranked, got.thresholded)
    assert float(jnp.abs(jnp.where(MASK[..., None], 0, got.ranked)).max()) == 0


def test_settings_are_the_defaults():
    checks.assert_settings_are_defaults(rskp.THUMOS14, rskp.RSKPNet, rskp.rskp_objective, rskp.rskp_scores)


def test_what_does_not_fit_is_refused(outputs):
    with pytest.raises(ValueError, match=r"weight must lie in \[0, 1\), or the walk never ends, got 1.0"):
        representatives.reallocate(outputs.embedding[0], outputs.own.tokens, weight=1.0)
    with pytest.raises(ValueError, match="num_tokens=0"):
        rskp.RSKPNet(checks.DIMS, C, num_tokens=0, rngs=nnx.Rngs(0))
