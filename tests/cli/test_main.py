"""The command: published networks in, evaluated, and out again; and the tables of the benchmark."""

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from casejax.cli import main as cli
from casejax.cli.options import parse_seeds
from casejax.data.layouts.published import write_dataset
from casejax.data.pickles.torch_files import read_torch
from casejax.data.synthetic import make_world
from casejax.evaluate.protocols import CASE
from casejax.report import pictures
from casejax.report.tables import print_seeds
from casejax.run.config import Config
from casejax.train.experiment import run, run_seeds

SMALL = Config.of("case").changed(
    num_clusters=4, hidden=16, num_snippets=32, batch_size=8, learning_rate=1e-3, epochs=2
)
SMALL = SMALL.changed(rank="true", prior_std=0.3)
pytestmark = pytest.mark.usefixtures("kept_steps")


@pytest.fixture(scope="module")
def world():
    return make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400)


@pytest.fixture(scope="module")
def folder(world, kept_steps, tmp_path_factory):
    """A data set on disk and a finished run on it."""
    root = tmp_path_factory.mktemp("cli")
    write_dataset(world, root / "data")
    with (root / "printed").open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_pictures", lambda *_, **__: None)
        run(world, SMALL, root / "run", devices=1, console=Console(file=file, width=100))
    return root


def test_a_run_and_its_file_are_judged_alike_under_a_protocol_by_name(folder, tmp_path, capsys):
    out, data = tmp_path / "out", folder / "data"
    words = ["eval", str(folder / "run"), "--data", str(data), "--out", str(out)]
    for name in ("wtalc", "opentad"):
        assert cli.main([*words, "--protocol", name]) == 0
        stored = json.loads((out / "results.json").read_text())
        assert stored["protocol"].startswith(f"protocol {name}: ")
        caveats = stored["caveats"]
        assert "videos, this one 12: do not compare" in caveats[0]
        assert len(caveats) == (2 if name == "wtalc" else 1)  # the data set has no ambiguous intervals to filter by
        printed = capsys.readouterr().out
        assert all(caveat in printed for caveat in caveats)
        file = [
            str(out / "predictions.json"),
            "--truth",
            str(data / "gt.json"),
            "--split",
            str(data / "split_test.txt"),
        ]
        assert cli.main(["evaluate", *file, "--protocol", name, "--json"]) == 0
        again = json.loads(capsys.readouterr().out)
        assert again["mAP"] == pytest.approx(stored["trained"]["mAP"], abs=1e-12)
        assert again["interval"]["mAP"]["0.50"] == pytest.approx(stored["trained"]["interval"]["mAP"]["0.50"])


def test_export_convert_and_eval_give_the_same_map(folder, world, tmp_path, capsys):
    """Ours -> a torch file -> ours again: the network evaluates to the figures of the run it came from."""
    files = [str(tmp_path / "model.pkl"), str(tmp_path / "cls_gt.npy")]
    assert cli.main(["export", str(folder / "run"), *files]) == 0
    assert len(read_torch(files[0])) == 18
    (tmp_path / "classes.txt").write_text("\n".join(world.classes) + "\n")
    back = str(tmp_path / "back")
    assert cli.main(["convert", *files, back, "--classes", str(tmp_path / "classes.txt")]) == 0
    assert "width 16, 4 classes, 4 clusters" in capsys.readouterr().out
    for run_folder in (str(folder / "run"), back):
        out = tmp_path / Path(run_folder).name
        words = ["eval", run_folder, "--data", str(folder / "data"), "--out", str(out)]
        words += ["--test-num-snippets", "32"]  # a converted network samples 750, as published
        assert cli.main(words) == 0, capsys.readouterr().err
    want, same, converted = (
        json.loads((place / "results.json").read_text())["trained"]
        for place in (folder / "run", tmp_path / "run", tmp_path / "back")
    )
    assert same == want
    assert converted == want
    assert (tmp_path / "back" / "predictions.json").exists()
    assert "model selection: last, step 0" in capsys.readouterr().out


def test_options_of_inference_can_be_given_to_eval(folder, tmp_path):
    words = ["eval", str(folder / "run"), "--data", str(folder / "data"), "--out", str(tmp_path)]
    assert cli.main([*words, "--nms", "hard", "--test-cluster-labels", "train"]) == 0
    assert "nms=hard" in json.loads((tmp_path / "results.json").read_text())["method"]
    assert cli.main([*words, "--nmss", "hard"]) == 2


