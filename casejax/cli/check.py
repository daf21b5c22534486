"""`casejax check`: what is in a data set, and what is missing or odd in it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, asks_for_all, run_command
from casejax.cli.sources import add_data_options, check_sources, read_data
from casejax.data.inventory import Inventory, compare_with_published, nestings, oddities, take_inventory
from casejax.errors import DataError, DataWarning, OptionError
from casejax.records import Dataset
from casejax.runtime.files import plain


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status: 0 where nothing is found, 1 for findings, 2 for wrong options."""
    words = list(words)
    usage = "casejax check DIR [options]"
    parser = Parser(everything=asks_for_all(words), prog="casejax check", usage=usage, description=COMMANDS["check"])
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="folder of a published data set")
    add_data_options(parser)
    parser.add_argument("--values", action="store_true", help="read all values too, not the headers alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> int:
        if parsed.folder is not None and parsed.data is not None:
            raise OptionError(f"{parsed.folder} and --data {parsed.data} name two data sets; name one")
        parsed.data = parsed.data or parsed.folder
        check_sources(parsed)
        if parsed.data is None and parsed.features is None:
            raise OptionError("name the data set: casejax check DIR, or --features DIR with --labels CSV")
        report = _check(parsed)
        if parsed.json:
            stage(json.dumps(plain(report), indent=1, allow_nan=False))
        else:
            _print(report)
        return 1 if report["findings"] else 0

    return run_command(command)


def _check(parsed: Any) -> dict[str, Any]:
    """All that can be said of a data set, as plain values."""
    dataset: Dataset | None = None
    findings: list[dict[str, Any]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            dataset = read_data(parsed, lenient=True, headers_only=not parsed.values)
        except DataError as error:
            findings.append({"kind": "unusable", "message": str(error), "count": 1, "places": []})
    said = [each.message for each in caught if isinstance(each.message, DataWarning)]
    report: dict[str, Any] = {"source": str(parsed.data or parsed.features)}
    if dataset is not None:
        said += oddities(dataset)
        splits = [split for split in (dataset.train, dataset.test) if split.videos]
        report |= {
            "classes": list(dataset.classes),
            "streams": dict(zip(dataset.streams, dataset.dims, strict=True)),
            "timing": dataset.timing.describe(),
            "splits": {split.name: asdict(take_inventory(dataset, split)) for split in splits},
            "nested": [list(each) for each in nestings(dataset)],
            "published": compare_with_published(dataset),
        }
    findings += [
        {"kind": each.kind, "message": str(each), "count": len(each.places), "places": list(each.places)}
        for each in said
    ]
    return report | {"findings": findings}


def _print(report: dict[str, Any]) -> None:
    console = Console()

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    if "splits" in report:
        streams = ", ".join(f"{name} of {dim}" for name, dim in report["streams"].items())
        line(f"{report['source']}: {len(report['classes'])} classes, streams {streams}, {report['timing']}")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("")
        inventories = {name: Inventory(**counts) for name, counts in report["splits"].items()}
        for name in inventories:
            table.add_column(name, justify="right")
        for title, value in _ROWS:
            table.add_row(title, *(value(each) for each in inventories.values()))
        console.print(table)
        for text in report["published"]:
            line(text)
        for one, other, count in report["nested"]:
            line(f"all {count} instances of {one} are instances of {other} too")
    for found in report["findings"]:
        line(f"{found['kind']}: {found['message']}")
    count = len(report["findings"])
    line("nothing is missing or odd" if not count else f"{count} finding{'s' if count > 1 else ''}")


_ROWS = (
    ("videos", lambda i: f"{i.videos:,}"),
    ("with labels", lambda i: f"{i.labelled:,}"),
    ("with annotated times", lambda i: f"{i.timed:,}"),
    ("classes", lambda i: f"{i.classes:,}"),
    ("instances", lambda i: f"{i.instances:,}"),
    ("labels a video", lambda i: f"{i.labels_per_video:.2f}"),
    ("rows", lambda i: f"{i.rows[0]:,}"),
    ("rows of a video, least, median, most", lambda i: f"{i.rows[1]:,}, {i.rows[2]:,.0f}, {i.rows[3]:,}"),
    ("hours", lambda i: f"{i.hours:.2f}"),
    ("foreground", lambda i: "" if i.foreground != i.foreground else f"{i.foreground:.0%}"),
    (
        "seconds of an instance, mean, median",
        lambda i: f"{i.instance_seconds[0]:.1f}, {i.instance_seconds[1]:.1f}" if i.instances else "",
    ),
)
