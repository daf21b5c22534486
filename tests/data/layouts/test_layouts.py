"""Whatever holds for every layout in the list."""

import numpy as np
import pytest

from casejax.data import LAYOUTS, make_world
from casejax.errors import DataError


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.write])
def test_what_a_layout_writes_it_reads(name, tmp_path):
    world = make_world(num_classes=2, dim=4, train_videos=6, test_videos=6, median=20, longest=40)
    LAYOUTS[name].write(world, tmp_path / "set")
    got = LAYOUTS[name].read(tmp_path / "set", streams=("rgb", "flow"))
    assert (got.classes, got.streams, got.dims) == (world.classes, world.streams, world.dims)
    for mine, theirs in ((got.train, world.train), (got.test, world.test)):
        assert [video.id for video in mine.videos] == [video.id for video in theirs.videos]
        assert mine.ambiguous.video.size == 0
        np.testing.assert_array_equal(mine.features.streams[1], theirs.features.streams[1])
    with pytest.raises(DataError, match="set: exists already"):
        LAYOUTS[name].write(world, tmp_path / "set")
    with pytest.raises(DataError, match=r"once, .*'rgb', 'rgb'"):
        LAYOUTS[name].read(tmp_path / "set", streams=("rgb", "rgb"))
    with pytest.raises(DataError, match="none: no such folder"):
        LAYOUTS[name].read(tmp_path / "none")
