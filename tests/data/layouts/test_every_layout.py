"""Published folders in every layout: told apart, read with every field, and trained on."""

import jax
import layout_folders
import numpy as np
import pytest
from layout_folders import CLIPS, WRITERS, assert_is_world, by_class

from casejax.data import LAYOUTS, write_a2cl_pt, write_dataset
from casejax.data.layouts import find_layout
from casejax.errors import DataError
from casejax.records import Timing
from casejax.run.config import Config
from casejax.train.loop import train

FIELDS = {
    "wtalc": {"words": ("validation", "test")},
    "bsn": {"words": ("training", "validation"), "durations": lambda clip: 0.9 * clip.duration},
    "charades": {"words": ("train", "test")},
    "multithumos": {"words": ("validation", "test"), "order": by_class, "durations": lambda clip: None},
    "opentad": {"words": ("Validation", "Test")},
    "activitynet": {"words": ("training", "validation")},
}
CONFIG = Config.of("case").changed(
    num_clusters=2, hidden=8, num_snippets=8, batch_size=4, epochs=2, learning_rate=1e-3, log_every=1
)


@pytest.mark.parametrize("name", WRITERS)
def test_every_field_is_what_the_files_say(name, tmp_path):
    WRITERS[name](tmp_path)
    assert find_layout(tmp_path) == name
    data = LAYOUTS[name].read(tmp_path)
    assert_is_world(data, **FIELDS[name])
    assert data.streams == ("features",)
    assert data.timing == (Timing(rescaled=True) if name == "bsn" else Timing())
    assert data.source == str(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_what_no_layout_can_use(name, tmp_path):
    """The same defects of a folder, in the same words by every reader."""
    read = LAYOUTS[name].read
    with pytest.raises(DataError, match="none: no such folder; name"):
        read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty.*(put it there|put the annotations there|no folder features)"):
        read(tmp_path / "empty")
    root = tmp_path / "set"
    WRITERS[name](root)
    (root / "features.json").write_text('{"stride": 8, "fps": 25}')
    with pytest.raises(DataError, match=r"features.json: states a row every 0.32 s, but the option is a row every 1 s"):
        read(root, snippet_seconds=1)


@pytest.mark.parametrize("name", WRITERS)
def test_lists_decide_where_there_are_some(name, tmp_path):
    WRITERS[name](tmp_path)
    ids = [clip.id for clip in CLIPS]
    (tmp_path / "split_train.txt").write_text("\n".join([ids[0], f"v_{ids[4]}", ids[2]]))
    (tmp_path / "split_test.txt").write_text(ids[3])
    data = LAYOUTS[name].read(tmp_path)
    assert [video.id.removeprefix("v_") for video in data.train.videos] == [ids[0], ids[4], ids[2]]
    assert [video.segment_labels for video in data.train.videos] == [
        tuple(label for label, *_ in FIELDS[name].get("order", lambda clip: clip.instances)(clip))
        for clip in (CLIPS[0], CLIPS[4], CLIPS[2])
    ]
    assert [video.id for video in data.test.videos] == [ids[3]]
    with (tmp_path / "split_test.txt").open("a") as file:
        file.write("\nother")
    with pytest.raises(DataError, match=r"no entry for other; add it or take it out of .*split_test.txt"):
        LAYOUTS[name].read(tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_features_packed_and_in_parts(name, tmp_path):
    WRITERS[name](tmp_path / "set")
    read = LAYOUTS[name].read
    whole = read(tmp_path / "set").train.features
    data = read(tmp_path / "set", packed=tmp_path / "packed", part=1, parts=2)
    assert data.train.features.lengths.tolist() == [0, 0, *whole.lengths[2:]]
    assert data.test.features.lengths.tolist() == [0, 0]
    got = np.asarray(data.train.features.streams[0])
    np.testing.assert_array_equal(got, whole.streams[0][whole.starts[2] :])


@pytest.mark.usefixtures("kept_steps")
@pytest.mark.parametrize("name", [*WRITERS, "published", "a2cl_pt"])
def test_every_layout_can_be_trained_on(name, tmp_path):
    if name in WRITERS:
        WRITERS[name](tmp_path / "set")
    else:
        layout_folders.write_activitynet(tmp_path / "other")
        write = {"published": write_dataset, "a2cl_pt": write_a2cl_pt}[name]
        write(LAYOUTS["activitynet"].read(tmp_path / "other"), tmp_path / "set")
    data = LAYOUTS[find_layout(tmp_path / "set")].read(tmp_path / "set", streams=("features",))
    trained = train(data, CONFIG, tmp_path / "run", devices=1)
    assert int(trained.state.step) == 2
    change = [
        np.abs(np.asarray(new) - np.asarray(old)).max()
        for new, old in zip(jax.tree.leaves(trained.state.params), jax.tree.leaves(trained.initial.params), strict=True)
    ]
    assert np.isfinite(change).all()
    assert max(change) > 0
