import json
import re

import numpy as np
import pytest

from casejax.alignment.data import finegym
from casejax.alignment.data.finegym import Clip, EventVideo
from casejax.errors import DataError

EVENT = "E_000010_000020"


def written(folder, change=lambda document: None, elements=None, categories=None):
    """The three files, in the published form: two videos, of floor exercise and of vault."""
    document = {
        "b-_1": {
            EVENT: {
                "event": 2,
                "timestamps": [[10.0, 20.5]],
                "segments": {
                    "A_0006_0008": {"stages": 1, "timestamps": [[6.0, 8.0]]},
                    "A_0001_0002": {"stages": 1, "timestamps": [[1.0, 2.5]]},
                    "A_0003_0004": {"stages": 1, "timestamps": [[3.0, 4.0]]},
                },
            },
            "E_000100_000110": {"event": 3, "timestamps": [[100, 110]], "segments": None},
        },
        "a": {
            EVENT: {
                "event": 1,
                "timestamps": [[10.0, 16.0]],
                "segments": {"A_0000_0005": {"stages": 3, "timestamps": [[0.5, 1], [1, 2.5], [2.5, 5]]}},
            }
        },
    }
    change(document)
    lines = [f"b-_1_{EVENT}_A_0006_0008 7", f"b-_1_{EVENT}_A_0001_0002 8", f"a_{EVENT}_A_0000_0005 0", ""]
    classes = [
        "Clabel:   0; set: 1; Glabel:   1; (VT) round-off, stretched",
        "Clabel:   7; set: 21; Glabel:  30; (FX) a leap",
        "Clabel:   8; set: 22; Glabel:  31; (FX) a turn; twice",
    ]
    paths = [folder / name for name in ("annotations.json", "elements.txt", "categories.txt")]
    paths[0].write_text(json.dumps(document))
    paths[1].write_text("\n".join(lines if elements is None else elements))
    paths[2].write_text("\n".join(classes if categories is None else categories))
    return paths


def test_reads_the_labelled_clips_of_a_list(tmp_path):
    vault, floor = finegym.read_finegym(*written(tmp_path))
    assert vault == EventVideo(f"a_{EVENT}", 1, 6.0, (Clip(0, 1, 0.5, 5.0),))
    assert floor == EventVideo(f"b-_1_{EVENT}", 2, 10.5, (Clip(8, 22, 1.0, 2.5), Clip(7, 21, 6.0, 8.0)))


def remove_clip(document):
    del document["b-_1"][EVENT]["segments"]["A_0001_0002"]


