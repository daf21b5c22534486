"""The names in the table of README exist."""

import importlib
import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_every_function_in_the_table_exists():
    table = README.split("## What is built from which equation")[1].split("\n\nAgainst")[0]
    found = 0
    for row in table.splitlines():
        if not row.startswith("| `"):
            continue
        names = re.findall(r"`([\w.]+)`", row.split("|")[1])
        module = importlib.import_module("casejax." + names[0].rsplit(".", 1)[0])
        for name in names:
            assert hasattr(module, name.rsplit(".", 1)[-1]), name
            found += 1
    assert found >= 20
