"""Windows of a video, batch by batch, are those that are cut out of the whole."""

import itertools
import threading

import numpy as np
import pytest

from casejax.features import Cutting
from casejax.features.windows import prepared


def differences(pictures):
    """A flow that is easily told: the difference of two channels."""
    return [(b.astype(np.float32) - a)[:, :, :2] for a, b in itertools.pairwise(pictures)]


def rows_of(cutting, pictures, flow, first):
    """The windows that come out, by row."""
    found = {}
    for stretch in cutting.stretches(pictures[first * cutting.stride :], flow, first):
        assert stretch.rgb.shape == (cutting.length, 6, 6, 3)
        for i in range(stretch.rows):
            at = slice(i * cutting.stride, i * cutting.stride + cutting.window)
            found[stretch.first + i] = stretch.rgb[at], None if flow is None else stretch.flow[at]
    return found


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (4, 4), (4, 1), (4, 3), (3, 5), (3, 7), (2, 3)])
def test_windows_are_those_of_the_whole(rng, window, stride, batch):
    cutting = Cutting(window, stride, batch, 6)
    for length in range(1, 26):
        pictures = list(rng.integers(0, 255, (length, 6, 8, 3)).astype(np.uint8))
        moves = differences(pictures)
        moves.append(moves[-1] if moves else np.zeros((6, 8, 2), np.float32))
        still = np.zeros((6, 8, 2), np.float32)
        rows = max(1, len(range(0, length - window + 1, stride)))
        assert cutting.rows(length) == rows
        for flow, first in itertools.product([None, differences] if window > 1 else [None], [0, 1, 2]):
            found = rows_of(cutting, pictures, flow, first)
            assert list(found) == list(range(first, rows))
            for row, (rgb, motion) in found.items():
                at = range(row * stride, row * stride + window)
                np.testing.assert_array_equal(rgb, [pictures[min(i, length - 1)][:, 1:7] for i in at])
                if flow is not None:
                    np.testing.assert_array_equal(motion, [(moves[i] if i < length else still)[:, 1:7] for i in at])


def test_items_are_made_ahead_and_errors_come_through():
    made = []

    def items():
        for i in range(4):
            made.append(i)
            yield i
        raise KeyError("the fifth")

    before = threading.active_count()
    with prepared(items()) as coming:
        assert [next(coming) for _ in range(4)] == made == [0, 1, 2, 3]
        with pytest.raises(KeyError, match="the fifth"):
            next(coming)
    with prepared(iter(range(1000))) as coming:
        assert next(coming) == 0
    assert threading.active_count() == before
