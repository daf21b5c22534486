"""What is said of rows, durations and annotated times that do not fit, and of what is known of the rows' time."""

import json
from dataclasses import replace

import numpy as np
import pytest

from casejax.data.layouts.consistency import findings
from casejax.data.layouts.timing import read_timing, settle_timing, timing_of
from casejax.errors import DataError, DurationMismatchWarning, OptionError
from casejax.records import Dataset, Features, Split, Timing, Video

LENGTHS = np.arange(20, 40)


def dataset(timing=Timing.every(1.0), lengths=LENGTHS, scale=1.0, **of_video):
    """Videos whose rows stand for a second; the last instance ends with the video, times `scale`."""
    videos = tuple(
        Video(
            f"v{n}",
            "train",
            np.array([[1.0, 2.0], [n - 3.0, n]]) * scale,
            ("Run", "Run"),
            **{name: value(n) for name, value in of_video.items()},
        )
        for n in LENGTHS.tolist()
    )
    features = Features.end_to_end((np.zeros((int(np.sum(lengths)), 1), np.float32),), lengths)
    split, nothing = Split("train", videos, features), Features.end_to_end((np.zeros((0, 1), np.float32),), [])
    return Dataset("here", ("Run",), ("rgb",), split, Split("test", (), nothing), timing)


def kinds(data):
    return {each.kind: str(each) for each in findings(data)}


def test_nothing_is_said_of_what_fits():
    assert kinds(dataset()) == {}
    assert kinds(dataset(duration=lambda n: 1.04 * n, frames=lambda n: 25 * n)) == {}
    assert kinds(dataset(duration=lambda n: n + 1.9)) == {}


def test_durations_that_rows_miss():
    (found,) = findings(dataset(duration=lambda n: 1.2 * n))
    assert isinstance(found, DurationMismatchWarning)
    assert "20 of 20 videos" in str(found)
    assert "0.83 times" in str(found)
    assert "v20, v21, v22 (and 17 more)" in str(found)
    assert "--snippet-seconds" in str(found)


def test_instances_beyond_the_last_row():
    said = kinds(dataset(scale=1.25))
    assert said.keys() == {"beyond the rows"}
    assert "20 instances in 20 of 20 videos" in said["beyond the rows"]
    one = dataset()
    late = replace(one.train.videos[3], segments=np.array([[1.0, 60.0], [61.0, 62.0]]))
    one = replace(one, train=replace(one.train, videos=(*one.train.videos[:3], late, *one.train.videos[4:])))
    assert "2 instances in 1 of 20 videos" in kinds(one)["beyond the rows"]


def test_rows_that_cover_far_more_than_the_instances():
    """A row every 4 frames, taken for one every 16."""
    said = kinds(dataset(scale=0.25))
    assert said.keys() == {"early ends"}
    assert "before 25% of the time" in said["early ends"]
    assert "early ends" not in kinds(dataset(scale=0.8))


def test_videos_of_one_length():
    said = kinds(dataset(lengths=np.full(20, 40)))
    assert "all 20 videos have 40 rows" in said["equal lengths"]
    assert "--rescaled" in said["equal lengths"]
    rescaled = dataset(Timing(rescaled=True), lengths=np.full(20, 40), duration=lambda n: float(n))
    assert kinds(rescaled) == {}
    np.testing.assert_allclose(rescaled.row_seconds(rescaled.train), LENGTHS / 40)


def test_more_rows_than_frames():
    said = kinds(dataset(frames=lambda n: 25.0))
    assert "14 of 20 videos have more rows than frames" in said["rows and frames"]


# Timing


def test_rows_stand_for_the_middle_of_their_frames():
    timing = timing_of(stride=4, fps=30, frames=16)
    assert timing == Timing(16, 4, 30)
    np.testing.assert_allclose([timing.seconds, timing.offset], [4 / 30, 6 / 30])
    assert timing_of(stride=8, fps=30) == Timing(8, 8, 30)
    assert timing_of(snippet_seconds=0.25) == Timing.every(0.25)
    assert Timing().same(Timing.every(0.64))
    assert not timing.same(timing_of(stride=4, fps=30))
    assert timing_of() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"snippet_seconds": 0.0}, "snippet_seconds must be positive and finite, got 0"),
        ({"stride": 4}, "both stride and fps"),
        ({"fps": 30}, "both stride and fps"),
        ({"stride": 4, "fps": -1}, "fps must be positive and finite, got -1"),
        ({"stride": 4, "fps": 30, "first_frame": -1}, "first_frame must be 0 or more"),
        ({"snippet_seconds": 1, "fps": 30}, "exclude each other"),
        ({"rescaled": True, "stride": 4, "fps": 30}, "exclude each other"),
    ],
)
def test_timings_that_cannot_be(given, said):
    with pytest.raises(OptionError, match=said):
        timing_of(**given)


def test_timing_beside_the_features(tmp_path):
    path = tmp_path / "features.json"
    assert read_timing(tmp_path) is None
    assert settle_timing(tmp_path, None) == Timing()
    path.write_text(json.dumps({"model": "i3d", "fps": "30", "stride": 8}))
    assert read_timing(tmp_path) == settle_timing(tmp_path, None) == Timing(8, 8, 30)
    assert settle_timing(tmp_path, Timing.every(8 / 30)) == Timing.every(8 / 30)
    with pytest.raises(DataError, match=r"features.json: states a row every 0.2667 s, .*0.64 s; leave out"):
        settle_timing(tmp_path, Timing())
    with pytest.raises(DataError, match=r"gt: states a row every 1 s, but .*features.json a row every 0.2667 s"):
        settle_timing(tmp_path, None, layout=(tmp_path / "gt", Timing.every(1.0)))
    for text, said in (("{}", "states no timing"), ("[]", "states no timing"), ('{"fps": 30}', "both stride and fps")):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            read_timing(tmp_path)
    path.write_text('{"rescaled": true}')
    assert read_timing(tmp_path) == Timing(rescaled=True)
