"""The synthetic worlds have the marginals they promise, are the same for the same seed, and can be learned."""

import hashlib
import json

import numpy as np
import pytest

from casejax.data import synthetic
from casejax.data.layouts import published
from casejax.errors import DataError
from casejax.records import SNIPPET_SECONDS

SMALL = {"num_classes": 4, "dim": 6, "train_videos": 14, "test_videos": 12, "longest": 400, "median": 60}


@pytest.fixture(scope="module")
def worlds():
    return [synthetic.make_world(seed=seed, dim=16) for seed in range(2)]


@pytest.fixture(scope="module")
def splits(worlds):
    return [split for world in worlds for split in (world.train, world.test)]


def distinct_labels(video):
    """Video-level labels, the wide class not counted beside the narrow one."""
    return set(video.labels) - ({synthetic.WIDE} if synthetic.NARROW in video.labels else set())


def assert_same_split(one, other):
    np.testing.assert_array_equal(one.features.lengths, other.features.lengths)
    for mine, theirs in zip(one.features.streams, other.features.streams, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert_same_annotations(one, other)


def assert_same_annotations(one, other):
    for mine, theirs in zip(one.videos, other.videos, strict=True):
        assert (mine.id, mine.segment_labels) == (theirs.id, theirs.segment_labels)
        np.testing.assert_array_equal(mine.segments, theirs.segments)


# Annotations


def test_sizes_and_names(worlds):
    for world in worlds:
        assert world.streams == ("rgb", "flow")
        assert world.dims == (16, 16)
        assert len(world.classes) == 8
        assert list(world.classes) == sorted(set(world.classes))
        assert (len(world.train.videos), len(world.test.videos)) == (80, 60)
        ids = [video.id for split in (world.train, world.test) for video in split.videos]
        assert len(set(ids)) == 140


def test_either_extreme_length_occurs_once_in_each_split(splits):
    for split in splits:
        lengths = split.features.lengths
        assert np.count_nonzero(lengths == 10) == np.count_nonzero(lengths == 2000) == 1
        assert (lengths.min(), lengths.max()) == (10, 2000)
        assert 130 < np.median(lengths) < 220


def test_every_video_has_instances_within_it(splits):
    for split in splits:
        for video, length in zip(split.videos, split.features.lengths, strict=True):
            start, end = video.segments.T
            assert len(start) > 0
            assert start.min() >= 0
            assert (end > start).all()
            assert end.max() <= length * SNIPPET_SECONDS
            np.testing.assert_array_equal(np.round(video.segments, 1), video.segments)


def test_instances_overlap_only_where_classes_are_nested(splits):
    for split in splits:
        for video in split.videos:
            one_each = np.unique(video.segments, axis=0)
            assert (one_each[1:, 0] >= one_each[:-1, 1]).all()


def test_foreground_fraction(splits):
    fractions = []
    for split in splits:
        for video, length in zip(split.videos, split.features.lengths, strict=True):
            one_each = np.unique(video.segments, axis=0)
            fractions.append(np.diff(one_each).sum() / (length * SNIPPET_SECONDS))
    assert 0.26 < np.mean(fractions) < 0.33
    assert np.std(fractions) > 0.1


def test_instance_lengths_and_counts_are_skewed(splits):
    lengths = np.concatenate([np.diff(video.segments)[:, 0] for split in splits for video in split.videos])
    assert 2.6 < np.median(lengths) < 3.2
    assert 3.5 < lengths.mean() < 4.4
    counts = np.array([len(video.segments) for split in splits for video in split.videos])
    assert 6 <= np.median(counts) <= 10
    assert counts.mean() > 1.3 * np.median(counts)


def test_every_narrow_instance_is_a_wide_one_verbatim(splits):
    for split in splits:
        narrow_seen = 0
        for video in split.videos:
            rows = list(zip(video.segment_labels, map(tuple, video.segments), strict=True))
            narrow = {segment for label, segment in rows if label == synthetic.NARROW}
            wide = {segment for label, segment in rows if label == synthetic.WIDE}
            assert narrow <= wide
            assert len(set(rows)) == len(rows)
            narrow_seen += bool(narrow)
        assert narrow_seen >= 3


def test_wide_instances_occur_without_the_narrow_class(splits):
    for split in splits:
        alone = [v for v in split.videos if synthetic.WIDE in v.labels and synthetic.NARROW not in v.labels]
        assert len(alone) >= 3


def test_share_of_videos_with_unrelated_labels(splits):
    for split in splits:
        several = [video for video in split.videos if len(distinct_labels(video)) > 1]
        assert 0.1 <= len(several) / len(split.videos) <= 0.16
        assert all(len(distinct_labels(video)) <= 2 for video in split.videos)


def test_every_class_occurs_and_some_more_than_others(worlds):
    for world in worlds:
        for split in (world.train, world.test):
            videos = split.multi_hot(world.classes).sum(0)
            assert videos.min() >= 3
            assert videos.max() > 2 * videos.min()


@pytest.mark.parametrize("num_classes", [2, 20, 25])
def test_any_number_of_classes(num_classes):
    options = {**SMALL, "num_classes": num_classes, "train_videos": 80, "test_videos": 75}
    world = synthetic.make_world(**options)
    assert len(set(world.classes)) == num_classes
    for split in (world.train, world.test):
        assert split.multi_hot(world.classes).sum(0).min() >= 3


# Seeds


def test_same_seed_same_world():
    one, other = (synthetic.make_world(seed=5, **SMALL) for _ in range(2))
    assert one.classes == other.classes
    assert_same_split(one.train, other.train)
    assert_same_split(one.test, other.test)


@pytest.mark.parametrize(
    ("options", "digest", "sums"),
    [
        (SMALL | {"seed": 5}, "3b335cf1710c8d69", (5785.105382823036, 5669.174402454781)),
        (
            {"seed": 1, "num_classes": 25, "train_videos": 80, "test_videos": 75, "dim": 3},
            "0c7ff3700d4a1264",
            (46020.47681284876, 55800.53307378826),
        ),
    ],
)
def test_a_seed_gives_the_world_that_it_always_gave(options, digest, sums):
    """Figures in the documents are of these worlds. Annotations are hashed; features depend on the matrix product."""
    world = synthetic.make_world(**options)
    found = hashlib.sha256()
    for split in (world.train, world.test):
        for video in split.videos:
            found.update(repr((video.id, video.segment_labels, video.segments.tolist())).encode())
        found.update(repr(split.features.lengths.tolist()).encode())
    assert found.hexdigest()[:16] == digest
    got = [stream.sum(dtype=np.float64) for stream in world.train.features.streams]
    np.testing.assert_allclose(got, sums, rtol=1e-6)


def test_other_seed_other_world():
    one, other = (synthetic.make_world(seed=seed, **SMALL) for seed in (5, 6))
    assert not np.array_equal(one.train.features.lengths, other.train.features.lengths)
    assert one.train.videos[0].segments.tolist() != other.train.videos[0].segments.tolist()


def test_test_split_does_not_depend_on_the_training_videos():
    one, other = (synthetic.make_world(**{**SMALL, "train_videos": n}) for n in (14, 20))
    assert_same_split(one.test, other.test)


def test_annotations_do_not_depend_on_the_features():
    one = synthetic.make_world(**SMALL)
    other = synthetic.make_world(**{**SMALL, "dim": 9}, noise=0.1, own=2.0, video_look=1.0)
    assert_same_annotations(one.train, other.train)
    assert_same_annotations(one.test, other.test)
    assert not np.array_equal(one.train.features.streams[0][:, :6], other.train.features.streams[0][:, :6])


# Annotated like ActivityNet

FEW = {"num_classes": 4, "dim": 5, "train_videos": 16, "test_videos": 13, "longest": 60}


@pytest.fixture(scope="module")
def activities():
    return synthetic.make_activitynet_world(num_classes=20, dim=1, train_videos=3000, test_videos=3000)


@pytest.mark.slow
def test_statistics_of_activitynet(activities):
    """Computed from the annotations of ActivityNet 1.3, training and validation."""
    for split in (activities.train, activities.test):
        durations = split.features.lengths * SNIPPET_SECONDS
        lengths = np.concatenate([np.diff(video.segments)[:, 0] for video in split.videos])
        share = [np.diff(video.segments).sum() for video in split.videos] / durations
        counts = np.array([len(video.segments) for video in split.videos])
        assert 114 < durations.mean() < 122  # 117.5 and 118.5
        assert 1.45 < counts.mean() < 1.63  # 1.54
        assert 0.63 < share.mean() < 0.67  # 0.65 and 0.66
        assert 0.22 < (share > 0.9).mean() < 0.28  # 0.25
        assert 46 < lengths.mean() < 53  # 48.9 and 50.1
        assert 24.5 < np.median(lengths) < 30.5  # 26.8 and 26.1
        assert 0.09 < (split.features.lengths < 50).mean() < 0.13  # 0.11 and 0.12
        assert 0.16 < (split.features.lengths < 75).mean() < 0.20  # 0.18 and 0.19
        assert sum(len(video.labels) > 1 for video in split.videos) == 3
        videos = split.multi_hot(activities.classes).sum(0)
        assert videos.max() < 3.2 * videos.min()  # 26 to 82


def test_activities_lie_within_their_video_one_after_the_other(activities):
    for split in (activities.train, activities.test):
        for video, length in zip(split.videos, split.features.lengths, strict=True):
            start, end = video.segments.T
            assert start[0] >= 0
            assert end[-1] <= length * SNIPPET_SECONDS
            assert (end - start).min() > 0.35
            assert (start[1:] >= end[:-1]).all()
            np.testing.assert_array_equal(np.round(video.segments, 1), video.segments)


def test_worlds_of_activities_are_reproducible_and_of_any_size():
    one, same, other, longer = (
        synthetic.make_activitynet_world(**FEW | options)
        for options in ({}, {}, {"seed": 1}, {"dim": 7, "train_videos": 20, "noise": 0.1})
    )
    assert one.classes == ("Activity000", "Activity001", "Activity002", "Activity003")
    assert one.dims == (5, 5)
    assert one.train.features.lengths.max() <= 60
    assert one.train.multi_hot(one.classes).sum(0).min() >= 3
    assert_same_split(one.train, same.train)
    assert_same_split(one.test, same.test)
    assert not np.array_equal(one.train.features.lengths, other.train.features.lengths)
    assert_same_annotations(one.test, longer.test)
    shortest = synthetic.make_activitynet_world(**FEW | {"longest": 8})
    assert all(np.diff(video.segments).min() > 0.35 for video in shortest.train.videos)


def test_the_full_size_has_every_class():
    world = synthetic.make_activitynet_world(dim=1, train_videos=600, test_videos=600, longest=20)
    assert len(world.classes) == 200
    assert world.test.multi_hot(world.classes).sum(0).min() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "got 1 and 5"),
        ({"test_videos": 11}, "at least 12 videos a split, got 16 and 11"),
        ({"longest": 7}, "8 snippets or more, got 7"),
    ],
)
def test_impossible_worlds_of_activities_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic.make_activitynet_world(**FEW | options)


