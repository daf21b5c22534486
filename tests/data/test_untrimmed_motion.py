"""Untrimmed motion is made of clips as they are, by the chances that are asked for, the same for the same seed."""

import dataclasses

import numpy as np
import pytest
from pose_tracks import random_track, write_track

from casejax.data import untrimmed_motion
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.poses import pose_features
from casejax.errors import DataError
from casejax.records import SNIPPET_SECONDS

PAIRS = {"bowl": "strum_guitar", "squat": "bench_press"}
ACTIONS = (*PAIRS, *PAIRS.values())


@pytest.fixture(scope="module")
def tracks():
    rng = np.random.default_rng(5)
    return [
        dataclasses.replace(random_track(rng, 10 + 5 * n, action=action, train=train), name=f"{action}{n}{train}")
        for action in ACTIONS
        for n in range(3)
        for train in (True, False)
    ]


def compose(tracks, **options):
    return untrimmed_motion.make_untrimmed_motion(
        tracks, **({"look_alikes": PAIRS, "train_videos": 6, "test_videos": 5} | options)
    )


def snippets_by_hand(track):
    """Posture and motion of a clip, snippet by snippet and frame by frame."""
    frames = np.clip(pose_features(track), -6, 6)
    posture, motion = [], []
    for first in range(0, len(frames) - 3, 4):
        posture.append(np.concatenate(frames[first : first + 4]))
        changes = [frames[t] - frames[max(t - 1, 0)] for t in range(first, first + 4)]
        motion.append(np.concatenate([4 * change[:26] for change in changes]))
    return np.asarray(posture), np.asarray(motion)


def test_instances_are_whole_clips_of_their_class_and_split(tracks):
    world = compose(tracks)
    assert (world.classes, world.streams, world.dims) == (("bowl", "squat"), ("rgb", "flow"), (156, 104))
    for split in (world.train, world.test):
        clips = {action: [] for action in ACTIONS}
        for track in tracks:
            if track.train == (split.name == "train"):
                clips[track.action].append(snippets_by_hand(track))
        for v, video in enumerate(split.videos):
            posture, motion = (stream[split.features.rows(v)] for stream in split.features.streams)
            assert len(video.segments) >= 2
            for label, segment in zip(video.segment_labels, video.segments, strict=True):
                first, last = np.rint(segment / SNIPPET_SECONDS).astype(int)
                np.testing.assert_allclose(segment, np.array([first, last]) * SNIPPET_SECONDS, atol=0.005)
                assert any(
                    len(p) == last - first
                    and np.array_equal(p, posture[first:last])
                    and np.array_equal(m, motion[first:last])
                    for p, m in clips[label]
                )


def test_the_seed_decides_and_the_files_give_the_world_back(tracks, tmp_path):
    world = compose(tracks)
    write_dataset(world, tmp_path / "world")
    for same in (compose(tracks), read_dataset(tmp_path / "world")):
        for one, other in ((world.train, same.train), (world.test, same.test)):
            for mine, theirs in zip(one.features.streams, other.features.streams, strict=True):
                np.testing.assert_array_equal(mine, theirs)
            assert [v.segment_labels for v in one.videos] == [v.segment_labels for v in other.videos]
            for mine, theirs in zip(one.videos, other.videos, strict=True):
                np.testing.assert_array_equal(mine.segments, theirs.segments)
    another = compose(tracks, seed=1)
    assert [v.segment_labels for v in another.train.videos] != [v.segment_labels for v in world.train.videos]


def background_of(world):
    """Posture of what no instance covers, of all videos."""
    parts = []
    for split in (world.train, world.test):
        for v, video in enumerate(split.videos):
            posture = split.features.streams[0][split.features.rows(v)]
            covered = np.zeros(len(posture), bool)
            for first, last in np.rint(video.segments / SNIPPET_SECONDS).astype(int):
                covered[first:last] = True
            parts.append((video, posture[~covered]))
    return parts


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_background_is_of_the_kind_that_is_asked_for(tracks, kind):
    world = compose(tracks, background=tuple(np.eye(3)[kind]), train_videos=12, second_class=0.0)
    shown = {action: set() for action in ACTIONS}
    for track in tracks:
        posture, _ = snippets_by_hand(track)
        shown[track.action] |= {row.tobytes() for row in posture}
    ends = {
        action: {row.tobytes() for track in tracks if track.action == action for row in ends_of(track)}
        for action in ACTIONS
    }
    met = set()
    for video, posture in background_of(world):
        (label,) = set(video.labels)
        rows = {row.tobytes() for row in posture}
        if kind == 0:
            assert rows <= ends[label]
        elif kind == 1:
            assert rows <= shown[PAIRS[label]]
        else:
            assert rows <= set().union(*(shown[other] for other in PAIRS.values()))
            met |= {action for action in PAIRS.values() if rows & shown[action] and action != PAIRS[label]}
    assert bool(met) == (kind == 2)


def ends_of(track):
    posture, _ = snippets_by_hand(track)
    return [*posture[:2], *posture[-2:]]


def test_who_holds_a_pose_hardly_moves(tracks):
    held = compose(tracks, background=(1.0, 0.0, 0.0))
    split = held.train
    motion = split.features.streams[1][split.features.rows(0)]
    first = int(np.rint(split.videos[0].segments[0, 0] / SNIPPET_SECONDS))
    rows = {(m / 4).tobytes() for track in tracks for m in snippets_by_hand(track)[1]}
    assert first >= 4
    assert {row.tobytes() for row in motion[:first]} <= rows


def test_the_numbers_of_instances_and_of_second_classes(tracks):
    many = compose(tracks, train_videos=300, last_instance=0.5, second_class=0.4)
    counts = [len(video.segments) for video in many.train.videos]
    assert abs(np.mean(counts) - 3) < 0.3
    both = np.mean([len(video.labels) == 2 for video in many.train.videos])
    # a second draw is another class half of the time, and has an instance most of the time
    assert 0.08 < both < 0.2
    single = compose(tracks, last_instance=1.0, second_class=0.0)
    assert all(len(video.segments) == 2 and len(video.labels) == 1 for video in single.train.videos)


def test_labels_that_cannot_be_used_are_named(tracks, tmp_path):
    with pytest.raises(DataError, match=r"the tracks: test split: holds no video of bench_press, squat, of which"):
        compose([t for t in tracks if t.train or t.action not in ("squat", "bench_press")])
    short = random_track(np.random.default_rng(0), 3, action="bowl", train=True)
    with pytest.raises(DataError, match="train split: video a has 3 frames, a snippet takes 4"):
        compose([short, *tracks])
    write_track(tmp_path, train=np.int32(1))
    with pytest.raises(DataError, match=f"{tmp_path}: train split: holds no video of bench_press, bowl, strum_guitar"):
        compose(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"train_videos": 0}, "train_videos 0"),
        ({"look_alikes": {}}, "must name a class"),
        ({"look_alikes": {"bowl": "squat", "squat": "bowl"}}, "none that is a look-alike too"),
        ({"background": (0.5, 0.5, 0.5)}, "whose sum is 1"),
        ({"last_instance": 0.0}, r"last_instance must lie in \(0, 1\], got 0.0"),
        ({"second_class": 1.5}, r"second_class must lie in \[0, 1\], got 1.5"),
    ],
)
def test_options_outside_their_range_are_refused(tracks, options, says):
    with pytest.raises(ValueError, match=says):
        compose(tracks, **options)
