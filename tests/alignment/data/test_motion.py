"""The invented world of motion: reproducible, of the shapes of real annotations, and not told by the clock."""

import numpy as np
import pytest

from casejax.alignment.data.motion import make_motion


@pytest.fixture(scope="module")
def motion():
    return make_motion(num_actions=2, train_videos=4, test_videos=3, shortest=20, longest=60)


def test_a_seed_gives_the_same_videos(motion):
    again = make_motion(num_actions=2, train_videos=4, test_videos=3, shortest=20, longest=60)
    other = make_motion(seed=1, num_actions=2, train_videos=4, test_videos=3, shortest=20, longest=60)
    for a, b in zip(motion, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    assert any(a.positions.shape != b.positions.shape for a, b in zip(motion, other, strict=True))


def test_videos_look_like_annotated_ones(motion):
    assert len(motion) == 14
    assert sum(track.train for track in motion) == 8
    assert len({track.name for track in motion}) == 14
    for track in motion:
        assert 20 <= len(track) <= 60
        assert track.positions.shape == (len(track), 13, 2)
        assert track.positions.dtype == np.float32
        width, height = track.image_size
        assert (track.positions >= 0).all()
        assert (track.positions < [width, height]).all()
        assert (track.bbox[:, :2] < track.bbox[:, 2:]).all()
        inside = (track.positions >= track.bbox[:, None, :2]) & (track.positions <= track.bbox[:, None, 2:])
        assert inside[track.visible].all()
    hidden = 1 - np.mean(np.concatenate([track.visible.ravel() for track in motion]))
    assert 0.05 < hidden < 0.4
    assert {track.viewpoint for track in motion} == {"front", "back"}


def test_hidden_joints_carry_junk(motion):
    junk = np.concatenate([track.positions[~track.visible] for track in motion])
    assert len(junk)
    assert (junk == 1).all()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"num_actions must lie in \[1, 8\], got 9"):
        make_motion(num_actions=9)
    with pytest.raises(ValueError, match="got 40 and 30"):
        make_motion(shortest=40, longest=30)
