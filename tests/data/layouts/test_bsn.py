"""What is special in the tables and rescaled features of BSN and mmaction2."""

import json

import numpy as np
import pytest
from layout_folders import CLIPS, assert_is_world, features, write_bsn

from casejax.data.layouts import find_layout
from casejax.data.layouts.bsn import read_bsn
from casejax.errors import DataError, DataWarning
from casejax.records import Timing

IDS = [clip.id for clip in CLIPS]
TABLE = "video_info_new.csv"


@pytest.fixture
def document(tmp_path):
    return write_bsn(tmp_path)


def write(root, document):
    (root / "anet_anno_action.json").write_text(json.dumps(document))


def refusal(root):
    with pytest.raises(DataError) as caught:
        read_bsn(root)
    return str(caught.value)


def test_rows_divide_the_time_that_features_cover(tmp_path, document):
    data = read_bsn(tmp_path)
    seconds = [0.9 * clip.duration / clip.rows for clip in CLIPS[2:]]
    np.testing.assert_allclose(data.row_seconds(data.train), seconds)
    assert data.train.videos[0].frames == 100
    (tmp_path / "features.json").write_text('{"stride": 16, "fps": 25}')
    assert read_bsn(tmp_path).timing == Timing()


def test_the_end_of_an_instance_is_judged_by_the_stated_duration(tmp_path, document):
    clip = CLIPS[1]
    document[clip.id]["annotations"][0]["segment"] = [1.25, clip.duration]
    write(tmp_path, document)
    assert read_bsn(tmp_path).test.videos[1].segments.tolist() == [[1.25, clip.duration]]
    document[clip.id]["annotations"][0]["segment"] = [1.25, clip.duration + 1]
    write(tmp_path, document)
    with pytest.warns(DataWarning, match="1 instances end after the duration"):
        read_bsn(tmp_path)


def test_the_files_of_mmaction2(tmp_path, document):
    parts = {"train": IDS[2:], "val": IDS[:2]}
    folder = tmp_path / "annotations"
    folder.mkdir()
    for part, ids in parts.items():
        (folder / f"anet_anno_{part}.json").write_text(json.dumps({f"v_{video}": document[video] for video in ids}))
    (tmp_path / "anet_anno_action.json").unlink()
    (tmp_path / TABLE).unlink()
    assert find_layout(tmp_path) == "bsn"
    data = read_bsn(tmp_path)
    assert [video.id for video in data.train.videos] == [f"v_{video}" for video in IDS[2:]]
    assert {video.subset for video in data.test.videos} == {"val"}
    np.testing.assert_array_equal(data.test.features.streams[0][:9], features(CLIPS[0]))
    (folder / "anet_anno_val.json").write_text(json.dumps({IDS[2]: document[IDS[2]]}))
    assert "anet_anno_val.json: has video_validation_0000003, which" in refusal(tmp_path)


@pytest.mark.parametrize("heading", ["0,1,2,3\n", ""])
def test_a_heading_of_numbers_is_no_row(heading, tmp_path, document):
    """pandas writes the numbers of columns that have no names."""
    for clip in CLIPS:
        path = tmp_path / "csv_mean_100" / f"{clip.id}.csv"
        path.write_text(heading + path.read_text().split("\n", 1)[1])
    assert_is_world(read_bsn(tmp_path), words=("training", "validation"), durations=lambda clip: 0.9 * clip.duration)


def test_videos_that_the_table_lacks_are_not_read(tmp_path, document):
    lines = (tmp_path / TABLE).read_text().splitlines()
    (tmp_path / TABLE).write_text("\n".join(line for line in lines if IDS[3] not in line))
    document[IDS[3]]["annotations"] = "whatever"
    write(tmp_path, document)
    assert [video.id for video in read_bsn(tmp_path).train.videos] == [IDS[2], *IDS[4:]]


def replace(old, new):
    return lambda text: text.replace(old, new)


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (replace("featureFrame", "x"), ("first line 'video,numframe", "does not name the columns", "add it")),
        (replace(",30.0,30.0,", ",30.0,"), ("line 2: 6 cells for 7 columns", "download it again")),
        (replace(IDS[0], "other"), ("anet_anno_action.json: no entry for other", "take it out of")),
        (replace(",90\n", ",0\n"), (f"video '{IDS[0]}': feature_frame 0 is not positive", "correct it")),
        (replace(",90\n", ",x\n"), (f"video '{IDS[0]}', feature_frame", "'x'", "no finite number")),
        (replace("training", "what"), ("'what' is unknown", "write training")),
    ],
)
def test_tables_that_cannot_be_used(spoil, parts, tmp_path, document):
    (tmp_path / TABLE).write_text(spoil((tmp_path / TABLE).read_text()))
    said = refusal(tmp_path)
    for part in parts:
        assert part in said
    assert len(said) < 600


def test_durations_that_are_missing(tmp_path, document):
    (tmp_path / TABLE).write_text((tmp_path / TABLE).read_text().replace(f",{CLIPS[0].duration},", ",0,"))
    with pytest.warns(DataWarning, match="1 stated durations are no positive number"):
        assert f"rescaled rows need the duration of {IDS[0]}; state it" in refusal(tmp_path)
