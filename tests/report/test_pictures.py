import itertools
import sys

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from casejax.records import Dataset, Features, SegmentTable, SnippetScores, Split, Timing, Video
from casejax.report import canvas, pictures


def draw(figure, folder):
    """Render, so that a warning of the renderer fails the test."""
    canvas.save(figure, folder / "figure.png")
    return figure


def video(rng, count, **changes):
    arguments = {
        "title": "video_test_0000131",
        "duration": 60.0,
        "ground_truth": [
            ("Diving", np.array([[3.0, 9.0], [20.0, 31.5]])),
            ("Jump", np.array([[40.0, 42.0]])),
        ],
        "curves": {name: rng.uniform(size=count) for name in (pictures.ATTENTION, pictures.CLUSTERS, pictures.FUSED)},
        "predictions": [
            ("Shot", np.array([[50.0, 55.0]]), np.array([0.4])),
            ("Jump", np.array([[40.0, 43.0], [41.0, 44.0]]), np.array([0.3, 0.6])),
            ("Diving", np.array([[2.0, 9.0], [9.0, 12.0], [20.0, 30.0]]), np.array([0.8, 0.1, 0.4])),
        ],
    }
    return arguments | changes


def spans(ax):
    return sorted((bar.get_y() + bar.get_height() / 2, *bar.get_bbox().intervalx) for bar in ax.patches)


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_timeline_rows_bars_curves_and_limits(rng, tmp_path):
    arguments = video(rng, 75)
    figure = draw(pictures.timeline(**arguments), tmp_path)
    truth, curves, found = figure.axes
    np.testing.assert_allclose(spans(truth), [(0, 3, 9), (0, 20, 31.5), (1, 40, 42)])
    assert names(truth) == ["Diving", "Jump"]
    for ax in figure.axes:
        assert ax.get_xlim() == (0, 60)
    assert found.get_xlabel() == "seconds"
    assert figure.texts[0].get_text() == "video_test_0000131"
    assert figure.get_size_inches()[0] * figure.dpi == 1200

    assert [text.get_text() for text in curves.get_legend().get_texts()] == [
        "$P^A$ attention",
        "$P^T$ clusters",
        "$P^M$ fused",
    ]
    for steps, wanted in zip(curves.patches, arguments["curves"].values(), strict=True):
        values, edges, _ = steps.get_data()
        np.testing.assert_array_equal(values, wanted)
        np.testing.assert_allclose(edges, np.arange(76) * 0.8)
    assert curves.get_ylim() == (-0.02, 1.02)
    shades = [c for c in curves.collections if isinstance(c, PolyCollection)]
    assert sum(len(shade.get_paths()) for shade in shades) == 3


def test_timeline_keeps_the_strongest_apart_and_annotated_classes_first(rng, tmp_path):
    found = draw(pictures.timeline(**video(rng, 75)), tmp_path).axes[-1]
    assert names(found) == ["Diving", "Jump", "Shot"]
    # 0.1 is below a fifth of 0.8; the weaker of two overlapping jumps goes.
    np.testing.assert_allclose(spans(found), [(0, 2, 9), (0, 20, 30), (1, 41, 44), (2, 50, 55)])
    assert found.get_title(loc="right") == "opacity is the score, 0.40 to 0.80"
    colors = {bar.get_x(): np.array(bar.get_facecolor()) for bar in found.patches}
    full = np.array(to_rgb(canvas.VERMILLION))
    np.testing.assert_allclose(colors[2.0], [*full, 1])
    np.testing.assert_allclose(colors[20.0], [*(0.5 * full + 0.5), 1])


def test_timeline_limits_the_classes(rng, tmp_path):
    one = np.array([[1.0, 2.0]])
    predictions = [(f"class {i}", one, np.array([0.5 + i / 100])) for i in range(pictures.MAX_LANES + 3)]
    found = draw(pictures.timeline(**video(rng, 9, predictions=predictions)), tmp_path).axes[-1]
    assert names(found) == [f"class {i}" for i in reversed(range(3, pictures.MAX_LANES + 3))]
    assert found.get_title(loc="right").endswith("weaker classes left out: 3")


