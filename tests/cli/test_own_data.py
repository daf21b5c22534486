"""A folder of features and a table of labels, from the command line: trained on, predicted, evaluated, checked."""

import json

import numpy as np
import pytest

from casejax.cli.main import main
from casejax.run.folder import restore_run

LABELS, DIM, SECONDS = ("Jump", "Run", "Throw"), 8, 4 / 24
SMALL = [
    "--epochs",
    "2",
    "--num-snippets",
    "16",
    "--hidden",
    "8",
    "--batch-size",
    "6",
    "--num-clusters",
    "4",
    "--log-every",
    "4",
    "--devices",
    "1",
]
pytestmark = pytest.mark.usefixtures("kept_steps")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 training and 9 test videos of one stream, a row every 4 frames at 24 a second; published.csv has times."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    (root / "features").mkdir()
    looks = rng.normal(size=(len(LABELS), DIM))
    weak, timed = ["video,label,split"], ["video,label,split,start,end"]
    for split, count in (("train", 12), ("test", 9)):
        for v in range(count):
            video, length, label = f"{split}_{v:03d}", int(rng.integers(20, 50)), v % len(LABELS)
            values = rng.normal(size=(length, DIM)) / 4
            first = int(rng.integers(2, length - 8))
            values[first : first + 6] += 2 * looks[label]
            np.save(root / "features" / f"{video}.npy", np.maximum(values, 0).astype(np.float32))
            weak.append(f"{video},{LABELS[label] if split == 'train' else ''},{split}")
            times = f"{first * SECONDS:.3f},{(first + 6) * SECONDS:.3f}" if split == "test" else ","
            timed.append(f"{video},{LABELS[label]},{split},{times}")
    (root / "weak.csv").write_text("\n".join(weak))
    (root / "timed.csv").write_text("\n".join(timed))
    return root


def call(root, command, *words, table="weak.csv"):
    return main([command, *map(str, words), "--features", str(root / "features"), "--labels", str(root / table)])


@pytest.fixture(scope="module")
def trained(data, kept_steps):
    """A run on labels alone."""
    words = ["--out", data / "run", "--fps", 24, "--stride", 4, *SMALL]
    assert call(data, "train", *words) == 0
    return data / "run"


def test_a_run_on_labels_alone_ends_with_its_predictions(trained):
    predictions = json.loads((trained / "predictions.json").read_text())["results"]
    assert sorted(predictions) == [f"test_{v:03d}" for v in range(9)]
    assert all(predictions.values())
    for found in predictions.values():
        assert max(each["segment"][1] for each in found) <= 50 * SECONDS + 1e-9
    results = json.loads((trained / "results.json").read_text())
    assert "trained" not in results
    assert results["timing"]["stride"] == 4
    assert not (trained / "average_precision.csv").exists()
    assert "nan" not in (trained / "results.json").read_text().lower()


def test_a_run_without_test_videos_ends_with_its_network(data, tmp_path, capsys):
    table = [line for line in (data / "weak.csv").read_text().splitlines() if not line.startswith("test")]
    (data / "train.csv").write_text("\n".join(table).replace(",split", "").replace(",train", ""))
    words = ["--out", tmp_path / "run", "--snippet-seconds", SECONDS, *SMALL]
    assert call(data, "train", *words, table="train.csv") == 0
    out, err = capsys.readouterr()
    assert "no test videos" in out
    assert "9 feature files are of videos" in err
    assert restore_run(tmp_path / "run").timing.seconds == SECONDS
    assert not (tmp_path / "run" / "predictions.json").exists()


