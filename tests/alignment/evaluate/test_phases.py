import re
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.svm import SVC

from casejax.alignment.evaluate import phases
from casejax.alignment.evaluate.phases import LabelledVideos


def read(arrays, split):
    count = sum(re.fullmatch(rf"{split}/\d+/x", key) is not None for key in arrays)
    return LabelledVideos(*([arrays[f"{split}/{v}/{part}"] for v in range(count)] for part in ("x", "lab")))


def small(rng, count, phases=3, dim=4):
    """Videos whose embedding is their phase and noise."""
    labels = [np.sort(rng.integers(0, phases, 12)) for _ in range(count)]
    return LabelledVideos([np.eye(phases, dim)[y] + rng.normal(0, 0.4, (12, dim)) for y in labels], labels)


def test_scores_are_the_recorded_ones(golden):
    arrays, notes = golden.arrays("gta/phase"), golden.notes("gta/phase")
    train, test = read(arrays, "train"), read(arrays, "val")
    checked = 0
    for key, want in notes["results"].items():
        fraction = float(re.search(r"frac([\d.]+)", key)[1])
        if key.startswith("svm/"):
            gamma = re.search("gamma_(.+)", key)[1]
            got = phases.phase_classification(train, test, fractions=(fraction,), gamma=gamma)
            np.testing.assert_allclose(got[fraction], (want["train"], want["val"]), atol=1e-12)
        else:
            got = phases.phase_progression(train, test, num_phases=notes["num_classes"], fractions=(fraction,))
            np.testing.assert_allclose(got[fraction], (want["train"], want["val"]), atol=1e-4)  # theirs is float32
        checked += 1
    assert checked


@pytest.mark.parametrize("split", ["train", "val"])
def test_targets_are_the_published_ones(golden, split):
    arrays, notes = golden.arrays("gta/phase"), golden.notes("gta/phase")
    labels = read(arrays, split).labels
    got = np.concatenate([phases.progression_targets(y, num_phases=notes["num_classes"]) for y in labels])
    np.testing.assert_allclose(got, arrays[f"targets_{split}"], atol=1e-12)


def test_targets_of_phases_that_are_missing():
    got = phases.progression_targets(np.array([0, 0, 2, 2, 3]), num_phases=6) * 5
    events = np.arange(5)[:, None] - got
    np.testing.assert_allclose(events, np.tile([1, 2, 3, 4, 4], (5, 1)), atol=1e-12)


def test_progression_is_the_mean_of_separate_regressions(rng):
    train, test = small(rng, 5), small(rng, 3)
    got = phases.phase_progression(train, test, num_phases=3, fractions=(0.5, 1))
    for fraction, count in ((0.5, 2), (1, 5)):
        x, x_test = np.concatenate(train.embeddings[:count]), np.concatenate(test.embeddings)
        y, y_test = (
            np.concatenate([phases.progression_targets(labels, num_phases=3) for labels in some])
            for some in (train.labels[:count], test.labels)
        )
        fits = [LinearRegression().fit(x, y[:, c]) for c in range(2)]
        np.testing.assert_allclose(got[fraction].train, np.mean([f.score(x, y[:, c]) for c, f in enumerate(fits)]))
        np.testing.assert_allclose(
            got[fraction].test, np.mean([f.score(x_test, y_test[:, c]) for c, f in enumerate(fits)])
        )


def test_a_linear_embedding_of_the_targets_scores_one(rng):
    labels = [np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 1, 2, 2])]
    embeddings = [phases.progression_targets(y, num_phases=3) @ [[2.0, 0.3], [-1.0, 1.0]] + 5 for y in labels]
    videos = LabelledVideos(embeddings, labels)
    np.testing.assert_allclose(phases.phase_progression(videos, videos, num_phases=3)[1.0], (1, 1))


def test_the_machine_is_scikit_learns_on_all_frames(rng):
    train, test = small(rng, 4), small(rng, 3)
    machine = SVC(gamma=0.3, C=2).fit(np.concatenate(train.embeddings), np.concatenate(train.labels))
    want = [machine.score(np.concatenate(part.embeddings), np.concatenate(part.labels)) for part in (train, test)]
    assert phases.classify_frames(train, test, gamma=0.3, penalty=2) == tuple(want)


def test_frames_without_a_label_are_inert(rng):
    train, test = small(rng, 4), small(rng, 3)
    want = phases.classify_frames(train, test)
    for videos in (train, test):
        videos.embeddings.append(rng.normal(size=(5, 4)))
        videos.labels.append(np.full(5, -1))
    assert phases.classify_frames(train, test) == want


