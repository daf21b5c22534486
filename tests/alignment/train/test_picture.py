import re
import sys

import numpy as np
import pytest

from casejax.alignment.train import picture as plot_alignment
from casejax.data.poses import Poses
from casejax.report import canvas


def arguments(rng, n=9, m=12, **changes):
    joints = np.ones(13, bool)
    path = np.stack([np.minimum(np.arange(m), n - 1), np.arange(m)], axis=1)
    values = {
        "title": "0001 and 0002",
        "reference": Poses(rng.normal(size=(n, 13, 2)).astype(np.float32), joints),
        "other": Poses(rng.normal(size=(m, 13, 2)).astype(np.float32), joints),
        "distances": rng.random((n, m)),
        "matches": np.minimum(np.arange(n) + 2, m - 1),
        "path": path,
        "num_skeletons": 4,
    }
    return values | changes


def test_strips_lines_matrix_and_path(rng, tmp_path):
    given = arguments(rng)
    figure = plot_alignment.synchronised_poses(**given)
    canvas.save(figure, tmp_path / "figure.png")  # a warning of the renderer fails the test
    assert figure.get_size_inches()[0] * figure.dpi == 1200
    strips, matrix = figure.axes
    texts = [text.get_text() for text in strips.texts]
    for i in (0, 3, 5, 8):
        assert str(i) in texts
        assert str(given["matches"][i]) in texts
    np.testing.assert_allclose(matrix.images[0].get_array(), np.sqrt(given["distances"]))
    lines = {line.get_label(): line.get_xydata() for line in matrix.lines}
    np.testing.assert_array_equal(lines["path"], given["path"][:, ::-1])
    np.testing.assert_array_equal(lines["matches"], np.stack([given["matches"], np.arange(9)], axis=1))
    between = [line for line in strips.lines if list(line.get_ydata()) == [1.8, 1.2]]
    assert len(between) == 9  # one a frame of the reference
    for i, line in enumerate(between):
        np.testing.assert_allclose(line.get_xdata(), [0.5 + 3 * i / 8, 0.5 + 3 * given["matches"][i] / 11])


def test_skeletons_stand_upright_and_leave_out_what_is_masked(rng):
    def strips(joints):
        pose = np.zeros((1, 13, 2), np.float32)
        pose[0, 0] = 0, -1.5  # up is negative in a picture
        pose[0, [1, 2]] = 0, -1
        one = Poses(pose * joints[:, None], joints)
        values = arguments(
            rng, reference=one, other=one, distances=np.ones((1, 1)), matches=np.zeros(1, int), path=None
        )
        return plot_alignment.synchronised_poses(**values).axes[0]

    everything, joints = strips(np.ones(13, bool)), np.ones(13, bool)
    joints[[0, 9]] = False
    masked = strips(joints)
    assert len(everything.lines) - len(masked.lines) == 2  # the heads of both
    whole, part = (sum(len(line.get_xdata()) for line in ax.lines) for ax in (everything, masked))
    assert whole - part == 2 * 3  # the head, the end of the neck, and the knee
    for some in ([], [0], [1, 7], [2, 11], [0, 9, 12]):
        joints = np.isin(np.arange(13), some)
        for line in strips(joints).lines:
            assert np.isfinite(line.get_xydata()).all()
    heads = [line.get_ydata()[0] for line in everything.lines if line.get_markersize() == 4.5]
    hips = (2.45, 0.55)
    assert all(head > hip for head, hip in zip(heads, hips, strict=True))


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        (r"shape \(9, 12\) and 9 matches, got \(2, 2\)", {"distances": np.ones((2, 2))}),
        ("and 9 matches", {"matches": np.zeros(4, int)}),
        ("frames from 0 to 11, got 0 to 40", {"matches": np.array([40] + [0] * 8)}),
        ("path must hold frames", {"path": np.array([[9, 0]])}),
        ("numbers >= 0, got -1", {"distances": -np.ones((9, 12))}),
        ("at least 1, got 0", {"num_skeletons": 0}),
        (r"reference has poses of shape \(9, 26, 2\)", {"reference": Poses(np.ones((9, 26, 2)), np.ones(26, bool))}),
        (
            "other holds positions that are not finite",
            {"other": Poses(np.full((12, 13, 2), np.nan), np.ones(13, bool))},
        ),
    ],
)
def test_bad_input_is_refused(rng, says, changes):
    with pytest.raises(ValueError, match=says):
        plot_alignment.synchronised_poses(**arguments(rng, **changes))


def test_infinite_distances_stay_blank(rng, tmp_path):
    figure = plot_alignment.synchronised_poses(**arguments(rng, distances=np.full((9, 12), np.inf)))
    canvas.save(figure, tmp_path / "figure.png")


def test_without_matplotlib_the_extra_is_named(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'casejax[plots]'")):
        plot_alignment.synchronised_poses(**arguments(rng))
