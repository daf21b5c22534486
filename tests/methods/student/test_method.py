"""The student's network, loss and scores as a method: written out in NumPy, behind padding, for every platform."""

import jax
import jax.export
import jax.numpy as jnp
import method_checks as checks
import numpy as np
import pytest
from flax import nnx
from method_checks import LENGTHS, MASK, B, C, T

from casejax.labels import Instances
from casejax.methods import student
from casejax.methods.contract import Step

LEVELS = 3
PADDED = 12  # snippets of a multiple of the greatest stride
OPTIONS = {"hidden": 6, "levels": LEVELS, "blocks": 1, "max_instances": 4, "reach": 3.0, "max_proposals": 7}
OPTIONS |= {"video_weight": 0.3, "top_k_divisor": 4}
rng = np.random.default_rng(7)
INSTANCES = Instances(
    jnp.asarray(np.sort(rng.uniform(0, 9, (B, 4, 2)), axis=2), jnp.float32),
    jnp.asarray(rng.integers(0, C, (B, 4)), jnp.int32),
    jnp.asarray(rng.random((B, 4)) * (rng.random((B, 4)) < 0.7), jnp.float32),
    jnp.asarray(rng.random((B, 4)) < 0.8),
    jnp.int32(1),
)


@pytest.fixture(scope="module", params=[0, 3], ids=["regressed", "distribution"])
def small(request):
    step = Step(key=jax.random.key(1), instances=INSTANCES)
    return checks.Small(student.METHOD, seed=4, step=step, bins=request.param, **OPTIONS)


def block(layer, x):
    mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    normal = (x - mean) / np.sqrt(var + 1e-6) * np.asarray(layer.norm.scale[...]) + np.asarray(layer.norm.bias[...])
    return x + checks.conv(layer.conv, np.maximum(normal, 0))


def seen(norm, x):
    mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    normal = (x - mean) / np.sqrt(var + 1e-6) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    return np.maximum(normal, 0)


def expected(responses, centred):
    """Mean distances, in strides, to the start before and the end after each place of one level."""
    centred = centred.reshape(len(centred), 2, -1)
    out = np.zeros_like(responses)
    for i in range(len(out)):
        for side, sign in enumerate((-1, 1)):
            places = [i + sign * j for j in range(centred.shape[2]) if 0 <= i + sign * j < len(out)]
            chance = np.exp([responses[place, side] + centred[i, side, j] for j, place in enumerate(places)])
            out[i, side] = (chance / chance.sum() * np.arange(len(places))).sum()
    return out


def forward(model, x):
    """One video without padding, level by level: (logits, offsets) of each."""
    x = block(model.stem[0], checks.conv(model.encoder, np.concatenate(x, 1)))
    found = []
    for level in range(LEVELS):
        if level:
            x = np.array([x[i : i + 2].max(axis=0) for i in range(0, len(x), 2)])
        x = block(model.pyramid[level], x)
        logits = checks.conv(model.class_head, seen(model.class_norm, x))
        shown = seen(model.boundary_norm, x)
        raw = checks.conv(model.boundary_head, shown)
        if model.bins:
            strides = expected(raw, checks.conv(model.bin_head, shown))
        else:
            strides = np.log1p(np.exp(raw * float(model.scales[...][level]) + 1))
        found.append((logits, strides * 2**level))
    return found


