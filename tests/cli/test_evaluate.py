"""`casejax evaluate`, and the benchmark that compares published detections with their printed mAP."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from casejax.cli import main as cli
from casejax.evaluate.protocols import PROTOCOLS

ENTRIES = [
    {"label": "Dive", "segment": [0, 6], "score": 0.9},
    {"label": "Dive", "segment": [20, 26], "score": 0.5},
    {"label": "Dive", "segment": [10, 16], "score": 0.2},
]
TRUTH = [{key: entry[key] for key in ("label", "segment")} for entry in (ENTRIES[0], ENTRIES[2])]


@pytest.fixture
def words(tmp_path):
    found, gt = tmp_path / "found.json", tmp_path / "gt.json"
    found.write_text(json.dumps({"results": {"v_one": ENTRIES}}))
    gt.write_text(json.dumps({"database": {"one": {"subset": "test", "annotations": TRUTH}}}))
    return ["evaluate", str(found), "--truth", str(gt), "--resamples", "5"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_file_is_judged_under_a_protocol_by_name(words, name, capsys, tmp_path):
    out = tmp_path / "out.json"
    assert cli.main([*words, "--protocol", name, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"protocol {name}: ")
    summary = json.loads(out.read_text())
    assert summary["protocol"]["description"] == printed.splitlines()[0]
    assert summary["mAP"]["0.50"] == pytest.approx((1 + 2 / 3) / 2)
    assert "83.3" in printed


def test_json_alone_goes_to_standard_output(words, capsys):
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["name"] == "case"


def test_snippets_have_the_length_that_is_said(words, capsys):
    """In snippets of 6 s, 0:6 and 10:16 are one snippet each, 20:26 is 3:4."""
    values = []
    for options in (["--snippet-seconds", "100"], ["--fps", "0.16"], ["--fps", "25"], []):
        assert cli.main([*words, "--protocol", "a2clpt", "--json", *options]) == 0
        values.append(json.loads(capsys.readouterr().out)["mAP"]["0.10"])
    assert values[:2] == [0, 0]  # all times round to the same snippet
    assert values[2] == values[3] > 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--subset", "val"], "error: {gt}: no video of subset 'val'; it has 'test' (1 videos)"),
        (["--classes", "missing.txt"], "error: missing.txt: no such file"),
        (["--json", "."], "error: --json .: is a folder"),
    ],
)
def test_what_cannot_be_used_ends_in_one_line(words, more, message, capsys):
    assert cli.main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message.format(gt=words[3]))
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "more",
    [
        ["--protocol", "mine"],
        ["--fps", "0"],
        ["--fps", "25", "--snippet-seconds", "1"],
        ["--resamples", "0"],
        ["--subset", "test", "--split", "x"],
    ],
)
def test_options_outside_their_range(words, more, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, *more])
    assert capsys.readouterr().err.startswith("error: ")


# Published detections


@pytest.fixture(scope="module")
def published():
    path = Path(__file__).parents[2] / "benchmarks" / "published_results.py"
    spec = importlib.util.spec_from_file_location("published_results", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["published_results"] = module
    spec.loader.exec_module(module)
    return module


def arrays(**changed):
    """Two classes: one is found at rank 1, of the other one instance of two at rank 2; mAP (1 + 1/4) / 2."""
    return {
        "video": np.array([0, 1, 1]),
        "label": np.array([0, 1, 1]),
        "segment": np.array([[0, 0.5], [0.8, 0.9], [0.1, 0.2]]),
        "score": np.array([0.5, 0.9, 0.8]),
        "truth_video": np.array([0, 1, 1]),
        "truth_label": np.array([0, 1, 1]),
        "truth_segment": np.array([[0, 0.5], [0.1, 0.2], [0.4, 0.6]]),
        "tiou": np.array([0.1, 0.5]),
        "mean_ap": np.array([0.625, 0.625]),
    } | changed


def test_the_published_values_stand_beside_ours(published, tmp_path, capsys):
    path = tmp_path / "detections.npz"
    np.savez(path, **arrays())
    assert published.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 detections; protocol case: detections.npz, 2 videos, 3 instances" in lines[0]
    assert lines[-2].split() == ["0.5", "0.625", "0.625", "0.625000", "yes"]
    assert lines[-1] == "2 of 2 values agree to the printed digit"
    np.savez(path, **arrays(mean_ap=np.array([0.6, 0.7])))
    assert published.main([str(path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 values agree to the printed digit"


def test_published_values_of_a_results_file(published, words, capsys):
    more = [words[1], "--truth", words[3], "--tious", ".3,.5"]
    assert published.main([*more, "--published", ".83,.83"]) == 0
    assert "2 of 2 values agree" in capsys.readouterr().out
    assert published.main([*more, "--published", ".83"]) == 2
    assert "1 values for the 2 tIoU thresholds 0.3, 0.5" in capsys.readouterr().err
    assert published.main([words[1]]) == 2
    assert "needs --truth and --published" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"score": np.zeros(2)}, "cannot reshape"),
        ({"tiou": np.zeros(3)}, "cannot reshape"),
        ({"video": np.array([0, -1, 1])}, "a negative index in video or label"),
        ({"score": np.array([0.5, None, 1], object)}, "Object arrays cannot be loaded"),
        ({"score": np.array([0.5, np.nan, 1])}, "predictions, row 1: .* must be finite"),
        ({"segment": np.array([[0, 1], [1, 0], [0, 1]])}, "predictions, row 1: .* ends before"),
    ],
)
def test_arrays_that_cannot_be_used(published, tmp_path, changed, message, capsys):
    path = tmp_path / "detections.npz"
    np.savez(path, **arrays(**changed))
    assert published.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(ValueError, match=message):
        published.compare_npz(path)


def test_files_that_hold_no_arrays(published, tmp_path, capsys):
    assert published.main([str(tmp_path / "missing.npz")]) == 2
    (tmp_path / "text.npz").write_text("no archive")
    assert published.main([str(tmp_path / "text.npz")]) == 2
    np.savez(tmp_path / "few.npz", video=np.zeros(1))
    assert published.main([str(tmp_path / "few.npz")]) == 2
    assert "few.npz: lacks label, segment" in capsys.readouterr().err
