"""Packed features: what is written, when it is written again, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from casejax.data import store
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.synthetic import make_world
from casejax.errors import DataError


@pytest.fixture(scope="module")
def world():
    return make_world(seed=3, num_classes=2, train_videos=8, test_videos=6, dim=6)


@pytest.fixture
def root(world, tmp_path):
    write_dataset(world, tmp_path / "world")
    return tmp_path / "world"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_features(got, want):
    np.testing.assert_array_equal(got.lengths, want.lengths)
    np.testing.assert_array_equal(got.starts, want.starts)
    for mine, theirs in zip(got.streams, want.streams, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_packed_features_are_those_of_the_files(root, tmp_path):
    want = read_dataset(root)
    for _ in range(2):  # written, then only opened
        got = read_dataset(root, packed=tmp_path / "packed")
        for split in ("train", "test"):
            assert_same_features(getattr(got, split).features, getattr(want, split).features)
            assert not getattr(got, split).features.streams[0].flags.writeable
    assert len(files(tmp_path / "packed")) == 4  # two splits, a description each, nothing half-written


def test_bfloat16_halves_the_file_and_rounds(root, tmp_path):
    want = read_dataset(root).train.features
    got = read_dataset(root, packed=tmp_path / "packed", packed_dtype="bfloat16").train.features
    assert sum(stream.nbytes for stream in got.streams) * 2 == sum(stream.nbytes for stream in want.streams)
    for mine, theirs in zip(got.streams, want.streams, strict=True):
        np.testing.assert_allclose(mine.astype(np.float32), theirs, rtol=2**-8)
    with pytest.raises(ValueError, match="one of float32, bfloat16, not int8"):
        read_dataset(root, packed=tmp_path / "packed", packed_dtype="int8")


def test_the_file_is_not_written_again_while_its_sources_stay(root, tmp_path):
    read_dataset(root, packed=tmp_path / "packed")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").iterdir()}
    read_dataset(root, packed=tmp_path / "packed")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").iterdir()}


def test_a_changed_source_is_packed_again_and_the_old_file_goes(root, tmp_path):
    read_dataset(root, packed=tmp_path / "packed")
    before = files(tmp_path / "packed")
    path = next((root / "features" / "train" / "rgb").iterdir())
    changed = np.load(path) + 1
    np.save(path, changed)
    os.utime(path, ns=(0, 123))  # same size, another time
    got = read_dataset(root, packed=tmp_path / "packed").train
    v = [video.id for video in got.videos].index(path.stem)
    np.testing.assert_array_equal(got.features.streams[0][got.features.rows(v)], changed)
    after = files(tmp_path / "packed")
    assert len(after) == 4
    assert len(set(after) & set(before)) == 2  # the test split's


def test_streams_of_another_order_are_another_file(root, tmp_path):
    one = read_dataset(root, packed=tmp_path / "packed").train.features
    other = read_dataset(root, streams=("flow", "rgb"), packed=tmp_path / "packed").train.features
    np.testing.assert_array_equal(one.streams[0], other.streams[1])


def test_a_write_that_fails_leaves_nothing(root, tmp_path):
    path = sorted((root / "features" / "train" / "flow").iterdir())[-1]
    broken = np.load(path)
    broken[-1, -1] = np.nan
    np.save(path, broken)
    with pytest.raises(DataError, match=f"{path.name}: 1 NaN"):
        read_dataset(root, packed=tmp_path / "packed")
    assert files(tmp_path / "packed") == []


def damage(folder: Path, how: str) -> str:
    features, about = (next(folder.glob(f"train-*.{suffix}")) for suffix in ("features", "json"))
    if how == "bit":
        data = bytearray(features.read_bytes())
        data[100] ^= 1
        features.write_bytes(data)
        return f"{features.name}: checksum .* delete .*{about.name}"
    if how == "short":
        features.write_bytes(features.read_bytes()[:-4])
        return f"{features.name}: .* bytes where {about.name} promises"
    if how == "missing":
        features.unlink()
        return f"{features.name}: no such file where {about.name} promises"
    if how == "json":
        about.write_text("{")
        return f"{about.name}: is damaged"
    stored = json.loads(about.read_text())
    about.write_text(json.dumps(stored | {"dims": [1, 2]}))
    return f"{about.name}: describes other features"


@pytest.mark.parametrize("how", ["bit", "short", "missing", "json", "other"])
def test_a_damaged_file_is_refused_and_its_remedy_works(root, tmp_path, how):
    folder = tmp_path / "packed"
    want = read_dataset(root).train.features
    read_dataset(root, packed=folder)
    message = damage(folder, how)
    with pytest.raises(DataError, match=message):
        read_dataset(root, packed=folder)
    next(folder.glob("train-*.json")).unlink()
    assert_same_features(read_dataset(root, packed=folder).train.features, want)


def test_a_folder_that_cannot_be_written_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot be kept there .* --packed"):
        read_dataset(root, packed=tmp_path / "file")


def test_release_keeps_the_values(root, tmp_path):
    features = read_dataset(root, packed=tmp_path / "packed").train.features
    before = features.streams[0].copy()
    store.release(features)
    np.testing.assert_array_equal(features.streams[0], before)


@pytest.mark.parametrize("packed", [False, True])
def test_each_of_several_processes_reads_its_part_alone(root, tmp_path, packed):
    whole = read_dataset(root)
    folder = tmp_path / "packed" if packed else None
    seen = np.zeros(len(whole.train.videos), int)
    for part in range(3):
        # of the videos of other parts, not even the header is read
        own = read_dataset(root, packed=folder, part=part, parts=3)
        assert own.classes == whole.classes
        assert [v.id for v in own.train.videos] == [v.id for v in whole.train.videos]
        here = own.train.features.lengths > 0
        seen += here
        for v in np.flatnonzero(here):
            mine, theirs = own.train.features, whole.train.features
            np.testing.assert_array_equal(mine.streams[1][mine.rows(v)], theirs.streams[1][theirs.rows(v)])
        assert (own.test.features.lengths > 0).all() == (part == 0)
    np.testing.assert_array_equal(seen, 1)


def test_a_process_needs_no_file_of_another_part(root, world):
    for video in world.train.videos[4:]:
        for stream in ("rgb", "flow"):
            (root / "features" / "train" / stream / f"{video.id}.npy").unlink()
    read_dataset(root, part=0, parts=2)
    with pytest.raises(DataError, match="no such feature file"):
        read_dataset(root, part=1, parts=2)
    with pytest.raises(DataError, match="8 training videos leave none to process 8 of 9"):
        read_dataset(root, part=8, parts=9)
