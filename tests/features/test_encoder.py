"""Pictures that are written to a video come out of it again."""

import numpy as np
import pytest

from casejax.errors import OptionError
from casejax.features import probe, read_frames, write_video

pytest.importorskip("av")


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47)])
def test_what_is_written_is_read(tmp_path, height, width):
    y, x = np.mgrid[:height, :width]
    pictures = [np.stack([4 * y, 4 * x, 0 * x + 5 * i], axis=2).astype(np.uint8) for i in range(30)]
    write_video(tmp_path / "new" / "video.mp4", pictures, fps=10)
    found = list(read_frames(tmp_path / "new" / "video.mp4", fps=10, short_side=32))
    assert len(found) == 30
    assert probe(tmp_path / "new" / "video.mp4").fps == 10
    for one, other in zip(pictures, found, strict=True):
        even = one[: height - height % 2, : width - width % 2]
        assert np.abs(other.astype(int) - even).mean() < 4


def test_nothing_is_left_of_what_cannot_be_written(tmp_path):
    picture = np.zeros((32, 48, 3), np.uint8)
    for pictures, said in (([], "no picture"), ([picture, picture[:16]], "of one size")):
        with pytest.raises(OptionError, match=rf"video\.mp4: .*{said}"):
            write_video(tmp_path / "video.mp4", pictures)
    assert not list(tmp_path.iterdir())
