"""Optical flow of pictures that are moved by a known number of pixels."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from casejax.errors import OptionError
from casejax.features import optical_flow

cv2 = pytest.importorskip("cv2")


def moved(rng, x, y):
    """Smooth texture (80, 96), and the same moved by (x, y) pixels."""
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (120, 136)).astype(np.float32), (0, 0), 2)
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    moves = [np.asarray([[1, 0, -a], [0, 1, -b]], np.float32) for a, b in ((0, 0), (x, y))]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    found = [cv2.warpAffine(texture, move, (136, 120), flags=flags)[20:100, 20:116] for move in moves]
    return [np.repeat(np.clip(each, 0, 255)[:, :, None].astype(np.uint8), 3, axis=2) for each in found]


@pytest.mark.parametrize("kind", ["tvl1", "dis"])
@pytest.mark.parametrize("move", [(2.0, -1.0), (-0.5, 1.5), (0.0, 0.0)])
def test_a_translation_is_found(rng, kind, move):
    (found,) = optical_flow(moved(rng, *move), kind)
    assert found.shape == (80, 96, 2)
    assert found.dtype == np.float32
    inner = found[10:-10, 10:-10].reshape(-1, 2)
    np.testing.assert_allclose(np.median(inner, axis=0), move, atol=0.1)
    assert np.abs(inner - move).mean() < 0.1


@pytest.mark.parametrize("kind", ["tvl1", "dis"])
def test_threads_and_neighbours_change_nothing(rng, kind):
    pictures = [*moved(rng, 1, 2), *moved(rng, -1, 0)]
    alone = [optical_flow(pictures[i : i + 2], kind)[0] for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for found in (optical_flow(pictures, kind), optical_flow(pictures, kind, pool)):
            np.testing.assert_array_equal(found, alone)


def test_far_moves_are_clipped_and_cuts_are_still(rng):
    one, other = moved(rng, 0, 0)[0], rng.integers(0, 255, (80, 96, 3)).astype(np.uint8)
    far = np.abs(optical_flow([one, other], "dis")[0])
    assert 0 < far.max() <= 20
    (cut,) = optical_flow([one, other[:40]])
    assert cut.shape == (80, 96, 2)
    assert not cut.any()
    assert optical_flow([one]) == []


def test_what_is_missing_is_named(rng, monkeypatch):
    with pytest.raises(OptionError, match="flow must be one of tvl1, dis, got 'farneback'"):
        optical_flow(moved(rng, 0, 0), "farneback")
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(OptionError, match="opencv-contrib-python-headless"):
        optical_flow(moved(rng, 0, 0))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(OptionError, match="flow needs OpenCV"):
        optical_flow(moved(rng, 0, 0), "dis")
