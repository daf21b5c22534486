"""`benchmarks/evidence.py`: rows over worlds and seeds, what is kept of them, and the table."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from casejax.data.synthetic import make_world
from casejax.errors import DataError, OptionError
from casejax.evaluate.paired import sign_test
from casejax.run.config import Config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import evidence
import evidence_runs

SHARED = ["--epochs", "1", "--num-snippets", "16", "--batch-size", "4", "--hidden", "8", "--num-clusters", "3"]


def small(folder, seed):
    """A world of one stream, since a step of two takes twice as long to compile."""
    world = make_world(
        seed=seed, num_classes=2, dim=4, train_videos=8, test_videos=6, shortest=9, median=20, longest=40, noise=0.3
    )
    splits = {
        split.name: replace(split, features=replace(split.features, streams=split.features.streams[1:]))
        for split in (world.train, world.test)
    }
    return replace(world, streams=("flow",), **splits)


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.setitem(evidence_runs.FAMILIES, "world", replace(evidence_runs.FAMILIES["world"], make=small))

    def run(*words):
        words = ["evidence.py", *map(str, words), *SHARED, "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", words)
        return evidence.main()

    return run


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_is_run_once_resumed_and_refused_under_other_options(call, tmp_path, monkeypatch, capsys):
    words = ["world", "--rows", "no-clustering", "corrected", "--row", "less=--transformed-weight 0.25"]
    words += ["--worlds", "2", "--seeds", "0-1"]
    trained = []
    train = evidence_runs.train_ensemble

    def counted(dataset, configs, **options):
        trained.append(len(configs))
        return train(dataset, configs, **options)

    monkeypatch.setattr(evidence_runs, "train_ensemble", counted)
    assert call(*words) == 0
    printed = capsys.readouterr().out
    assert trained == [6]
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    assert found == sorted(
        f"world/world-2/{row}/seed-{s}.json" for row in ("no-clustering", "corrected", "less") for s in (0, 1)
    )
    results = {path: json.loads((tmp_path / path).read_text()) for path in found}
    one = results["world/world-2/corrected/seed-1.json"]
    assert one["config"]["training"]["seed"] == 1
    assert one["average_mAP"]["0.1:0.7"] == pytest.approx(np.mean(list(one["mAP"].values())))
    assert len(one["resampled"]) == 1000
    assert 0 <= one["auc"]["transformed"] <= 1
    assert results["world/world-2/no-clustering/seed-1.json"]["auc"]["transformed"] is None
    assert one["auc"] == results["world/world-2/less/seed-1.json"]["auc"]  # one network

    table = (tmp_path / "world.md").read_text()
    assert table.strip() in printed
    rows = {cells(line)[0]: cells(line) for line in table.splitlines() if line.startswith("|")}
    assert len({len(row) for row in rows.values()}) == 1
    figures = {path: result["average_mAP"]["0.1:0.7"] for path, result in results.items()}
    own = [path for path in found if "corrected" in path]
    gaps = [100 * (figures[path] - figures[path.replace("corrected", "no-clustering")]) for path in own]
    assert rows["corrected"][7:11] == [
        f"{np.mean(gaps):+.1f} ± {np.std(gaps, ddof=1):.1f}",
        f"{np.mean(gaps):+.1f}",
        f"{sum(gap > 0 for gap in gaps)} of 2",
        f"{sign_test(gaps):.2g}",
    ]
    assert rows["no-clustering"][7:12] == [""] * 5

    gone = tmp_path / "world/world-2/less/seed-1.json"
    before = json.loads(gone.read_text())
    gone.unlink()
    assert call(*words) == 0
    assert trained == [6, 1]
    after = json.loads(gone.read_text())
    assert after["average_mAP"] == pytest.approx(before["average_mAP"], abs=1e-6)

    capsys.readouterr()
    assert call(*words, "--learning-rate", "0.5") == 2
    error = capsys.readouterr().err
    assert "no-clustering/seed-0.json: was run with learning_rate 0.001, row no-clustering has 0.5; remove it" in error


def written(tmp_path, figures):
    """Runs with results that were never computed: figures by row, world and seed."""
    rows = {row for row, _, _ in figures}
    own = [row for row in evidence_runs.ROWS if row.name in rows]
    runs = evidence_runs.plan("world", own, (0, 1), (0, 1, 2), {}, tmp_path)
    for run in runs:
        value = figures[run.row, run.world, run.seed]
        result = {
            "data": {},
            "config": run.config.as_dict(),
            "mAP": {f"{t / 10:.2f}": value for t in range(1, 8)},
            "average_mAP": {"0.1:0.7": value},
            "auc": {"attention": value, "transformed": None},
            "resampled": [value] * 1000,
        }
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.path.write_text(json.dumps(result))
    return runs


def test_the_figures_of_a_table(tmp_path):
    """Means, the deviation within worlds, pairs, and an interval that the seeds decide where videos change nothing."""
    base = {(w, s): 0.2 + 0.3 * w + 0.01 * s for w in (0, 1) for s in range(3)}
    gain = {(0, 0): 0.05, (0, 1): 0.05, (0, 2): 0.05, (1, 0): 0.02, (1, 1): 0.02, (1, 2): -0.01}
    figures = {("no-clustering", *key): value for key, value in base.items()}
    figures |= {("corrected", *key): value + gain[key] for key, value in base.items()}
    table = evidence.print_table("world", written(tmp_path, figures), "no-clustering").splitlines()
    reference, own = (cells(line) for line in table[4:])
    assert reference[:7] == ["no-clustering", "36.0 ± 1.0", "21.0, 51.0", *["36.0"] * 4]
    assert own[:3] == ["corrected", f"39.0 ± {np.sqrt((1 + np.var([52, 53, 51], ddof=1)) / 2):.1f}", "26.0, 52.0"]
    assert own[7:11] == [f"+3.0 ± {np.std([5, 5, 5, 2, 2, -1], ddof=1):.1f}", "+5.0, +1.0", "5 of 6", f"{14 / 64:.2g}"]
    assert own[11] == "+2.0 to +3.5"  # the second world's seeds drawn: -1, 0, 1 or 2 on average, beside 5
    assert own[12:] == ["0.390", "-"]


def test_places_that_an_instance_covers():
    world = small(None, 0)
    lengths = world.test.features.lengths
    for whole in (False, True):
        places = int(lengths.max()) if whole else 16
        real, annotated = evidence_runs.annotated_places(world, places, whole)
        for v, video in enumerate(world.test.videos):
            for t in range(places):
                snippet = t if whole else t * lengths[v] // places
                assert real[v, t] == (snippet < lengths[v])
                middle = (snippet + 0.5) * 0.64
                assert annotated[v, t] == any(start <= middle < end for start, end in video.segments)


def test_rows_of_ones_own():
    row = evidence_runs.parse_row("k64=--num-clusters 64 --no-cluster-gradient")
    config = row.config("corrected", {"epochs": 3, "seed": 1})
    assert config == Config.of("case", "corrected", num_clusters=64, cluster_gradient=False, epochs=3, seed=1)
    other = evidence_runs.parse_row("co2=--method co2net+case --variant official --epochs 2").config("corrected")
    assert (other.method.name, other.variant, other.schedule.epochs) == ("co2net+case", "official", 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--num-clusters 64", "write NAME=FLAGS"),
        ("a/b=", "write NAME=FLAGS"),
        ("x=--clusters 3", "no option --clusters"),
        ("x=--num-clusters 0", "num_clusters must lie in"),
        ("x=--seed 3", "no option --seed"),
        ("x=--select train-holdout", "no option --select"),
        ("x=--no-prior --prior-std 3", "--prior-std 3.0 has no effect"),
    ],
)
def test_rows_that_cannot_be(text, says):
    with pytest.raises(OptionError, match=says):
        evidence_runs.parse_row(text)


def test_what_is_asked_for_must_be_there(call, tmp_path, capsys):
    for words, says in (
        (["world", "--rows", "correct"], "row correct: there is none of that name; choose of baseline-official"),
        (["world", "--reference", "k8"], "row k8: there is none"),
        (["world", "--row", "paper="], "names must differ"),
        (["motion"], "family motion needs --penn FOLDER"),
        (["thumos", "--thumos14", tmp_path / "none"], "none: no such folder"),
    ):
        assert call(*words) == 2
        assert says in capsys.readouterr().err


def test_other_data_and_broken_results_are_refused(tmp_path, monkeypatch):
    runs = written(tmp_path, {("corrected", w, s): 0.5 for w in (0, 1) for s in range(3)})
    monkeypatch.setitem(evidence_runs.FAMILIES, "world", replace(evidence_runs.FAMILIES["world"], make=small))
    changed = json.loads(runs[0].path.read_text()) | {"data": {"source": "another", "snippets": [1, 2]}}
    runs[0].path.write_text(json.dumps(changed))
    runs[1].path.unlink()
    with pytest.raises(DataError, match=r"seed-0\.json: is of other data \(another, snippets \[1, 2\]\)"):
        evidence_runs.run_missing("world", runs[:2], None, None)
    runs[0].path.write_text("{")
    with pytest.raises(DataError, match=r"seed-0\.json: cannot be read .*; remove it, and it is run again"):
        evidence_runs.read_result(runs[0])
