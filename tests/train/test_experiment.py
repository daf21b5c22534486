"""Whole runs: what they write, what the command line accepts and refuses."""

import csv
import json

import numpy as np
import pytest
from rich.console import Console

from casejax.data.synthetic import make_world
from casejax.evaluate.detection import evaluate_detections
from casejax.evaluate.results import parse_results
from casejax.report import pictures
from casejax.run.config import Config
from casejax.train.experiment import run

SMALL = Config.of("case").changed(
    num_clusters=4, hidden=32, num_snippets=48, batch_size=8, learning_rate=2e-3, epochs=40, log_every=20
)


@pytest.fixture(scope="module")
def world():
    return make_world(num_classes=4, dim=16, train_videos=24, test_videos=16, median=60, longest=400, noise=0.3)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with (out / "printed").open("w") as file:
        result = run(world, SMALL, out, devices=1, console=Console(file=file, width=100))
    return result, out


def test_a_run_learns(finished):
    result, _ = finished
    assert result.detection.average(0.1, 0.7) > 3 * result.untrained.average(0.1, 0.7)
    assert result.detection.average(0.1, 0.7) > 0.1


def test_the_table_is_printed_with_its_protocol(finished, world):
    result, out = finished
    printed = (out / "printed").read_text()
    variant, first, *rest = printed.splitlines()
    assert variant == "method case, official with num_clusters=4, num_snippets=48"
    assert first.startswith("protocol case: ")
    assert f"16 videos, {len(world.test.ground_truth(world.classes).label)} instances" in first
    assert first.endswith("model selection: last step")
    trained = next(line for line in rest if line.startswith("trained ")).split()
    want = [*result.detection.mean_ap, *(result.detection.average(*r) for r in ((0.1, 0.5), (0.3, 0.7), (0.1, 0.7)))]
    assert trained[1:] == [f"{100 * value:.1f}" for value in [*want, *result.classification]]
    header = " ".join(rest[:2])
    for word in ("0.1:0.5", "0.3:0.7", "0.1:0.7", "acc", "mAP", "0.7"):
        assert word in header
    assert any(line.startswith("untrained ") for line in rest)


def test_predictions_read_back_to_the_same_map(finished, world):
    result, out = finished
    document = json.loads((out / "predictions.json").read_text())
    assert set(document["results"]) == {video.id for video in world.test.videos}
    table, *unknown = parse_results(document, [v.id for v in world.test.videos], world.classes)
    assert not any(unknown)
    again = evaluate_detections(table, world.test.ground_truth(world.classes), world.classes)
    np.testing.assert_allclose(again.ap, result.detection.ap, atol=1e-12)


def test_everything_is_left_in_the_folder(finished, world):
    result, out = finished
    rows = list(csv.DictReader((out / "average_precision.csv").open()))
    assert [row["class"] for row in rows] == list(world.classes)
    np.testing.assert_allclose([float(row["AP@0.5"]) for row in rows], result.detection.ap[:, 4], atol=1e-6)
    assert Config.from_dict(json.loads((out / "config.json").read_text())) == SMALL
    stored = json.loads((out / "results.json").read_text())
    np.testing.assert_allclose(stored["trained"]["average_mAP"]["0.1:0.7"], result.detection.average(0.1, 0.7))
    pictures = sorted(path.name for path in (out / "pictures").iterdir())
    assert {"curves.png", "clusters.png"} < set(pictures)
    assert len([name for name in pictures if name.startswith("timeline_test_")]) == 4
    assert all((out / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    assert not list(out.rglob("*.partial"))


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw_pictures", lambda *_, **__: None)


@pytest.mark.usefixtures("no_pictures")
def test_resuming_a_finished_run_prints_the_same_table(finished, world, tmp_path):
    result, out = finished
    again = run(world, SMALL, out, resume=True, devices=1, console=Console(file=(tmp_path / "x").open("w")))
    np.testing.assert_array_equal(again.detection.ap, result.detection.ap)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_other_suppressions_and_fusions_evaluate(finished, world, tmp_path, nms):
    """Options of inference may change on a finished run, without training again."""
    _, out = finished
    config = SMALL.changed(nms=nms, transformed_weight=0.0, test_cas_weight=1 / 3, nms_plus_one=False)
    again = run(world, config, out, resume=True, devices=1, console=Console(file=(tmp_path / "x").open("w")))
    assert 0 < again.detection.average(0.1, 0.7) < 1