@pytest.mark.parametrize("scores", [[-0.5, -1.0], [0.0, 0.0]])
def test_timeline_draws_scores_that_are_not_positive(rng, tmp_path, scores):
    predictions = [("Diving", np.array([[1.0, 2.0], [3.0, 4.0]]), np.array(scores))]
    assert len(draw(pictures.timeline(**video(rng, 9, predictions=predictions)), tmp_path).axes[-1].patches) == 2


@pytest.mark.parametrize("count", [1, 9])
def test_timeline_of_nothing(rng, tmp_path, count):
    nothing = [("Diving", np.zeros((0, 2)), np.zeros(0))]
    arguments = video(rng, count, duration=6.0, ground_truth=[], curves={"one": np.zeros(count), "two": np.ones(count)})
    for predictions in ([], nothing):
        figure = draw(pictures.timeline(**arguments | {"predictions": predictions}), tmp_path)
        truth, curves, found = figure.axes
        assert not truth.patches
        assert not found.patches
        assert len(curves.patches) == 2
        assert truth.texts[0].get_text() == "none annotated"
        assert found.texts[0].get_text() == "none found"


def test_timeline_of_many_snippets_gives_each_curve_a_row(rng, tmp_path):
    start = np.sort(rng.uniform(0, 1390, 200))
    segments = np.stack([start, start + 1.5], 1)
    arguments = video(rng, 2187, duration=1400.0, ground_truth=[("CricketShot", segments)])
    figure = draw(pictures.timeline(**arguments), tmp_path)
    truth, *rows, _ = figure.axes
    assert len(truth.patches) == 200
    assert [len(row.patches) for row in rows] == [1, 1, 1]
    assert {row.get_ylim() for row in rows} == {(-0.02, 1.02)}
    assert len(rows[0].get_legend().get_texts()) == 3


def test_timeline_shows_long_and_mathematical_names_whole(rng, tmp_path):
    name = "Putting $5 and $10 notes_into the slot of a vending machine in the hall"
    one = np.array([[1.0, 2.0]])
    arguments = video(rng, 9, title=name * 3, ground_truth=[(name, one)], predictions=[(name, one, np.ones(1))])
    figure = draw(pictures.timeline(**arguments), tmp_path)
    for ax in (figure.axes[0], figure.axes[-1]):
        (label,) = ax.get_yticklabels()
        assert label.get_text().startswith("Putting $5 and $10")
        assert label.get_text().endswith("…")
        assert label.get_window_extent().x0 > 10
    assert figure.texts[0].get_window_extent().x1 < 1200
    ticks = [label.get_window_extent() for label in figure.axes[-1].get_xticklabels()]
    assert max(tick.x1 for tick in ticks) < 1200


def test_timeline_shows_frames_of_the_video_in_their_parts(rng, tmp_path):
    frames = [np.full((40, width, 3), level, np.uint8) for level, width in ((10, 90), (120, 20), (250, 400))]
    for truth in (None, [("Diving", np.array([[3.0, 9.0]]))]):
        figure = draw(pictures.timeline(**video(rng, 75, frames=frames, ground_truth=truth)), tmp_path)
        assert len(figure.axes) == (3 if truth is None else 4)
        first, width = figure.axes[0], figure.axes[0].get_window_extent().width / 3
        assert len(first.images) == 3
        for i, image in enumerate(first.images):
            start, end, *_ = image.get_extent()
            assert 20 * i < start < end < 20 * (i + 1)
            shown = np.asarray(image.get_array())
            assert (shown == frames[i][0, 0, 0]).all()
            # as high and wide as there is room for, so that nothing is stretched
            shape = width / first.get_window_extent().height
            assert shown.shape[1] / shown.shape[0] == pytest.approx(shape, rel=0.08)
        assert first.get_xlim() == (0, 60)


