"""Paths of any letters, and files of any time, through every command of a run."""

import os
import re
import shutil
import time

import numpy as np
import pytest

from casejax.cli.main import main
from casejax.data.layouts.published import write_dataset
from casejax.data.synthetic import make_world
from casejax.runtime.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("kept_steps")
SIZES = ["--hidden", "8", "--num-clusters", "4", "--num-snippets", "16", "--batch-size", "4", "--devices", "1"]
OFTEN = ["--log-every", "2", "--checkpoint-every", "2"]
ODD = "données  ü 映像 %s {x} 'q' \N{CLAPPER BOARD}"
"""Spaces, two at once, letters of several scripts, and what shells, formats and markup take for theirs."""


def words_of(out, data, epochs):
    return ["train", "--data", data, "--out", out, "--epochs", str(epochs), *SIZES, *OFTEN]


def done(capfd, *words):
    """Run a command that must end well; what it said."""
    status = main([str(word) for word in words])
    said = capfd.readouterr()
    assert status == 0, said.err[-2000:]
    assert "Traceback" not in said.err
    return said.out


@pytest.mark.slow
def test_paths_of_any_letters_through_every_command(tmp_path, capfd):
    root = tmp_path / ODD
    videos = make_world(num_classes=2, dim=4, train_videos=8, test_videos=6, median=40, longest=80)
    data, run, new = root / "data [é]", root / "run <bold>ø", root / "new [è]*?"
    write_dataset(videos, data)
    done(capfd, *words_of(run, data, 4), "--packed", root / "packed [ß]", "--compilation-cache", root / "cache ñ")
    assert (run / "results.json").exists()
    done(capfd, "eval", run, "--data", data)
    for stream in ("rgb", "flow"):
        (new / "features à" / stream).mkdir(parents=True)
        np.save(new / "features à" / stream / "clip 片 1.npy", np.ones((20, 4), np.float32))
    out = new / "segments [red].json"
    done(capfd, "predict", run, new / "features à", "--json", out, "--pictures", new / "pictures")
    assert "clip 片 1" in out.read_text(encoding="utf-8") or "clip \\u7247 1" in out.read_text()
    assert [path.name for path in (new / "pictures").iterdir()] == ["clip 片 1.png"]
    done(capfd, "report", run)
    done(capfd, "export", run, root / "export [ê]")
    done(capfd, "predict", root / "export [ê]", new / "features à", "--csv", new / "segments.csv")
    assert not [path for path in root.rglob(".*.partial")]


def set_times(folder, seconds):
    """All files and folders below one to the same time, away from that of this host."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (seconds, seconds))


@pytest.mark.slow
@pytest.mark.parametrize("offset", [-30 * 365 * 86400, 30 * 365 * 86400], ids=["past", "future"])
def test_hosts_of_other_clocks_change_nothing(tmp_path, capfd, offset):
    """Every file of a run as another host's clock would date it; what goes on from there ends in the same bits."""
    videos = make_world(num_classes=2, dim=4, train_videos=8, test_videos=6, median=40, longest=80)
    write_dataset(videos, tmp_path / "data")
    for name in ("own", "other"):
        done(capfd, *words_of(tmp_path / name, tmp_path / "data", 2), "--packed", tmp_path / "packed")
        (tmp_path / name / ".results.json.partial").write_text("left by a kill")
    set_times(tmp_path / "other", time.time() + offset)
    set_times(tmp_path / "packed", time.time() + offset)
    found = {}
    for name in ("own", "other"):
        words = [*words_of(tmp_path / name, tmp_path / "data", 4), "--packed", tmp_path / "packed", "--resume"]
        done(capfd, *words)
        if name == "other":
            set_times(tmp_path / name, time.time() - offset)
        done(capfd, "eval", tmp_path / name, "--data", tmp_path / "data")
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            steps = checkpoints.steps
        found[name] = steps, *((tmp_path / name / file).read_bytes() for file in ("predictions.json", "results.json"))
        assert not list((tmp_path / name).glob(".*"))
    assert found["own"] == found["other"]
    shutil.rmtree(tmp_path / "own")


def test_a_name_under_which_no_checkpoint_can_be_kept_is_refused_before_anything_is_written(tmp_path, capfd):
    assert main(["train", "--demo", "--out", str(tmp_path / "runs [1]")]) == 2
    said = capfd.readouterr().err
    assert re.search(
        r"^error: .*runs \[1\]: no checkpoint can be kept below a folder with '\[' in its name", said, re.M
    )
    assert not list(tmp_path.iterdir())
