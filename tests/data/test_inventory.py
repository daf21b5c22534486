"""What is counted in a data set, against counts made by hand, and published counts recognised."""

from dataclasses import replace

import numpy as np
import pytest

from casejax.data.inventory import KNOWN, compare_with_published, nestings, oddities, take_inventory
from casejax.records import Dataset, Features, Split, Timing, Video


def video(name, *instances, **more):
    segments = np.asarray([[start, end] for _, start, end in instances], np.float64).reshape(-1, 2)
    return Video(name, "train", segments, tuple(label for label, _, _ in instances), **more)


def dataset(videos, lengths, test=(), classes=("A", "B"), seconds=0.5):
    def split(name, videos, lengths):
        features = Features.end_to_end((np.zeros((sum(lengths), 2), np.float32),), lengths)
        return Split(name, tuple(videos), features)

    train, tests = split("train", videos, lengths), split("test", test, [20] * len(test))
    return Dataset("here", tuple(classes), ("rgb",), train, tests, Timing.every(seconds))


def test_counts():
    videos = [
        video("v", ("A", 1, 3), ("A", 2, 4), ("B", 9, 12)),  # 3 s and 1 s of 10 s: what lies beyond the end is cut
        video("w", ("B", 0, 2)),  # 2 s of 5 s
        video("x", stated_labels=("A", "B"), timed=False),
    ]
    counts = take_inventory(data := dataset(videos, [20, 10, 4]), data.train)
    assert (counts.videos, counts.labelled, counts.timed, counts.classes, counts.instances) == (3, 3, 2, 2, 4)
    assert counts.rows == (34, 4, 10.0, 20)
    np.testing.assert_allclose(counts.labels_per_video, 5 / 3)
    np.testing.assert_allclose(counts.hours, 17 / 3600)
    np.testing.assert_allclose(counts.foreground, (0.4 + 0.4) / 2)
    np.testing.assert_allclose(counts.instance_seconds, (9 / 4, 2))
    assert counts.by_class == {"A": 2, "B": 2}
    empty = take_inventory(data, data.test)
    assert (empty.videos, empty.rows) == (0, (0, 0, 0.0, 0))
    assert np.isnan(empty.foreground)


def test_oddities():
    videos = [
        video("v", ("A", 1, 3), ("A", 1, 3), ("B", 1, 3), stated_labels=("A",)),
        video("w", ("A", 0, 2)),
    ]
    found = {each.kind: each for each in oddities(dataset(videos, [20, 3], test=[video("v_w", ("A", 0, 1))]))}
    assert {kind: each.places for kind, each in found.items()} == {
        "label sources": ("v",),
        "duplicates": ("v",),
        "videos twice": ("w",),
        "short videos": ("w",),
        "rare classes": ("B",),
    }
    assert "1 instances repeat another of their class in 1 videos: v" in str(found["duplicates"])
    assert list(oddities(dataset([video("v", ("A", 1, 3)), video("w", ("A", 0, 2))], [20, 20], classes=["A"]))) == []


def test_nestings():
    both = [(label, start, start + 1) for start in range(6) for label in ("A", "B")]
    videos = [video("v", *both), video("w", ("B", 8, 9))]
    assert nestings(dataset(videos, [20, 20])) == [("A", "B", 6)]
    assert nestings(dataset([video("v", *both[:8]), videos[1]], [20, 20])) == []  # too few to say
    assert nestings(dataset([*videos, video("x", ("A", 3, 4))], [20] * 3)) == []


@pytest.mark.parametrize(("count", "said"), [(210, "as in THUMOS14"), (205, "not as in THUMOS14")])
def test_published_counts_are_recognised(count, said):
    names = [*KNOWN[0].some, *(f"class{c}" for c in range(20 - len(KNOWN[0].some)))]
    instances = [("Diving", n, n + 1) for n in range(3311 - 209)]
    test = [video("t0", *instances), *(video(f"t{v}", ("Diving", 0, 1)) for v in range(1, count))]
    train, line = compare_with_published(dataset([video("v", ("Diving", 1, 2))], [4], test, classes=sorted(names)))
    assert f"test: {count} videos" in line
    assert f"instances, {said} by BaS-Net" in line
    assert "train: 1 videos, 1 instances, not as in THUMOS14 by all programs (200 videos, 3,007 instances)" in train
    assert compare_with_published(replace(dataset([video("v")], [4]), classes=("A", "B"))) == []
