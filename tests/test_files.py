"""A short run, watched from its first second: its files are what docs/files.md and its schema say."""

import csv
import json
import math
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from casejax.cli.main import main
from casejax.errors import OptionError
from casejax.report import pictures
from casejax.report.page import write_page
from casejax.runtime import files
from casejax.train import progress
from casejax.train.writers import make_writer

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "docs" / "files.schema.json").read_text())


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def read(text):
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Seed 0 for one epoch on the embedded world, and resumed for another."""
    out = tmp_path_factory.mktemp("runs")
    sizes = ["--hidden", "16", "--num-clusters", "4", "--num-snippets", "32", "--batch-size", "40", "--log", "csv"]
    common = ["train", "--devices", "1", "--log-every", "1", "--out", str(out), *sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_pictures", lambda *_, **__: None)
        assert main([*common, "--epochs", "1", "--seeds", "0"]) == 0
        assert main([*common, "--epochs", "2", "--seeds", "0", "--resume"]) == 0
    return out


def test_every_file_is_json_as_the_schema_has_it(runs):
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    checked = set()
    for path in sorted(runs.rglob("*")):
        if path.name not in SCHEMA["$defs"] or "checkpoints" in path.parts:
            continue
        schema = {**SCHEMA, "$ref": f"#/$defs/{path.name}"}
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for text in texts:
            validator(schema).validate(read(text))
        checked.add(path.name)
    assert checked == {name for name in SCHEMA["$defs"] if "." in name}
    described = (ROOT / "docs" / "files.md").read_text()
    results = read((runs / "seed-0" / "results.json").read_text())
    metrics = read((runs / "seed-0" / "metrics.jsonl").read_text().splitlines()[0])
    for name in [*results, *results["trained"], *read((runs / "seed-0" / "run.json").read_text())["starts"][0]]:
        assert f"`{name}" in described or f".{name}`" in described, name
    for name in metrics:
        families = ("loss_", "cluster_foreground_")
        assert f"`{name}`" in described or name.startswith(families), name


def test_a_run_says_at_its_start_what_it_is(runs):
    starts = read((runs / "seed-0" / "run.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, starts[1]["step"]]
    assert starts[1]["step"] > 0
    assert starts[0]["data"]["source"] == str(runs / "world")
    assert starts[0]["environment"]["packages"]["jax"]
    assert read((runs / "seed-0" / "config.json").read_text())["schedule"]["epochs"] == 2


def test_csv_has_every_step_once_also_after_resuming(runs):
    lines = [read(line) for line in (runs / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    with (runs / "seed-0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [line["step"] for line in lines]
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines]


def test_the_page_of_a_real_run_is_written(runs, tmp_path):
    pytest.importorskip("vl_convert", reason="vl-convert is not installed")
    write_page(tmp_path / "report.html", [runs], timelines=2)
    text = (tmp_path / "report.html").read_text()
    for section in ("result", "classes", "training", "timelines", "clusters", "map", "errors"):
        assert f'id="run1-{section}"' in text
    assert "left out" not in text.split("<script")[0]


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [math.nan, 1.5], "b": (math.inf, {"c": -math.inf}), "d": None})
    assert read((tmp_path / "a.json").read_text()) == {"a": [None, 1.5], "b": [None, {"c": None}], "d": None}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_log_file_gets_a_line_at_once_and_then_every_so_often(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    out = StringIO()
    with progress.Progress(Console(file=out, width=100), 0, 400, every=30) as shown:
        assert out.getvalue() == "compiling, then training for 400 steps\n"
        for step in range(10, 401, 10):
            clock.now += 4
            shown.update(step, 1.25, 5000.0)
    lines = out.getvalue().splitlines()
    assert lines[1] == "step 10 of 400, loss 1.250, 5,000 snippets/s, 2:36 left"
    assert [int(line.split()[1]) for line in lines[1:]] == [10, 90, 170, 250, 330]
    assert "nan" not in out.getvalue()


def test_a_terminal_gets_a_bar_that_says_compiling():
    out = StringIO()
    with progress.Progress(Console(file=out, width=100, force_terminal=True), 0, 40) as shown:
        pass
    assert "compiling" in out.getvalue().splitlines()[-1] or "compiling" in out.getvalue()
    assert "nan" not in out.getvalue()
    assert shown is not None


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    writer = make_writer("tensorboard", tmp_path, {})
    writer.write(3, {"loss": 1.5, "other": math.nan})
    writer.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in path.read_bytes()
    assert b"other" not in path.read_bytes()


class Wandb:
    """Stands in for the package: what its functions were called with."""

    def __init__(self):
        self.id, self.started, self.logged, self.finished = "abc", [], [], 0

    def init(self, **options):
        self.started.append(options)
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


def test_wandb_gets_every_step_and_a_resumed_run_is_the_same_run_there(tmp_path, monkeypatch):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("casejax.train.writers.find_spec", lambda name: True)
    for step in (0, 3):
        writer = make_writer("wandb", tmp_path, {"epochs": 2}, step=step)
        writer.write(step + 1, {"loss": 1.5})
        writer.close()
    assert fake.logged == [(1, {"loss": 1.5}), (4, {"loss": 1.5})]
    assert fake.finished == 2
    first, second = fake.started
    assert first == {
        "project": "casejax",
        "dir": str(tmp_path),
        "name": tmp_path.name,
        "config": {"epochs": 2},
        "resume": "allow",
    }
    assert second == {**first, "id": "abc"}


def test_wandb_itself_takes_the_calls_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    writer = make_writer("wandb", tmp_path, {"epochs": 2})
    writer.write(1, {"loss": 1.5})
    writer.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_writer_whose_package_is_missing_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr("casejax.train.writers.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="--log wandb needs wandb: pip install wandb"):
        make_writer("wandb", Path(), {})