# Features


def test_features_are_finite_and_rectified(splits):
    for split in splits:
        assert len(split.features.lengths) == len(split.videos)
        for stream in split.features.streams:
            assert stream.dtype == np.float32
            assert len(stream) == split.features.lengths.sum()
            assert np.isfinite(stream).all()
            assert stream.min() == 0
            assert 0.05 < np.mean(stream == 0) < 0.6


def snippet_truth(split, classes):
    """(snippets, classes) of booleans: the snippet's middle lies in an instance of the class."""
    truth = np.zeros((split.features.lengths.sum(), len(classes)), bool)
    table = split.ground_truth(classes)
    for v, c, (start, end) in zip(table.video, table.label, table.segment, strict=True):
        middle = (np.arange(split.features.lengths[v]) + 0.5) * SNIPPET_SECONDS
        truth[split.features.rows(v), c] |= (start <= middle) & (middle < end)
    return truth


def average_precision(scores, truth):
    hits = truth[np.argsort(-scores, kind="stable")]
    return (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()


def ridge(inputs, targets, strength):
    centre = inputs.mean(0)
    gram = (inputs - centre).T @ (inputs - centre) + strength * np.eye(inputs.shape[1])
    return np.linalg.solve(gram, (inputs - centre).T @ (targets - targets.mean(0)))


@pytest.fixture(scope="module")
def scores():
    """Snippet scores on the test split by ridge regressions, one a choice of streams and of targets.

    The targets are the truth of every snippet, or, "weak", the video labels repeated at every snippet.
    """
    world = synthetic.make_world()
    truth = snippet_truth(world.train, world.classes)
    weak = np.repeat(world.train.multi_hot(world.classes), world.train.features.lengths, axis=0)
    out = {}
    for name, chosen in (("both", [0, 1]), ("rgb", [0]), ("flow", [1])):
        train, test = (
            np.concatenate([split.features.streams[s] for s in chosen], 1) for split in (world.train, world.test)
        )
        both_targets = test @ ridge(train, np.concatenate([truth, weak], 1), 100.0)
        out[name], out[f"{name}, weak"] = np.split(both_targets, 2, axis=1)
    return world, snippet_truth(world.test, world.classes), out


def mean_precision(scores, truth):
    return np.mean([average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1])])