def test_forward_is_the_written_out_network(small):
    own = small.outputs.own
    firsts = np.cumsum([0, *(PADDED // 2**level + 1 for level in range(LEVELS))])
    for b in range(B):
        want = forward(small.network, [checks.cropped(a, b) for a in small.x])
        greatest = np.full((LENGTHS[b], C), -np.inf)
        for level, (logits, offsets) in enumerate(want):
            place = slice(firsts[level], firsts[level] + len(logits))
            np.testing.assert_allclose(own.logits[b, place], logits, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(own.offsets[b, place, 0], offsets, rtol=1e-3, atol=1e-4)
            assert own.mask[b, place].all()
            assert not own.mask[b, place.stop : firsts[level + 1]].any()
            greatest = np.maximum(greatest, np.repeat(logits, 2**level, axis=0)[: LENGTHS[b]])
        np.testing.assert_allclose(small.outputs.cas[0][b, : LENGTHS[b]], greatest, rtol=1e-3, atol=1e-4)


def test_loss_is_the_sum_of_both_over_the_weight_of_positives(small):
    own, places = small.noisy.own, student.locations(PADDED, LEVELS)
    focal = boundary = total = video = 0.0
    for b in range(B):
        target = student.assign(
            places,
            *(column[b] for column in INSTANCES[:3]),
            mask=INSTANCES.mask[b],
            num_classes=C,
            levels=LEVELS,
            reach=3.0,
        )
        for n in np.flatnonzero(own.mask[b]):
            for c in range(C):
                weight = float(target.weights[n, c])
                if target.ignored[n, c]:
                    continue
                one = jnp.float32(weight > 0)
                focal += (weight or 1.0) * float(student.focal_loss(jnp.float32(own.logits[b, n, c]), one))
                if weight:
                    pair = jnp.asarray(own.offsets[b, n, 0]), target.offsets[n, c]
                    boundary += weight * float(student.diou_loss(*pair))
                    total += weight
        p = 1 / (1 + np.exp(-checks.top_means(checks.cropped(small.noisy.cas[0], b), 4)))
        video -= (checks.LABELS[b] * np.log(p) + (1 - checks.LABELS[b]) * np.log(1 - p)).mean() / B
    assert total > 1
    want = {"loss_class": focal / total, "loss_boundary": boundary / total, "loss_video": 0.3 * video}
    checks.assert_loss(small.found, want, rtol=1e-4)


def test_scores_are_the_probabilities_of_snippets_and_proposals(small):
    for scores, _ in [(each, None) for each in small._clean[2]]:
        probability = 1 / (1 + np.exp(-np.asarray(small.outputs.cas[0], np.float64)))
        np.testing.assert_allclose(scores.fused, np.where(MASK[..., None], probability, 0), rtol=1e-5)
        for b in range(B):
            best = checks.top_means(checks.cropped(small.outputs.cas[0], b), 4)
            np.testing.assert_allclose(scores.video[b], 1 / (1 + np.exp(-best)), rtol=1e-5)
        assert scores.proposals.segments.shape == (B, 7, 2)
        assert (scores.proposals.segments <= LENGTHS[:, None, None]).all()


def test_padding_is_inert(small):
    clean = small._clean
    spoiled = small.run([np.where(MASK[..., None], a, np.nan) for a in small.x])
    jax.tree.map(np.testing.assert_array_equal, clean, spoiled)
    slopes, x_slopes = clean[0][1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((clean[0], clean[2])))
    assert all(not np.asarray(slope)[~MASK].any() and np.asarray(slope).any() for slope in x_slopes)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(slopes))


def test_a_video_shorter_than_the_pyramid_is_padded():
    settings = student.StudentSettings(hidden=4, levels=6, blocks=0)
    network = student.StudentNet((3,), 2, settings=settings, rngs=nnx.Rngs(0))
    outputs = network((jnp.ones((1, 3, 3)),))
    assert outputs.cas[0].shape == (1, 3, 2)
    assert outputs.own.mask.sum() == 3 + 2 + 1 + 1 + 1 + 1
    with pytest.raises(ValueError, match="needs the instances of the batch"):
        student.METHOD.loss(outputs, jnp.ones((1, 2)), Step(), settings=settings)
    with pytest.raises(ValueError, match=r"width must be odd.*got 4"):
        student.StudentNet((3,), 2, settings=student.StudentSettings(width=4), rngs=nnx.Rngs(0))


def test_one_program_is_lowered_for_every_platform(small):
    def run(params, x):
        return small.scores(nnx.merge(small.graphdef, params)(x, mask=jnp.asarray(MASK))).proposals

    x = [jax.ShapeDtypeStruct((B, T, a.shape[2]), jnp.float32) for a in small.x]
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), small.params)
    exported = jax.export.export(jax.jit(run), platforms=("cpu", "cuda", "tpu"))(params, x)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