@pytest.mark.parametrize("duration", [0.0, -1.0, np.inf, np.nan])
def test_timeline_refuses_impossible_durations(rng, duration):
    with pytest.raises(ValueError, match="duration"):
        pictures.timeline(**video(rng, 9, duration=duration))


def test_timeline_refuses_curves_of_different_lengths(rng):
    unchecked = getattr(pictures.timeline, "__wrapped__", pictures.timeline)
    with pytest.raises(ValueError, match=r"\(9,\), \(8,\)"):
        unchecked(**video(rng, 9, curves={"one": np.zeros(9), "two": np.zeros(8)}))
    with pytest.raises(ValueError, match="T >= 1"):
        unchecked(**video(rng, 0))


KEYS = [*pictures.LOSSES, *pictures.ENTROPIES, *pictures.ERRORS]


def log(rng, count, keys=KEYS, **constants):
    return [{"step": 10 * i, **dict.fromkeys(keys, rng.uniform(0.1, 1)), **constants} for i in range(count)]


def test_training_curves_hold_every_series_and_ln_k(rng, tmp_path):
    metrics = log(rng, 30, log_num_clusters=np.log(16))
    figure = draw(pictures.training_curves(metrics), tmp_path)
    losses, entropies, _ = figure.axes
    assert [len(ax.lines) for ax in figure.axes] == [5, 4, 2]
    np.testing.assert_array_equal(losses.lines[0].get_xdata(), np.arange(0, 300, 10))
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), [line["loss"] for line in metrics])
    assert entropies.lines[-1].get_linestyle() == "--"
    np.testing.assert_allclose(entropies.lines[-1].get_ydata(), np.log(16))
    assert entropies.lines[-1].get_label() == r"$\ln K$"
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "linear", "log"]
    assert losses.get_ylim()[0] == 0
    for ax in figure.axes:
        assert ax.get_xlabel() == "step"
        assert len(ax.get_legend().get_texts()) == len(ax.lines)
        top = ax.get_legend().get_window_extent().y0
        assert top >= ax.get_window_extent().y1  # the legend stays out of the curves' way


def test_training_curves_draw_means_of_many_lines(rng, tmp_path):
    metrics = [{"step": i, "loss": 2.0} for i in range(200)]
    (ax,) = draw(pictures.training_curves(metrics), tmp_path).axes
    pale, mean = ax.lines
    assert pale.get_alpha() < 0.5
    np.testing.assert_allclose(mean.get_ydata(), 2.0)
    assert len(ax.get_legend().get_texts()) == 1


def test_training_curves_skip_what_is_missing(rng, tmp_path):
    metrics = [
        {"step": 0, "loss": 1.0},
        {"step": 1, "mAP": 0.3},
        {"note": "resumed"},
        {"step": 2, "loss": None},
    ]
    (ax,) = draw(pictures.training_curves(metrics), tmp_path).axes
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), [0, 2])
    np.testing.assert_array_equal(line.get_ydata(), [1, np.nan])
    (entropies,) = draw(pictures.training_curves(log(rng, 3, ["entropy_cluster_labels"])), tmp_path).axes
    assert len(entropies.lines) == 1
    for empty in ([], [{"step": 0, "mAP": 0.3}]):
        figure = draw(pictures.training_curves(empty), tmp_path)
        assert not figure.axes
        assert figure.texts[0].get_text() == "no metrics"


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf])
@pytest.mark.parametrize("count", [1, 120])
def test_training_curves_bear_any_value(tmp_path, value, count):
    metrics = [{"step": i, **dict.fromkeys(KEYS, value)} for i in range(count)]
    assert len(draw(pictures.training_curves(metrics), tmp_path).axes) == 3