def test_action_can_be_told_from_features_but_not_too_easily(scores):
    _, truth, by = scores
    assert 0.6 < mean_precision(by["both"], truth) < 0.95
    assert truth.mean() < 0.1  # what chance would give


def test_both_streams_tell_more_than_one(scores):
    _, truth, by = scores
    both, rgb, flow = (mean_precision(by[name], truth) for name in ("both", "rgb", "flow"))
    assert both > flow + 0.02
    assert flow > rgb + 0.05  # flow sees motion better


def test_video_labels_teach_the_classes_and_leave_localisation_to_do(scores):
    world, truth, by = scores
    weak = by["both, weak"]
    videos = np.split(weak, world.test.features.starts[1:])
    pooled = np.stack([np.sort(v, 0)[-max(1, len(v) // 8) :].mean(0) for v in videos])
    assert mean_precision(pooled, world.test.multi_hot(world.classes) > 0) > 0.7
    assert 3 * truth.mean() < mean_precision(weak, truth) < 0.7 * mean_precision(by["both"], truth)


def test_scene_of_a_class_tempts_a_learner_of_video_labels(scores):
    """Outside of any action, a class scores higher in its own videos than in others."""
    world, truth, by = scores
    of_video = np.repeat(world.test.multi_hot(world.classes) > 0, world.test.features.lengths, axis=0)
    background = ~truth.any(1)
    weak = by["rgb, weak"]
    for c in range(len(world.classes)):
        inside = weak[background & of_video[:, c], c].mean()
        assert inside > weak[background & ~of_video[:, c], c].mean()


# Writing


def test_written_world_is_read_back(tmp_path):
    world = synthetic.make_world(seed=3, **SMALL)
    synthetic.write_world(tmp_path / "world", seed=3, **SMALL)
    data = published.read_dataset(tmp_path / "world")
    assert (data.classes, data.streams) == (world.classes, world.streams)
    assert_same_split(data.train, world.train)
    assert_same_split(data.test, world.test)


def test_written_files_are_those_of_the_published_layout(tmp_path):
    synthetic.write_world(tmp_path / "world", **SMALL)
    names = sorted(path.name for path in (tmp_path / "world").iterdir())
    assert names == ["features", "gt.json", "split_test.txt", "split_train.txt"]
    database = json.loads((tmp_path / "world" / "gt.json").read_text())["database"]
    assert {video["subset"] for video in database.values()} == {"train", "test"}
    for video in database.values():
        assert set(video) == {"subset", "annotations"}
        for annotation in video["annotations"]:
            assert [type(time) for time in annotation["segment"]] == [str, str]
            assert all(len(time.split(".")[1]) == 1 for time in annotation["segment"])
    stored = np.load(tmp_path / "world" / "features" / "test" / "flow" / "test_0000.npy")
    assert stored.dtype == np.float32


def test_world_is_not_written_over_a_folder(tmp_path):
    with pytest.raises(DataError, match="exists already"):
        synthetic.write_world(tmp_path, **SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "got 1 and 64"),
        ({"dim": 0}, "got 8 and 0"),
        ({"test_videos": 23}, "at least 24 videos a split, got 80 and 23"),
        ({"shortest": 3}, r"got \(3, 170, 2000\)"),
        ({"median": 10}, r"got \(10, 10, 2000\)"),
        ({"longest": 170}, r"got \(10, 170, 170\)"),
    ],
)
def test_impossible_worlds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic.make_world(**options)