def test_the_time_of_rows_stays_with_the_run(data, trained, tmp_path, capsys):
    """eval takes it from the checkpoint, and refuses what contradicts it."""
    capsys.readouterr()
    figures = []
    for words in ([], ["--snippet-seconds", SECONDS], ["--stride", 4, "--fps", 24]):
        assert call(data, "eval", trained, *words, "--out", tmp_path / "eval", table="timed.csv") == 0
        figures.append(json.loads((tmp_path / "eval" / "results.json").read_text())["trained"])
    assert figures[0] == figures[1] == figures[2]
    found = json.loads((tmp_path / "eval" / "predictions.json").read_text())
    assert found == json.loads((trained / "predictions.json").read_text())
    assert call(data, "eval", trained, "--snippet-seconds", 0.64, table="timed.csv") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in (str(trained), "0.1667 s", "0.64 s"))
    (data / "features" / "features.json").write_text('{"stride": 16, "fps": 24}')
    try:
        assert call(data, "eval", trained, table="timed.csv") == 2
        assert "features.json" in capsys.readouterr().err
    finally:
        (data / "features" / "features.json").unlink()


def test_rows_taken_for_four_times_as_long_are_remarked(data, capsys):
    assert call(data, "check", table="timed.csv") == 1
    assert "early ends" in capsys.readouterr().out
    assert call(data, "check", "--stride", 4, "--fps", 24, table="timed.csv") == 0
    assert "nothing is missing or odd" in capsys.readouterr().out


def test_whole_videos_with_the_clustering_head(data, tmp_path):
    words = ["--out", tmp_path / "run", "--snippet-seconds", SECONDS, *SMALL, "--test-sampling", "whole"]
    assert call(data, "train", *words, table="timed.csv") == 0
    assert "trained" in json.loads((tmp_path / "run" / "results.json").read_text())


def test_check_says_what_is_there_and_what_is_missing(data, tmp_path, capsys):
    features = tmp_path / "features"
    features.mkdir()
    for path in (data / "features").iterdir():
        (features / path.name).write_bytes(path.read_bytes())
    (features / "train_003.npy").unlink()
    (features / "train_004.npy").write_bytes(b"no array")
    np.save(features / "stranger.npy", np.ones((3, DIM), np.float32))
    table = (data / "timed.csv").read_text() + "\ntest_000,Jump,test,0.5,1\ntest_000,Jump,test,0.5,1\n"
    (tmp_path / "timed.csv").write_text(table)
    assert call(tmp_path, "check", "--json", "--snippet-seconds", SECONDS, table="timed.csv") == 1
    report = json.loads(capsys.readouterr().out)
    found = {each["kind"]: each for each in report["findings"]}
    assert found.keys() == {"missing features", "unreadable features", "extra features", "duplicates"}
    assert found["missing features"]["places"] == ["train_003"]
    assert found["unreadable features"]["places"] == ["train_004"]
    assert found["duplicates"]["places"] == ["test_000"]
    assert "stranger" in found["extra features"]["places"][0]
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["videos"], train["timed"], test["videos"], test["instances"]) == (10, 0, 9, 11)
    assert test["by_class"]["Jump"] == 5
    assert report["streams"] == {"features": DIM}
    assert report["timing"] == "a row every 0.1667 s"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--features", "x"], "both --features DIR and --labels CSV"),
        (["train", "--data", "x", "--features", "x"], "exclude each other"),
        (["train", "--data", "x", "--test-share", "0.2"], "--test-share is for data of your own"),
        (["train", "--features", "x", "--labels", "y", "--layout", "published"], "--layout is of --data"),
        (["train", "--features", "x", "--labels", "y", "--fps", "30"], "both stride and fps"),
        (["train", "--features", "x", "--labels", "y"], "no such folder of features"),
        (["train", "--layout", "wtalc"], "--layout wtalc needs --data DIR"),
        (["train", "--data", "x", "--order", "dim"], "invalid choice: 'dim'"),
        (["train", "--data", "x", "--crops", "all"], "neither mean nor the number of a crop"),
        (["train", "--data", "x", "--dataset", "kinetics"], "invalid choice: 'kinetics'"),
        (["check"], "name the data set"),
        (["eval", "x"], "holds no checkpoints/"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)
def test_wrong_words_are_answered_by_one_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(words)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert said in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_completion_names_commands_and_flags(capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("predict", "--features", "--prior-std"))