def test_options_that_eval_does_not_have_are_refused(folder, tmp_path, capsys):
    words = ["eval", str(folder / "run"), "--data", str(folder / "data"), "--out", str(tmp_path)]
    assert cli.main([*words, "--epochs", "3"]) == 2
    assert "--epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "{}/nothing", "--data", "{}/data"], "holds no checkpoints/"),
        (["eval", "{}/run", "--data", "{}/run"], "split_train.txt"),
        (["export", "{}/data", "{}/x.pkl", "{}/x.npy"], "checkpoint"),
        (["convert", "{}/data/gt.json", "{}/x.npy", "{}/new"], "gt.json"),
    ],
)
def test_unusable_input_is_one_line(folder, capsys, words, message):
    assert cli.main([word.format(folder) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (folder / "new").exists()


def test_eval_refuses_other_classes(folder, tmp_path, capsys):
    other = make_world(num_classes=3, dim=6, train_videos=16, test_videos=12, median=60, longest=400)
    write_dataset(other, tmp_path / "data")
    assert cli.main(["eval", str(folder / "run"), "--data", str(tmp_path / "data")]) == 2
    assert "was trained with classes" in capsys.readouterr().err


# Several seeds


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (3,)), ("0,1,5", (0, 1, 5)), ("0-3", (0, 1, 2, 3)), ("7, 1-2", (7, 1, 2))]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1,1", "0-2,1", "3-1", "-1", "1-", "1.5"])
def test_lists_that_are_no_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError, match="seed"):
        parse_seeds(text)


def test_seeds_run_one_after_the_other(world, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "draw_pictures", lambda *_, **__: None)
    with (tmp_path / "printed").open("w") as file:
        console = Console(file=file, width=100)
        results = run_seeds(world, SMALL.changed(epochs=1), tmp_path / "out", [3, 1], devices=1, console=console)
        again = run_seeds(
            world, SMALL.changed(epochs=1), tmp_path / "out", [3, 1], resume=True, devices=1, console=console
        )
    values = [results[seed].detection.average(0.1, 0.7) for seed in (3, 1)]
    assert [again[seed].detection.average(0.1, 0.7) for seed in (3, 1)] == values
    stored = json.loads((tmp_path / "out" / "seeds.json").read_text())
    assert stored["method"].startswith("case, official with ")
    np.testing.assert_allclose(stored["0.1:0.7"]["mean"], np.mean(values))
    np.testing.assert_allclose(stored["0.1:0.7"]["sd"], np.std(values, ddof=1))
    assert stored["0.1:0.7"]["seeds"] == dict(zip(("3", "1"), values, strict=True))
    last = (tmp_path / "printed").read_text().splitlines()[-2:]
    assert [line.split()[0] for line in last] == ["mean", "sd"]
    assert last[0].split()[-1] == f"{100 * np.mean(values):.1f}"
    one = print_seeds(Console(file=(tmp_path / "x").open("w")), {0: results[3].detection}, protocol=CASE)
    assert one["0.1:0.7"]["sd"] == 0
    with pytest.raises(ValueError, match="each once"):
        run_seeds(world, SMALL, tmp_path / "out", [1, 1])


# The tables


@pytest.fixture(scope="module")
def ablations():
    path = Path(__file__).parents[2] / "benchmarks" / "ablations.py"
    spec = importlib.util.spec_from_file_location("ablations", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablations"] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))  # where it finds its tables
    spec.loader.exec_module(module)
    return module


def test_every_row_is_a_configuration(ablations):
    for table in [*ablations.TABLES, "variants", "factors"]:
        heading, rows = ablations.rows_for(table)
        assert heading
        configs = [row.config("official") for row in rows]
        for config in configs:
            config.check()
        assert len({repr(replace(config, variant="official")) for config in configs}) == len(rows), table


def test_a_table_is_trained_once_and_kept(ablations, folder, tmp_path, monkeypatch, capsys):
    words = ["--table", "7", "4", "--figure", "8", "--data", folder / "data", "--seeds", "0,1", "--out", tmp_path]
    words += [
        "--num-clusters",
        4,
        "--hidden",
        16,
        "--batch-size",
        8,
        "--epochs",
        1,
        "--num-snippets",
        32,
        "--streams",
        "rgb",
    ]
    monkeypatch.setattr(sys, "argv", ["ablations.py", *map(str, words)])
    assert ablations.main() == 0
    printed = capsys.readouterr().out
    assert "10 runs in" in printed  # Table 7: three rows; Table 4 adds two; its last ones and Fig. 8 are Table 7's
    for name in ("7", "4", "fig8"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    table = json.loads((tmp_path / "7.json").read_text())
    assert [row["paper"]["mAP"] for row in table["rows"]] == [43.9, 44.1, 46.2]
    assert all(len(row["mAP"]) == 2 for row in table["rows"])
    line = next(line for line in printed.splitlines() if line.startswith("P^T"))
    mean = np.mean(table["rows"][1]["mAP"])
    assert line.split()[1] == f"{mean:.1f}"

    monkeypatch.setattr(ablations, "train_ensemble", None)  # nothing is left to train
    assert ablations.main() == 0
    assert "runs in" not in capsys.readouterr().out


def test_runs_are_known_by_what_decides_them(ablations, world, tmp_path):
    runs = ablations.Runs(tmp_path / "runs.json", world)
    runs.put(SMALL, {"mAP": 1})
    again = ablations.Runs(tmp_path / "runs.json", world)
    assert again.get(replace(SMALL.changed(log_every=7), variant="paper")) == {"mAP": 1}
    assert again.get(SMALL.changed(seed=1)) is None
    other = make_world(seed=1, num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400)
    assert ablations.Runs(tmp_path / "runs.json", other).get(SMALL) is None