def put(value, *keys):
    def change(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


DAMAGES = {
    "annotations.json: has no entry for b-_1, E_000010_000020, A_0001_0002": {"change": remove_clip},
    "annotations.json: has no entry for a, E_000010_000020, A_0000_0005": {"change": put(None, "a", EVENT, "segments")},
    "annotations.json: event of a, E_000010_000020 is 9": {"change": put(9, "a", EVENT, "event")},
    "annotations.json: timestamps of a, E_000010_000020 run from 5.0 to 2.0": {
        "change": put([[5, 2]], "a", EVENT, "timestamps")
    },
    "annotations.json: timestamps of a, E_000010_000020 are not": {"change": put("1-2", "a", EVENT, "timestamps")},
    "run from nan to nan": {"change": put([], "a", EVENT, "timestamps")},
    "elements.txt, line 1: 'no clip'": {"elements": ["no clip"]},
    "elements.txt: lists nothing": {"elements": [""]},
    "categories.txt, line 2: 'Glabel: 3'": {"categories": ["Clabel: 0; set: 1; rest", "Glabel: 3"]},
    "categories.txt: lacks element 7": {"categories": ["Clabel: 0; set: 1; rest"]},
}


@pytest.mark.parametrize("says", DAMAGES)
def test_files_that_contradict_each_other_are_refused(tmp_path, says):
    with pytest.raises(DataError, match=re.escape(says)):
        finegym.read_finegym(*written(tmp_path, **DAMAGES[says]))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    paths = written(tmp_path)
    paths[1].unlink()
    with pytest.raises(DataError, match=r"elements\.txt: no such file"):
        finegym.read_finegym(*paths)
    paths[0].write_text("{")
    with pytest.raises(DataError, match=r"annotations\.json: not JSON"):
        finegym.read_finegym(*paths)


def routine(*clips, event=2, duration=10.0):
    return EventVideo("v", event, duration, tuple(Clip(*clip) for clip in clips))


def test_sets_come_in_the_order_of_the_prototype_and_labels_move_with_their_frames():
    # set 21 twice, around 22; 23 is not in the prototype, and 24 not in the video
    video = routine((1, 21, 0.5, 1.0), (2, 23, 1.0, 2.0), (3, 22, 2.2, 3.0), (4, 21, 4.0, 4.7))
    got = finegym.reorganise(video, {2: (22, 24, 21)}, frames_per_second=10)
    np.testing.assert_array_equal(got.clips, [2, 0, 3])
    np.testing.assert_array_equal(got.frames, [*range(22, 30), *range(5, 10), *range(40, 47)])
    np.testing.assert_array_equal(got.elements, [3] * 8 + [1] * 5 + [4] * 7)
    np.testing.assert_array_equal(got.sets, [22] * 8 + [21] * 12)
    framewise = np.full(100, -1)
    for clip in video.clips:
        framewise[round(clip.start * 10) : round(clip.end * 10)] = clip.element
    np.testing.assert_array_equal(framewise[got.frames], got.elements)


def test_a_video_in_order_keeps_its_annotated_frames():
    video = routine((1, 21, 0.0, 1.0), (2, 22, 1.0, 2.0))
    got = finegym.reorganise(video, {2: (21, 22)}, frames_per_second=7)
    np.testing.assert_array_equal(got.frames, np.arange(14))


def test_reorganising_is_the_same_for_any_order_of_the_performance(rng):
    clips = [(e, s, 0.0, 1.0) for e, s in ((1, 21), (2, 22), (3, 23), (4, 24))]
    wanted = [1, 2, 3, 4]
    for _ in range(5):
        order = rng.permutation(4)
        video = routine(*((*clips[i][:2], float(at), at + 0.5) for at, i in enumerate(order)))
        got = finegym.reorganise(video, {2: (21, 22, 23, 24)}, frames_per_second=4)
        np.testing.assert_array_equal(got.elements, np.repeat(wanted, 2))
        np.testing.assert_array_equal(order[got.clips] + 1, wanted)


def test_short_late_and_absent_clips():
    video = routine((1, 21, 0.51, 0.52), (2, 21, 9.8, 10.0))
    got = finegym.reorganise(video, {2: (21,)}, frames_per_second=10)
    np.testing.assert_array_equal(got.frames, [6, 98, 99])
    got = finegym.reorganise(video, {2: (21,)}, frames_per_second=10, num_frames=99)
    np.testing.assert_array_equal(got.frames, [6, 98])
    got = finegym.reorganise(video, {2: (22,)}, frames_per_second=10)
    assert [len(part) for part in got] == [0, 0, 0, 0]


def test_orders_and_rates_that_make_no_sense_are_refused():
    video = routine((1, 21, 0.5, 1.0))
    for says, order, rate in (
        (r"no event 2, that of v; it has \[1\]", {1: (1,)}, 25.0),
        (r"names a set of event 2 twice: \[21, 21\]", {2: (21, 21)}, 25.0),
        ("positive and finite, got 0", {2: (21,)}, 0.0),
    ):
        with pytest.raises(ValueError, match=says):
            finegym.reorganise(video, order, frames_per_second=rate)


def test_the_typical_order_is_by_mean_place():
    videos = [
        routine((1, 21, 0, 1), (1, 22, 1, 2), (1, 23, 2, 3)),  # 0, 1/2, 1
        routine((1, 22, 0, 1), (1, 21, 1, 2)),  # 21: 1, 22: 0
        routine((1, 22, 0, 1), event=1),
    ]
    assert finegym.typical_order(videos) == {1: (22,), 2: (22, 21, 23)}