def test_cluster_foreground_sorts_every_stream(tmp_path):
    probabilities = np.array([[0.2, 0.9, 0.6], [0.1, 0.5, 0.8]])
    figure = draw(pictures.cluster_foreground(probabilities, ["rgb", "flow"]), tmp_path)
    for ax, heights, order, name, count in zip(
        figure.axes,
        ([0.9, 0.6, 0.2], [0.8, 0.5, 0.1]),
        (["1", "2", "0"], ["2", "1", "0"]),
        ("rgb", "flow"),
        (2, 1),
        strict=True,
    ):
        np.testing.assert_allclose([bar.get_height() for bar in ax.patches], heights)
        assert [label.get_text() for label in ax.get_xticklabels()] == order
        assert ax.get_title(loc="left") == name
        assert ax.get_title(loc="right") == f"{count} of 3 above one half"
        np.testing.assert_allclose(ax.lines[0].get_ydata(), 0.5)
        assert ax.get_ylim() == (0, 1)


@pytest.mark.parametrize("count", [1, 16, 400])
def test_cluster_foreground_names_what_fits(rng, tmp_path, count):
    (ax,) = draw(pictures.cluster_foreground(rng.uniform(size=count), ["fused"]), tmp_path).axes
    assert len(ax.patches) == count
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    assert len(boxes) == count if count <= 16 else len(boxes) > 20
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_cluster_foreground_wants_a_name_a_stream():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        pictures.cluster_foreground(np.full((2, 3), 0.5), ["rgb"])


