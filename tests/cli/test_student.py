"""`benchmarks/student.py`: students beside their teacher, what is kept of them, and the table."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from casejax.data.synthetic import make_world
from casejax.errors import OptionError
from casejax.methods import student as method
from casejax.run.folder import restore_run

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import evidence_runs
import student

TEACHER = {"epochs": 8, "num_snippets": 16, "batch_size": 8, "hidden": 8, "num_clusters": 3}
SMALL = "--hidden 8 --levels 3 --blocks 1 --epochs 2 --num-snippets 16 --batch-size 8 --proposal-score 0"


def small(folder, seed):
    return make_world(
        seed=seed, num_classes=2, dim=4, train_videos=8, test_videos=6, shortest=9, median=20, longest=40, noise=0.3
    )


@pytest.fixture
def call(monkeypatch, tmp_path):
    family = replace(evidence_runs.FAMILIES["world"], make=small, options=TEACHER)
    monkeypatch.setitem(evidence_runs.FAMILIES, "world", family)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["student.py", *words, "--out", str(tmp_path)])
        return student.main()

    return run


def test_students_are_run_once_and_stand_beside_their_teacher(call, tmp_path, monkeypatch, capsys):
    words = ["world", "--rows", "--row", f"own={SMALL} --keep 0.5", "--row", f"known={SMALL} --supervision segments"]
    assert call(*words, "--seeds", "0") == 0
    folder = tmp_path / "world" / "world-0"
    found = {row: json.loads((folder / row / "seed-0.json").read_text()) for row in ("teacher", "own", "known")}
    lines = (tmp_path / "world.md").read_text().splitlines()
    table = {cells[0]: cells for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines[4:])}
    assert list(table) == ["teacher", "own", "known"]
    for row, cells in table.items():
        mean = {low: 100 * np.mean([v for t, v in found[row]["mAP"].items() if low <= float(t)]) for low in (0.1, 0.3)}
        gaps = {
            low: mean[low] - 100 * np.mean([v for t, v in found["teacher"]["mAP"].items() if low <= float(t)])
            for low in (0.1, 0.3)
        }
        assert cells[2] == f"{mean[0.1]:.1f}"
        assert cells[4] == f"{mean[0.3]:.1f}"
        if row != "teacher":
            assert cells[3] == f"{gaps[0.1]:+.1f}"
            assert cells[5] == f"{gaps[0.3]:+.1f}"
    # The student's run says who taught it; the one on segments had no teacher.
    taught = {row: restore_run(folder / row / "seed-0").meta.get("teacher") for row in ("own", "known")}
    assert taught["own"]["run"] == str(folder / "teacher" / "seed-0")
    assert taught["known"] is None

    # A second round comes after the first, and is taught by it.
    monkeypatch.setattr(student, "ROWS", dict.fromkeys(["weak", "second"], student.parse_row(f"own={SMALL}")[1]))
    assert call("world", "--rows", "second", "--seeds", "0") == 0
    assert restore_run(folder / "second" / "seed-0").meta["teacher"]["run"] == str(folder / "weak" / "seed-0")

    # What is there is not run again.
    monkeypatch.setattr(student, "train", lambda *_, **__: pytest.fail("trained again"))
    capsys.readouterr()
    assert call(*words, "--seeds", "0") == 0
    assert lines[4] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [("weak=--keep 0.5", "a name of its own"), ("keep", "write NAME=FLAGS"), ("own=--keep 2", r"keep.*2")],
)
def test_rows_that_are_none(text, says):
    with pytest.raises(OptionError, match=says):
        student.parse_row(text)


def test_a_row_starts_from_the_method():
    name, options = student.parse_row("wide=--hidden 128")
    config = student.configuration("world", name, options, seed=3)
    assert (config.settings.hidden, config.training.seed, config.settings.keep) == (128, 3, method.METHOD.settings.keep)
