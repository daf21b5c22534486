"""Whole runs: what they write, what the command line accepts and refuses."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from casejax.data.layouts.published import write_dataset
from casejax.data.synthetic import make_world
from casejax.evaluate.detection import evaluate_detections
from casejax.evaluate.results import parse_results
from casejax.methods.case.variants import CORRECTED, OFFICIAL
from casejax.report import pictures
from casejax.run.config import Config
from casejax.train.experiment import run

SMALL = Config.of("case").changed(
    num_clusters=4, hidden=32, num_snippets=48, batch_size=8, learning_rate=2e-3, epochs=40, log_every=20
)


@pytest.fixture(scope="module")
def example():
    path = Path(__file__).parents[2] / "examples" / "train_thumos.py"
    spec = importlib.util.spec_from_file_location("train_thumos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert variant == "variant official with num_snippets=48"
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
    assert not list(out.rglob("*.tmp"))


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "draw_pictures", lambda *_: None)


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


# The command


def call(example, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train_thumos.py", *map(str, words)])
    return example.main()


def test_every_option_is_a_flag(example, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(example, monkeypatch, "--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for group in Config.of("case").as_dict().values():
        for name in group:
            assert f"--{name.replace('_', '-')}" in text, name


def test_bad_data_stops_before_anything_is_written(example, monkeypatch, capsys, tmp_path, world):
    write_dataset(world, tmp_path / "data")
    broken = sorted((tmp_path / "data" / "features" / "train" / "flow").iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:-7])
    assert call(example, monkeypatch, "--data", tmp_path / "data", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(broken) in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prior-std", "0"], "prior_std must be positive, got 0.0"),
        (["--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--cas-weight", "2"], r"cas_weight must lie in [0, 1], got 2.0"),
        (["--streams", "rgb,depth"], "depth"),
        (["--streams", "rgb,rgb"], "streams must name each stream once"),
        (["--batch-size", "400"], "24 training videos do not fill one batch of 400"),
        (["--devices", "50"], "--devices 50"),
    ],
)
def test_unusable_options_are_refused(example, monkeypatch, capsys, tmp_path, world, words, message):
    write_dataset(world, tmp_path / "data")
    assert call(example, monkeypatch, "--data", tmp_path / "data", "--out", tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(example, monkeypatch, capsys, tmp_path, world):
    write_dataset(world, tmp_path / "data")
    (tmp_path / "out").write_text("mine")
    assert call(example, monkeypatch, "--data", tmp_path / "data", "--out", tmp_path / "out", "--batch-size", 8) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_options_given_replace_those_of_the_base(example, monkeypatch):
    seen = {}
    monkeypatch.setattr(example, "run", lambda dataset, config, out, **rest: seen.update(config=config, **rest))
    monkeypatch.setattr(example, "read_dataset", lambda *a, **k: None)
    words = "--data x --epochs 7 --no-prior --sinkhorn-tolerance 1e-3 --rank true --devices 2 --resume"
    assert call(example, monkeypatch, *words.split()) == 0
    want = CORRECTED.changed(epochs=7, prior=False, sinkhorn_tolerance=1e-3, rank="true")
    assert seen == {"config": want, "devices": 2, "resume": True}
    assert call(example, monkeypatch, *words.split(), "--variant", "official") == 0
    assert seen["config"] == OFFICIAL.changed(epochs=7, prior=False, sinkhorn_tolerance=1e-3, rank="true")


def test_seeds_on_the_command_line(example, monkeypatch):
    seen = {}
    monkeypatch.setattr(example, "run_seeds", lambda dataset, config, out, seeds, **rest: seen.update(seeds=seeds))
    monkeypatch.setattr(example, "read_dataset", lambda *a, **k: None)
    assert call(example, monkeypatch, "--data", "x", "--seeds", "0-2") == 0
    assert seen == {"seeds": (0, 1, 2)}


def test_configurations_survive_json():
    config = Config.of("case").changed(epochs=3, sinkhorn_tolerance=None, nms="soft")
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(ValueError, match=r"unknown options \['train.speed'\]"):
        Config.from_dict({"train": {"speed": 3}})
    with pytest.raises(ValueError, match=r"unknown options: \['speed'\]"):
        Config.of("case").changed(speed=3)
