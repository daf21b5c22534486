"""Runs side by side: read from their folders, paired over seeds, and never compared when judged otherwise."""

import json

import numpy as np
import pytest
from rich.console import Console

from casejax.cli.main import main
from casejax.errors import DataError
from casejax.report.comparison import comparison_summary, paired, print_comparison, read_finished

MAP = {"A": {0: 0.2, 1: 0.3, 4: 0.7}, "B": {1: 0.5, 4: 0.6, 5: 0.0}}


def write(folder, seed, value, **judged):
    folder.mkdir(parents=True)
    results = {
        "method": f"case of {folder.name}",
        "seed": seed,
        "selection": "last step",
        "judged": {"name": "case", "tious": [0.1, 0.5], "num_videos": 12, **judged},
        "trained": {"mAP": {"0.10": value, "0.50": value / 2}, "average_mAP": {"0.1:0.5": 0.75 * value}},
    }
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def runs(tmp_path):
    for name, by_seed in MAP.items():
        for seed, value in by_seed.items():
            write(tmp_path / name / f"seed-{seed}", seed, value)
    return tmp_path


def test_figures_are_paired_over_shared_seeds(runs):
    first, other = read_finished(runs / "A"), read_finished(runs / "B")
    assert sorted(first.figures) == [0, 1, 4]
    gaps = [MAP["B"][seed] - MAP["A"][seed] for seed in (1, 4)]
    for column, share in (("0.10", 1), ("0.50", 0.5), ("0.1:0.5", 0.75)):
        gap = paired(first, other, column)
        assert gap.seeds == (1, 4)
        np.testing.assert_allclose([gap.mean, gap.deviation], share * np.array([np.mean(gaps), np.std(gaps, ddof=1)]))
    summary = comparison_summary([first, other])
    assert summary["from_first"][other.name]["difference"]["0.10"]["seeds"] == [1, 4]


def test_what_is_printed(runs, capsys):
    assert main(["compare", str(runs / "A"), str(runs / "B")]) == 0
    lines = capsys.readouterr().out.splitlines()
    mean, deviation = (line.split() for line in lines if "40.0" in line or "26.5" in line)
    assert mean[:2] == ["(1)", "40.0"]
    assert deviation[:2] == ["sd", "26.5"]
    (gap,) = (line.split() for line in lines if line.startswith("(2)") and "+" in line)
    assert gap == ["(2)", "+5.0", "+2.5", "+3.8"]
    assert main(["compare", str(runs / "A"), str(runs / "B"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][1]["mAP"]["5"]["0.10"] == 0


def test_runs_that_were_judged_otherwise_are_not_compared(runs, tmp_path):
    write(tmp_path / "C", 1, 0.5, num_videos=11)
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "x").open("w"))
    finished = [read_finished(runs / name) for name in "AC"]
    print_comparison(console, finished)
    text = console.export_text()
    assert "(2) was judged otherwise than (1)" in text
    assert "num_videos 12 and 11" in text
    assert "minus (1)" not in text
    assert comparison_summary(finished)["from_first"][str(tmp_path / "C")]["difference"] == {}


def test_folders_that_cannot_be_compared(runs, tmp_path, capsys):
    with pytest.raises(DataError, match="no such file; name the folder of a finished run"):
        read_finished(tmp_path)
    write(runs / "A" / "seed-9", 9, 0.1, tious=[0.5])
    with pytest.raises(DataError, match=r"seed-9.* judged otherwise than .*seed-0.*tious \[0.1, 0.5\] and \[0.5\]"):
        read_finished(runs / "A")
    write(tmp_path / "D", 0, 0.5)
    (tmp_path / "D" / "results.json").write_text('{"method": "case"}')
    with pytest.raises(DataError, match="has no mAP"):
        read_finished(tmp_path / "D")
    assert main(["compare", str(runs / "B"), str(runs / "B")]) == 2
    assert "names a run twice" in capsys.readouterr().err