def test_save_writes_the_same_bytes_and_leaves_nothing_else(rng, tmp_path):
    metrics = log(rng, 5)
    for name in ("a.png", "b.png", "b.png"):
        canvas.save(pictures.training_curves(metrics), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
    written = (tmp_path / "a.png").read_bytes()
    assert written.startswith(b"\x89PNG")
    assert b"Software" not in written
    assert written == (tmp_path / "b.png").read_bytes()


def test_save_that_fails_keeps_the_old_file(rng, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    figure = pictures.training_curves(log(rng, 5))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        canvas.save(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_writes_png_only(rng, tmp_path):
    with pytest.raises(ValueError, match=r"a\.pdf"):
        canvas.save(pictures.training_curves(log(rng, 2)), tmp_path / "a.pdf")
    assert not list(tmp_path.iterdir())


def test_pictures_never_touch_pyplot(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it would fail
    pictures.timeline(**video(rng, 9))
    pictures.training_curves(log(rng, 2))


def test_pictures_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'casejax\[plots\]'"):
        pictures.training_curves([])


def test_a_video_that_nothing_is_known_of_has_no_lane_of_truth(rng, tmp_path):
    annotated, free = (draw(pictures.timeline(**video(rng, 450, ground_truth=truth)), tmp_path) for truth in ([], None))
    assert len(annotated.axes) == 5
    assert len(free.axes) == 4
    assert [len(ax.patches) for ax in free.axes] == [len(ax.patches) for ax in annotated.axes[1:]]
    assert all(ax.get_title(loc="left") != "Ground truth" for ax in free.axes)
    assert any(text.get_text() == "none annotated" for text in annotated.axes[0].texts)
    assert free.axes[0].get_legend() is not None


def dataset_of(lengths, offset=0.0, streams=1):
    """Videos with a row a second, `offset` seconds after their start, each with an instance at [2, 4]."""
    features = Features.end_to_end(tuple(np.zeros((sum(lengths), 3), np.float32) for _ in range(streams)), lengths)
    instance = {"segments": np.array([[2.0, 4.0]]), "segment_labels": ("Dive",)}
    videos = tuple(Video(f"v{i}", "test", duration=offset + n, **instance) for i, n in enumerate(lengths))
    none = Split("train", (), Features.end_to_end(tuple(s[:0] for s in features.streams), []))
    timing = Timing(1.0, 1.0, 1.0, offset)
    return Dataset("here", ("Dive", "Jump"), ("rgb", "flow")[:streams], none, Split("test", videos, features), timing)


NOTHING = SegmentTable.from_rows([], [], [])
LENGTHS = [30, 61, 12]


def scores_with_peaks(places, count, names):
    """Scores that are 0.9 at one snippet of each video and 0.1 elsewhere, and 0 in padding behind `places[v][1]`."""
    curve = np.zeros((len(places), count), np.float32)
    for row, (peak, length) in zip(curve, places, strict=True):
        row[:length] = 0.1
        row[peak] = 0.9
    fused = np.stack([curve, curve / 2], axis=2)
    shades = {name: curve * (1 - 0.1 * i) for i, name in enumerate(names)}
    return SnippetScores(fused, np.ones((len(places), 2), np.float32), **shades)


@pytest.mark.parametrize("offset", [0.0, 2.5])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("names", [("attention", "transformed", "foreground"), ("attention",), ()])
def test_a_peak_stands_at_its_second(tmp_path, monkeypatch, whole, offset, names):
    """Whatever the method has, and whether its videos are padded to the longest or resampled."""
    drawn = {}
    monkeypatch.setattr(pictures, "save", lambda figure, path: drawn.update({path.stem: figure}))
    data = dataset_of(LENGTHS, offset)
    seconds = [20, 3, 7]  # of the rows where the peaks are
    if whole:
        scores = scores_with_peaks(list(zip(seconds, LENGTHS, strict=True)), max(LENGTHS), names)
    else:  # 120 snippets of every video
        places = [(120 * s // n, 120) for s, n in zip(seconds, LENGTHS, strict=True)]
        scores = scores_with_peaks(places, 120, names)
    pictures.draw_pictures(tmp_path, data, scores, NOTHING, None, [], whole=whole, timelines=3)
    for v, (second, length) in enumerate(zip(seconds, LENGTHS, strict=True)):
        truth, curves, _ = drawn[f"timeline_v{v}"].axes
        assert truth.get_xlim() == (0, offset + length)
        np.testing.assert_allclose(spans(truth), [(0, 2, 4)])
        assert len(curves.patches) == max(len(names), 1)
        for steps in curves.patches:
            values, edges, _ = steps.get_data()
            assert len(values) == (length if whole else 120)
            np.testing.assert_allclose(edges[[0, -1]], [offset, offset + length])
            peak = edges[np.argmax(values)], edges[np.argmax(values) + 1]
            # a row of features is a second, a resampled snippet a part of one
            assert offset + second - length / 120 <= peak[0] < peak[1] <= offset + second + 1 + 1e-9
            assert values.min() > 0.04  # no padding


def test_equal_curves_and_panels_are_one(tmp_path):
    scores = scores_with_peaks([(3, 12)], 12, ("attention",))
    heading, curves = pictures.score_curves(scores._replace(foreground=scores.attention), 0)
    assert (heading, list(curves)) == ("Foreground probability", [pictures.ATTENTION])
    same = np.array([[0.2, 0.9], [0.2, 0.9]])
    (panel,) = draw(pictures.cluster_foreground(same, ["rgb", "flow"]), tmp_path).axes
    assert panel.get_title(loc="left") == "rgb and flow"
    assert len(pictures.cluster_foreground(same + np.array([[0], [0.01]]), ["rgb", "flow"]).axes) == 2


def test_scores_of_a_method_without_attention_are_drawn_whole(tmp_path):
    scores = scores_with_peaks([(3, 12)], 12, ())
    heading, curves = pictures.score_curves(scores._replace(fused=20 * scores.fused - 5), 0)
    assert (heading, list(curves)) == ("Class scores", [pictures.BEST_CLASS])
    arguments = video(np.random.default_rng(0), 12, curves=curves, heading=heading)
    panel = draw(pictures.timeline(**arguments), tmp_path).axes[1]
    assert panel.get_ylim()[0] < -3 < 13 < panel.get_ylim()[1]
    assert panel.get_title(loc="left") == "Class scores"
