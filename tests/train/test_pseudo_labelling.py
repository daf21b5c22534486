"""Labels of training videos from their own scores, against doing it by hand, and when they are made."""

import inspect
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from casejax.labels import pseudo_labels
from casejax.labels.pseudo_labels import LabelHistory
from casejax.records import Dataset, Features, SnippetScores, Split, Video
from casejax.run.config import Config
from casejax.runtime import mesh
from casejax.train import pseudo_labelling
from casejax.train.pseudo_labelling import PseudoLabels, label_videos

T, MOST_PROPOSALS, MOST_INSTANCES = 40, 12, 2
LENGTHS = np.array([40, 23, 31, 12])
LABELS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]], np.float32)
ZHOU = Config.of("zhou")
CONFIG = ZHOU.changed(thresholds=(0.2, 0.3, 0.4, 0.5, 0.6)).localization
TEMPERATURE = 0.05


@pytest.fixture(scope="module")
def curves():
    """(V, T, C) scores that rise and fall a few times, three special ones apart; and those that rank."""
    rng = np.random.default_rng(1)
    noise = rng.uniform(size=(2, 4, T + 4, 3))
    thresholded, other = np.stack([noise[:, :, i : i + T] for i in range(5)]).mean(axis=0).astype(np.float32)
    ranked = (thresholded + other) / 2
    thresholded[0, :, 2] = ranked[0, :, 2] = np.where((np.arange(T) >= 10) & (np.arange(T) < 20), 0.7, 0)
    thresholded[3, :, 2] = 0.1  # below every threshold
    last = (np.arange(T) >= 22) & (np.arange(T) < 30)  # up to the last snippet but one, and no action
    thresholded[2, :, 1], ranked[2, :, 1] = np.where(last, [[0.7], [0.0]], [[0.0], [0.5]])
    behind = np.arange(T)[None, :, None] >= LENGTHS[:, None, None]
    return np.where(behind, 0, thresholded), np.where(behind, 0, ranked)


