"""Clustering-assisted scores: against the published inference, and written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from casejax import localize
from casejax.methods import Outputs
from casejax.methods.case import CASE, CaseSettings, Clustered, HeadSettings
from casejax.methods.case.inference import transformed_foreground
from casejax.methods.case.neighbours import over_neighbours


def score(outputs, cluster_labels, **options):
    return CASE.score(outputs, cluster_labels, settings=Clustered(CaseSettings(**options)))


def published_outputs(arrays, videos):
    """The network outputs that the published inference was given, flow stream last."""
    streams = {}
    for stream in ("rgb", "flow"):
        cas = np.tile(arrays["cas_fill"], (len(videos), len(arrays[f"v0/cas_{stream}"]), 1))
        for own, video in zip(cas, videos, strict=True):
            own[:, arrays[f"{video}/cas_{stream}_cols"]] = arrays[f"{video}/cas_{stream}"]
        attention = np.stack([arrays[f"{video}/att_{stream}"][:, 0] for video in videos])
        streams[stream] = (
            cas,
            cas[:, :, :1],
            attention,
            np.stack([arrays[f"{video}/clu_{stream}"] for video in videos]),
        )
    return Outputs(*zip(*streams.values(), strict=True))


def test_golden_scores(golden):
    arrays, notes = golden.arrays("localize"), golden.notes("localize")
    videos = sorted({name.split("/")[0] for name in arrays if name.startswith("v")})
    assert len(videos) == len(notes["videos"])
    divisor = notes["config"]["num_segments"] // notes["config"]["topk"]
    compiled = jax.jit(partial(score, test_cas_weight=1 / 5, top_k_divisor=divisor))
    got = jax.device_get(compiled(published_outputs(arrays, videos), np.stack([arrays["cls_gt"]] * 2)))
    selected = localize.select_classes(got.video)
    for v, video in enumerate(videos):
        np.testing.assert_allclose(got.video[v], arrays[f"{video}/final_score"], rtol=2e-6, atol=1e-8, err_msg=video)
        kept = np.flatnonzero(selected[v])
        np.testing.assert_array_equal(kept, arrays[f"{video}/pred"])
        np.testing.assert_allclose(
            got.fused[v][:, kept], arrays[f"{video}/combined_cas_pred"], atol=3e-7, err_msg=video
        )


def random_outputs(rng, streams, b=2, t=16, c=5, k=4):
    def normal(*shape):
        return tuple(rng.normal(size=shape).astype(np.float32) for _ in range(streams))

    return Outputs(normal(b, t, c), normal(b, t, 3), tuple(1 / (1 + np.exp(-x)) for x in normal(b, t)), normal(b, t, k))


def test_scores_of_any_number_of_streams(rng):
    outputs = [random_outputs(rng, streams) for streams in (1, 2, 3)]
    cluster_labels = [rng.dirichlet([1, 1], (streams, 4)).astype(np.float32) for streams in (1, 2, 3)]

    @jax.jit
    def scored(outputs, cluster_labels):
        return [
            score(*own, test_cas_weight=0.25, pooling=pooling)
            for own in zip(outputs, cluster_labels, strict=True)
            for pooling in ("logits", "probabilities")
        ]

    found = jax.device_get(scored(outputs, cluster_labels))
    for out, q, got, other in zip(outputs, cluster_labels, found[::2], found[1::2], strict=True):
        attention = np.mean(np.float64(out.attention), axis=0)
        transformed = np.mean(
            [oracles.softmax(np.float64(x)) @ own[:, 0] for x, own in zip(out.cluster_logits, q, strict=True)], axis=0
        )
        fused = 0.5 * attention + 0.5 * transformed
        classes = [oracles.softmax(np.float64(x)) for x in out.cas]
        cas = 0.25 * np.mean(classes, axis=0) + 0.75 * fused[:, :, None]
        chosen = oracles.select_top_k(cas, 8)
        for video, values in ((got.video, out.cas), (other.video, classes)):
            pooled = [oracles.softmax((x * chosen).sum(1) / chosen.sum(1)) for x in values]
            np.testing.assert_allclose(video, np.mean(pooled, axis=0), rtol=1e-5)
        for own, want in (
            (got.attention, attention),
            (got.transformed, transformed),
            (got.foreground, fused),
            (got.fused, cas),
            (other.fused, cas),
        ):
            np.testing.assert_allclose(own, want, rtol=1e-5)


def test_published_fusion_is_the_mean_of_five_terms(rng):
    """omega = 1/5 with P^M half and half: class scores, two attentions and two P^T weigh the same."""
    out = random_outputs(rng, 2)
    q = np.full((2, 4, 2), 0.5, np.float32)
    q[:, 0, 0] = 0.9
    got = jax.jit(partial(score, test_cas_weight=1 / 5))(out, q)
    transformed = [oracles.softmax(x) @ q[0, :, 0] for x in out.cluster_logits]
    terms = np.mean([oracles.softmax(x) for x in out.cas], axis=0) + sum((*out.attention, *transformed))[:, :, None]
    np.testing.assert_allclose(got.fused, terms / 5, rtol=1e-5)


@pytest.mark.parametrize(("context", "alike"), [(1, True), (3, False), (3, True), (7, True)])
def test_cluster_logits_are_averaged_over_neighbours(rng, context, alike):
    """A neighbour weighs what all do, or what two distributions have in common, squared; padding weighs nothing."""
    logits = random_outputs(rng, 2).cluster_logits
    lengths = 16, 11
    mask = np.arange(16) < np.asarray(lengths)[:, None]
    p = [oracles.softmax(np.float64(x)) for x in logits]
    spoiled = [jnp.where(mask[..., None], x, jnp.nan) for x in logits]
    found = over_neighbours(spoiled, context=context, alike=alike, mask=jnp.asarray(mask))
    for s, own in enumerate(logits):
        for b, length in enumerate(lengths):
            for t in range(length):
                near = range(max(t - context // 2, 0), min(t + context // 2 + 1, length))
                weights = [np.mean([np.sqrt(x[b, t] * x[b, n]).sum() for x in p]) ** 2 for n in near]
                want = np.average(own[b, list(near)], axis=0, weights=weights if alike else None)
                np.testing.assert_allclose(found[s][b, t], want, rtol=1e-4, atol=1e-5)


def test_one_assignment_of_all_streams_is_the_product_of_theirs(rng):
    logits = jax.tree.map(jnp.asarray, random_outputs(rng, 3).cluster_logits)
    q = np.tile(rng.dirichlet([1, 1], (1, 4)), (3, 1, 1)).astype(np.float32)
    product = np.prod([oracles.softmax(np.float64(x)) for x in logits], axis=0)
    want = (product / product.sum(axis=2, keepdims=True)) @ q[0, :, 0]
    np.testing.assert_allclose(transformed_foreground(logits, jnp.asarray(q), product=True), want, rtol=1e-5)
    one = logits[:1], jnp.asarray(q[:1])
    np.testing.assert_allclose(transformed_foreground(*one, product=True), transformed_foreground(*one), rtol=1e-6)


def test_clusters_of_streams_of_their_own_have_no_product(rng):
    out = jax.tree.map(jnp.asarray, random_outputs(rng, 2))
    q = jnp.asarray(rng.dirichlet([1, 1], (2, 4)), jnp.float32)
    found = []
    for fusion in ("mean", "product"):
        head = HeadSettings(transformed_streams=fusion, co_label_clusters=False)
        found.append(CASE.score(out, q, settings=Clustered(CaseSettings(), head)).transformed)
    np.testing.assert_array_equal(*found)


def test_streams_must_match_their_labels(rng):
    with pytest.raises(ValueError, match="argument"):
        jax.eval_shape(score, jax.tree.map(jnp.asarray, random_outputs(rng, 2)), jnp.full((1, 4, 2), 0.5))
