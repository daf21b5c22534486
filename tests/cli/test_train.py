"""`casejax train`, the examples, and what they refuse."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from casejax.cli import main as cli
from casejax.cli import train
from casejax.cli.main import SYNTHETIC, Defaults
from casejax.data.layouts import write_dataset
from casejax.data.synthetic import make_world
from casejax.evaluate.detection import TIOUS
from casejax.evaluate.protocols import PROTOCOLS
from casejax.records import Dataset, Features, Split
from casejax.run.config import Config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of 24 training videos on disk."""
    folder = tmp_path_factory.mktemp("world") / "data"
    world = make_world(num_classes=4, dim=16, train_videos=24, test_videos=16, median=60, longest=400, noise=0.3)
    write_dataset(world, folder)
    return folder


def call(*words):
    return train.main([str(word) for word in words])


@pytest.fixture
def seen(monkeypatch):
    """What would be run, by the arguments of the run."""
    found = {}
    monkeypatch.setattr(train, "run", lambda dataset, config, out, **rest: found.update(config=config, **rest))
    monkeypatch.setattr(train, "run_seeds", lambda dataset, config, out, seeds, **rest: found.update(seeds=seeds) or {})
    none = Features.end_to_end((np.zeros((0, 1), np.float32),), [])
    nothing = Dataset("x", ("Run",), ("rgb",), Split("train", (), none), Split("test", (), none))
    monkeypatch.setattr(train, "read_data", lambda *words, **options: nothing)
    monkeypatch.setattr(train, "find_layout", lambda root: "published")
    return found


def test_bad_data_stops_before_anything_is_written(data, capsys, tmp_path):
    broken = sorted((data / "features" / "train" / "flow").iterdir())[0]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-7])
    try:
        assert call("--data", data, "--out", tmp_path / "out") == 2
    finally:
        broken.write_bytes(whole)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(broken) in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prior-std", "0"], ["prior_std", "(0, inf)", "0"]),
        (["--epochs", "0"], ["epochs", "[1, inf)", "0"]),
        (["--cas-weight", "2"], ["cas_weight", "[0, 1]", "2.0"]),
        (["--streams", "rgb,depth"], ["depth"]),
        (["--streams", "rgb,rgb"], ["streams", "rgb"]),
        (["--batch-size", "400"], ["24 training videos", "400"]),
        (["--devices", "50"], ["--devices 50"]),
        (["--method", "co3net"], ["co3net", "co2net"]),
        (["--method", "wtalc+case"], ["wtalc", "attention"]),
        (["--method", "co2net", "--variant", "paper"], ["co2net", "paper"]),
        (["--method", "co2net", "--prior-std", "1"], ["co2net", "--prior-std", "margin"]),
        (["--layout", "a2cl_pt", "--packed", "x"], ["layout a2cl_pt", "--packed"]),
        (["--coordinator", "h:1"], ["--coordinator", "--num-processes"]),
    ],
)
def test_unusable_options_are_refused(data, capsys, tmp_path, words, said):
    assert call("--data", data, "--out", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in said), error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(data, capsys, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert call("--data", data, "--out", tmp_path / "out", "--batch-size", 8) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_options_given_replace_those_of_the_variant(seen):
    words = "--data x --epochs 7 --sinkhorn-tolerance 1e-3 --rank attention --devices 2 --resume"
    assert call(*words.split()) == 0
    options = {"epochs": 7, "sinkhorn_tolerance": 1e-3, "rank": "attention"}
    assert seen.keys() == {"config", "devices", "resume", "protocol"}
    assert seen["config"] == Config.of("case", "corrected", **options)
    assert (seen["devices"], seen["resume"], seen["protocol"].name) == (2, True, "case")
    assert call(*words.split(), "--variant", "official") == 0
    assert seen["config"] == Config.of("case", **options)


def test_every_method_starts_from_what_it_was_published_with(seen):
    assert call("--data", "x", "--method", "co2net") == 0
    assert seen["config"] == Config.of("co2net")
    assert call("--data", "x", "--method", "co2net+case", "--prior-std", "0.2") == 0
    assert seen["config"] == Config.of("co2net+case", "corrected", prior_std=0.2)
    assert call("--data", "x", "--method", "baseline") == 0
    assert seen["config"] == Config.of("baseline", "corrected")


def test_the_embedded_world_has_sizes_of_its_own(seen, tmp_path):
    assert call("--out", tmp_path, "--epochs", "3") == 0
    assert seen["config"] == Config.of("case", "corrected", **SYNTHETIC).changed(epochs=3)
    defaults = Defaults(method="asl", sizes={"hidden": 8, "prior_std": 1.0}, out=tmp_path)
    assert train.main([], defaults) == 0
    assert seen["config"] == Config.of("asl", "corrected", hidden=8)


def test_an_example_with_a_layout_of_its_own_takes_data_of_ones_own_too(seen):
    defaults = Defaults(method="a2cl_pt", layout="a2cl_pt")
    assert train.main(["--features", "x", "--labels", "y"], defaults) == 0
    assert seen["config"].method.name == "a2cl_pt"


def test_seeds_on_the_command_line(seen):
    assert call("--data", "x", "--seeds", "0-2") == 0
    assert seen == {"seeds": (0, 1, 2)}


def test_the_protocol_and_its_thresholds(seen):
    for words, name, tious in (
        ([], "case", TIOUS),
        (["--dataset", "activitynet13"], "activitynet", PROTOCOLS["activitynet"].tious),
        (["--protocol", "opentad"], "opentad", PROTOCOLS["opentad"].tious),
        (["--tious", "0.75,.5"], "case", (0.5, 0.75)),
    ):
        assert call("--data", "x", *words) == 0
        assert (seen["protocol"].name, seen["protocol"].tious) == (name, tious)
    assert seen["protocol"].averages == ((0.5, 0.75),)
    assert call("--data", "x", "--tious", "1.5") == 2


def test_the_command_and_the_examples_are_one(seen, tmp_path):
    assert cli.main(["train", "--data", "x", "--epochs", "3"]) == 0
    assert seen["config"] == Config.of("case", "corrected", epochs=3)
    for example in ("train_thumos.py", "train_a2cl_pt.py"):
        done = subprocess.run(
            [sys.executable, EXAMPLES / example, "--help"], capture_output=True, text=True, check=True
        )
        assert example in done.stdout
        assert "--method" in done.stdout


def test_help_names_first_what_a_newcomer_needs(capsys):
    for words in (["--help"], ["--help-all"], ["--method", "co2net", "--help-all"]):
        with pytest.raises(SystemExit) as stopped:
            call(*words)
        assert stopped.value.code == 0
    short, full, other = capsys.readouterr().out.split("usage: ")[1:]
    for flag in ("--data", "--out", "--method", "--seeds", "--devices", "--help-all", "--epochs"):
        assert flag in short
    assert len(short.splitlines()) < 50
    assert "--prior-std" not in short
    assert "--prior-std" in full
    assert "--margin" in other
    assert "--prior-std" not in other


def test_a_command_that_does_not_exist(capsys):
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "no command 'trian'" in error
    assert "train, predict" in error
    assert error.count("\n") == 1


def test_the_list_of_commands_loads_no_jax():
    code = "import sys; from casejax.cli.main import main; main(['--help']); assert 'jax' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name}" in done.stdout for name in cli.COMMANDS)