@pytest.fixture(scope="module")
def label():
    """`label_videos` with few proposals; every call runs the same compiled program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pseudo_labelling, "MAX_PROPOSALS", MOST_PROPOSALS)
        patch.setattr(pseudo_labelling, "MAX_INSTANCES", MOST_INSTANCES)

        def run(thresholded, ranked=None, config=CONFIG):
            scores = SnippetScores(thresholded, LABELS, ranked)
            return label_videos(scores, LENGTHS, LABELS, config, temperature=TEMPERATURE)

        yield run


# By hand


def loop_proposals(curve, ranked):
    """(start, end, contrast, mean) of every run of two snippets or more above a threshold."""
    found = []
    for threshold in CONFIG.thresholds:
        first = None
        for t in range(len(curve) + 1):
            active = t < len(curve) and curve[t] >= threshold
            if active and first is None:
                first = t
            if first is not None and not active:
                if t - first >= 2:
                    width = 0.0785 * (t - first) ** 0.9
                    around = [*range(max(0, int(first - width)), first)]
                    around += range(t, min(len(curve), int(t - 1 + width) + 1))
                    inside = np.mean(ranked[first:t])
                    found.append((first, t, inside - (np.mean(ranked[around]) if around else 0), inside))
                first = None
    return sorted(found, key=lambda row: -row[2])[:MOST_PROPOSALS]


def loop_fuse(proposals):
    """(start, end, score) of the best groups; the best proposal takes in what it covers a quarter of."""
    left = sorted(proposals, key=lambda row: (-row[2], row[0] - row[1], row[0]))
    groups = []
    while left:
        first, last = left[0][:2]
        own = [row for row in left if (min(last, row[1]) - max(first, row[0])) / (row[1] - row[0]) > 0.25]
        weights = np.exp(np.array([row[3] for row in own]) / TEMPERATURE)
        values = np.array(own)[:, :3]
        origin = values.min(axis=0)  # so that equal starts stay whole numbers
        groups.append(np.float32(origin + weights / weights.sum() @ (values - origin)))
        left = [row for row in left if row not in own]
    return groups[:MOST_INSTANCES], len(groups)


@pytest.fixture(scope="module")
def by_hand(curves):
    """Labels of every video and class, and the number of proposals and groups of each."""
    solve = jax.jit(partial(pseudo_labels.snippet_labels, num_snippets=T))
    want, counts = np.zeros((4, T, 4)), {}
    for v, c in zip(*np.nonzero(LABELS), strict=True):
        thresholded, ranked = (x[v, : LENGTHS[v], c].astype(float) for x in curves)
        proposals = loop_proposals(thresholded, ranked)
        instances, groups = loop_fuse(proposals)
        counts[int(v), int(c)] = len(proposals), groups
        if instances:
            table = np.zeros((MOST_INSTANCES, 3), np.float32)
            table[: len(instances)] = instances
            mask, shown = np.arange(MOST_INSTANCES) < len(instances), np.arange(T) < LENGTHS[v]
            got = solve(jnp.asarray(table[:, :2]), jnp.asarray(table[:, 2]), mask=mask, snippet_mask=shown)
            assert bool(got.converged)
            want[v, :, c] = got.labels
    return want, counts


def test_labels_equal_doing_it_by_hand(label, curves, by_hand):
    want, counts = by_hand
    got = label(*curves)
    assert (got.shape, got.dtype) == ((4, T, 4), np.float32)
    assert_allclose(got, want, atol=2e-5)
    # The cases are there: proposals that are cut, groups that are cut, several groups, no proposal.
    sizes, groups = zip(*counts.values(), strict=True)
    assert MOST_PROPOSALS in sizes
    assert max(groups) > MOST_INSTANCES
    assert counts[3, 2] == (0, 0)


def test_an_instance_that_stands_alone_shares_out_its_contrast(label, curves):
    inside = (np.arange(T) >= 10) & (np.arange(T) < 20)
    assert_allclose(label(*curves)[0, :, 2], np.where(inside, 0.07, 0), atol=1e-4)


def test_an_instance_of_less_than_its_surroundings_labels_these(label, curves):
    """The last snippet of a video is never one of them, nor is padding."""
    assert_allclose(label(*curves)[2, :, 1], np.where(np.arange(T) == 21, 0.5, 0), atol=1e-3)


def test_other_classes_background_and_padding_have_zeros(label, curves):
    got = label(*curves)
    assert_array_equal(got[:, :, 3], 0)  # background
    assert_array_equal(got[:, :, :3].transpose(0, 2, 1)[LABELS == 0], 0)
    assert_array_equal(got[np.arange(T)[None] >= LENGTHS[:, None]], 0)
    assert_array_equal(got[3, :, 2], 0)  # no proposal
    assert (got > 0.005).any(axis=1).sum() == LABELS.sum() - 1


def test_scores_of_padding_and_of_other_classes_do_not_matter(label, curves):
    behind = np.arange(T)[None, :, None] >= LENGTHS[:, None, None]
    spoiled = [np.where(behind | (LABELS[:, None] == 0), np.float32(0.9), x) for x in curves]
    assert_array_equal(label(*spoiled), label(*curves))


def test_without_ranking_scores_the_thresholded_rank(label, curves):
    thresholded, ranked = curves
    got = label(thresholded)
    assert_array_equal(got, label(thresholded, thresholded.copy()))
    assert np.abs(got - label(thresholded, ranked)).max() > 0.01


def test_short_proposals_are_dropped(label, curves):
    box = np.zeros_like(curves[0])
    box[1, 5:8, 1] = 0.7
    for least, want in ((3, 0.7 / 3), (4, 0)):
        got = label(box, box, Config.of("zhou").changed(min_snippets=least).localization)
        assert_allclose(got[1, 5:8, 1], want, atol=1e-3)


# When


def whole_set(num_videos):
    videos = tuple(Video(f"video{v}", "train", np.array([[0.0, 1.0]]), ("only",)) for v in range(num_videos))
    stream = np.zeros((num_videos, 3), np.float32)
    split = Split("train", videos, Features.end_to_end((stream, stream), [1] * num_videos))
    return Dataset("by hand", ("only",), ("rgb", "flow"), split, split)


@pytest.mark.parametrize(("epochs", "num_videos"), [(350, 20), (35, 23), (7, 100)])
def test_labels_are_made_at_shares_of_the_run(epochs, num_videos):
    config = ZHOU.changed(epochs=epochs, batch_size=10)
    graphdef = nnx.split(nnx.Dict())[0]  # no network is run
    labeller = PseudoLabels(whole_set(num_videos), graphdef, config, mesh.make_mesh(1))
    a_step = num_videos // 10  # steps of an epoch; an incomplete batch is dropped
    assert labeller.steps == [round(a_step * epochs * share / 350) for share in (200, 230, 245, 260, 275, 300)]
    if epochs == 350:
        assert labeller.steps == [400, 460, 490, 520, 550, 600]
    for step in range(a_step * epochs + 1):
        later = [due for due in labeller.steps if due > step]
        assert labeller.until_next(step) == (later[0] - step if later else None)


def test_nothing_is_made_before_its_time_or_twice():
    labeller = PseudoLabels(whole_set(20), nnx.split(nnx.Dict())[0], ZHOU.changed(batch_size=10), mesh.make_mesh(1))
    for made, step in ((0, 0), (0, 399), (1, 400), (1, 459), (6, 699)):
        state = SimpleNamespace(labels=LabelHistory(*(jnp.zeros((20, 1, 2)),) * 2, jnp.int32(made)))
        assert inspect.unwrap(PseudoLabels.refresh)(labeller, state, step) is state
