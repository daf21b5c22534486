"""What is special in the lists of MultiTHUMOS and Charades."""

import pytest
from layout_folders import CLIPS, assert_is_world, by_class, write_charades, write_multithumos

from casejax.data.layouts import find_layout
from casejax.data.layouts.lists import read_charades, read_multithumos
from casejax.errors import DataError, DataWarning

IDS = [clip.id for clip in CLIPS]
FIELDS = {"words": ("validation", "test"), "order": by_class, "durations": lambda clip: None}


def refusal(read, root):
    with pytest.raises(DataError) as caught:
        read(root)
    return str(caught.value)


# MultiTHUMOS


def test_files_of_thumos14_itself(tmp_path):
    """A folder `annotation`, a file a class and subset, and one of ambiguous intervals."""
    write_multithumos(tmp_path)
    (tmp_path / "class_list.txt").unlink()
    (tmp_path / "annotations").rename(tmp_path / "annotation")
    for path in list((tmp_path / "annotation").iterdir()):
        lines = path.read_text().splitlines()
        for part, word in (("val", "validation"), ("test", "test")):
            own = [line.replace(" ", "  ") for line in lines if word in line]
            path.with_name(f"{path.stem}_{part}.txt").write_bytes("\r\n".join(own).encode())
        path.unlink()
    (tmp_path / "annotation" / "Ambiguous_test.txt").write_text(f"{IDS[0]}  1.0 2.5\n")
    data = read_multithumos(tmp_path)
    assert_is_world(data, **FIELDS)
    assert data.test.videos[0].ambiguous.tolist() == [[1, 2.5]]


def test_splits_by_lists(tmp_path):
    write_multithumos(tmp_path)
    (tmp_path / "split_train.txt").write_text("\n".join([IDS[0], IDS[3], IDS[2]]))
    (tmp_path / "split_test.txt").write_text(IDS[5])
    data = read_multithumos(tmp_path)
    assert [video.id for video in data.train.videos] == [IDS[0], IDS[3], IDS[2]]
    assert [video.id for video in data.test.videos] == [IDS[5]]
    (tmp_path / "split_test.txt").write_text("video_test_0000009")
    assert "no entry for video_test_0000009; add it or take it out of" in refusal(read_multithumos, tmp_path)


def test_ids_that_tell_no_subset(tmp_path):
    write_multithumos(tmp_path)
    path = tmp_path / "annotations" / "Run.txt"
    path.write_text("clip 1 2\n")
    said = refusal(read_multithumos, tmp_path)
    assert "video 'clip' is not named video_validation_" in said
    assert "list the videos in" in said


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("video_test_0000001 1\n", ("Run.txt: entry 1, 'video_test_0000001 1', is not VIDEO START END",)),
        ("../x 1 2\n", ("Run.txt: video id '../x'", "rename")),
        ("video_test_0000001 1 x\n", ("video 'video_test_0000001', annotation", "'x'", "no finite number")),
    ],
)
def test_lines_that_cannot_be_used(text, parts, tmp_path):
    write_multithumos(tmp_path)
    (tmp_path / "annotations" / "Run.txt").write_text(text)
    said = refusal(read_multithumos, tmp_path)
    for part in parts:
        assert part in said


def test_odd_instances_as_in_every_layout(tmp_path):
    write_multithumos(tmp_path)
    with (tmp_path / "annotations" / "Run.txt").open("a") as file:
        file.write(f"{IDS[2]} 3 3\n{IDS[2]} -1 2\n")
    with pytest.warns(DataWarning) as caught:
        data = read_multithumos(tmp_path)
    assert {w.message.kind for w in caught} == {"empty", "before the start"}
    assert data.train.videos[0].segments.tolist() == [[0, 6], [-1, 2]]


# Charades


def test_videos_without_actions_are_left_out(tmp_path):
    write_charades(tmp_path)
    with (tmp_path / "Charades_v1_train.csv").open("a") as file:
        file.write('ABCDE,QEFG,"Nothing, at all.",,12.5\n')
    with pytest.warns(DataWarning, match="1 videos have no label and are left out: ABCDE"):
        assert_is_world(read_charades(tmp_path), words=("train", "test"))


def test_classes_keep_their_codes(tmp_path):
    write_charades(tmp_path)
    (tmp_path / "Charades_v1_classes.txt").write_text("Run Running away\nJump Jumping for joy\n")
    assert read_charades(tmp_path).classes == ("Run", "Jump")
    (tmp_path / "Charades_v1_classes.txt").unlink()
    assert find_layout(tmp_path) == "charades"
    assert read_charades(tmp_path).classes == ("Jump", "Run")


def test_action_past_the_end_is_kept(tmp_path):
    write_charades(tmp_path)
    path = tmp_path / "Charades_v1_test.csv"
    path.write_text(path.read_text().replace("Jump 1.25 7.0", "Jump 1.25 7.8"))
    with pytest.warns(DataWarning, match="1 instances end after the duration of their video; they are kept"):
        assert read_charades(tmp_path).test.videos[1].segments.tolist() == [[1.25, 7.8]]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("actions", "what", ("Charades_v1_train.csv: first line has no column 'actions'", "write the columns")),
        ("Run 0.0 6.0", "Run 0.0", ("line 2", IDS[2], "action 'Run 0.0' is not CLASS START END")),
        ("Run 0.0 6.0", "Run 0.0 x", ("line 2", IDS[2], "'x'", "no finite number")),
        (IDS[2], "a/b", ("video id 'a/b'", "rename")),
        (IDS[2], IDS[0], ("Charades_v1_test.csv: list", IDS[0], "more than once; keep one")),
        ("Run", "Swim", ("label 'Swim', which that file does not list", "Charades_v1_classes.txt")),
    ],
)
def test_rows_that_cannot_be_used(old, new, parts, tmp_path):
    write_charades(tmp_path)
    path = tmp_path / "Charades_v1_train.csv"
    path.write_text(path.read_text().replace(old, new))
    said = refusal(read_charades, tmp_path)
    for part in parts:
        assert part in said
    assert len(said) < 600