def test_one_machine_an_event(rng):
    train, test = small(rng, 6), small(rng, 4)
    events, asked = ["VT", "FX"] * 3, ["FX", "FX", "VT", "FX"]
    got = phases.classify_frames_by_event(train, events, test, asked)
    assert list(got) == ["FX", "VT"]
    assert got["FX"] == phases.classify_frames(train.take([1, 3, 5]), test.take([0, 1, 3]))
    assert got["VT"] == phases.classify_frames(train.take([0, 2, 4]), test.take([2]))
    with pytest.raises(ValueError, match="event 'BB' has test videos but no training video"):
        phases.classify_frames_by_event(train, events, test, ["BB"] * 4)
    with pytest.raises(ValueError, match="got 1 events for 4 test videos"):
        phases.classify_frames_by_event(train, events, test, ["FX"])


def test_few_shot_draws_without_replacement_and_reports_its_uncertainty(rng):
    train, test = small(rng, 4), small(rng, 2)
    one, all_four = phases.few_shot_classification(train, test, num_videos=(1, 4), episodes=5)
    assert (one.num_videos, all_four.num_videos) == (1, 4)
    full = phases.classify_frames(train, test).test
    np.testing.assert_allclose(all_four.accuracies, full, atol=0.04)  # the order of the frames breaks ties
    each = {phases.classify_frames(train.take([v]), test).test for v in range(4)}
    assert set(one.accuracies) <= each
    low, high = stats.t.interval(0.95, 4, one.accuracies.mean(), stats.sem(one.accuracies))
    np.testing.assert_allclose((one.mean - one.interval, one.mean + one.interval), (low, high))
    again = phases.few_shot_classification(train, test, num_videos=(1,), episodes=5)[0]
    np.testing.assert_array_equal(again.accuracies, one.accuracies)


def test_a_single_class_is_answered_with_itself():
    train = LabelledVideos([np.eye(3)], [np.array([2, 2, 2])])
    test = LabelledVideos([np.eye(3)], [np.array([2, 0, 2])])
    assert phases.classify_frames(train, test) == (1, 2 / 3)


GOOD = LabelledVideos([np.eye(3)], [np.arange(3)])


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("train has 0 videos", lambda: phases.classify_frames(LabelledVideos([], []), GOOD)),
        ("test has 1 videos and labels for 0", lambda: phases.classify_frames(GOOD, LabelledVideos([np.eye(3)], []))),
        (r"shape \(2,\)", lambda: phases.classify_frames(LabelledVideos([np.eye(3)], [np.arange(2)]), GOOD)),
        (
            r"test video 0 has embeddings of shape \(3, 2\)",
            lambda: phases.classify_frames(GOOD, LabelledVideos([np.eye(3, 2)], [np.arange(3)])),
        ),
        ("not finite", lambda: phases.classify_frames(GOOD, LabelledVideos([np.full((3, 3), np.inf)], GOOD.labels))),
        ("not negative", lambda: phases.classify_frames(GOOD, LabelledVideos([np.eye(3)], [-np.ones(3, int)]))),
        ("integer labels", lambda: phases.classify_frames(GOOD, LabelledVideos([np.eye(3)], [np.ones(3)]))),
        ("gamma must be", lambda: phases.classify_frames(GOOD, GOOD, gamma=-1.0)),
        ("got 'best'", lambda: phases.classify_frames(GOOD, GOOD, gamma="best")),
        ("penalty must be", lambda: phases.classify_frames(GOOD, GOOD, penalty=0.0)),
        (r"got \[0\] of 1", lambda: phases.phase_classification(GOOD, GOOD, fractions=(0,))),
        (r"got \[1.5\] of 1", lambda: phases.phase_progression(GOOD, GOOD, num_phases=3, fractions=(1.5,))),
        ("num_phases >= 2", lambda: phases.progression_targets(np.zeros(3, int), num_phases=1)),
        ("from 0 to 1", lambda: phases.progression_targets(np.arange(3), num_phases=2)),
        ("episodes >= 2", lambda: phases.few_shot_classification(GOOD, GOOD, episodes=1)),
        (
            r"from 1 to the 1 training videos, got \[2\]",
            lambda: phases.few_shot_classification(GOOD, GOOD, num_videos=(2,)),
        ),
    ],
)
def test_bad_input_is_refused(says, call):
    with pytest.raises(ValueError, match=says):
        call()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'casejax[evaluate]'")):
        phases.classify_frames(GOOD, GOOD)
