"""One HTML page about finished runs, which holds all that it shows: it can be sent, and opened without a network.

Charts are drawn by Vega-Lite, whose program is copied into the page.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import casejax
from casejax.report.charts import Spec
from casejax.report.comparison import Finished
from casejax.report.finished import Run, read_run
from casejax.report.sections import Page, compare_runs, describe_run
from casejax.runtime.files import write_text

POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
"""What a browser lets the page do: nothing is loaded, from nowhere."""


def write_page(
    path: Path, folders: Sequence[Path], *, videos: Sequence[str] = (), timelines: int = 6, tiou: float | None = None
) -> None:
    """Write the report of one run, or of several beside each other.

    Args:
      path: of the HTML file; written whole or not at all.
      folders: of runs, of evaluations, or of runs `seed-N`.
      videos: whose timelines are shown; default `timelines` of them, spread evenly over the lengths.
      timelines: how many.
      tiou: threshold of the error analysis; default 0.5.

    Raises:
      DataError: a folder without results, a file that cannot be read, or a video that is not there.
      ImportError: vl-convert is missing; the message says how to install it.
    """
    program = _vega()
    runs = [read_run(folder) for folder in folders]
    page = Page()
    comparable: list[Finished] = [run.finished for run in runs if run.finished is not None]
    if len(runs) > 1:
        compare_runs(page, comparable, [run.name for run in runs if run.finished is None])
    for number, run in enumerate(runs, 1):
        describe_run(page, run, f"run{number}", videos=videos, timelines=timelines, tiou=tiou)
    write_text(path, _document(page.parts, page.charts, runs, program))


def _vega() -> str:
    """The program that draws the charts.

    Raises:
      ImportError: vl-convert is missing.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise ImportError("a report needs vl-convert: pip install 'casejax[report]'") from error
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]


def _document(parts: Sequence[str], charts: Sequence[Spec], runs: Sequence[Run], program: str) -> str:
    files = resources.files("casejax.report")
    style, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    title = "casejax: " + ", ".join(run.name for run in runs)
    links = [(f"#run{n}", run.name) for n, run in enumerate(runs, 1)] if len(runs) > 1 else []
    links = [("#comparison", "comparison"), *links] if links else []
    data = json.dumps(charts, allow_nan=False).replace("<", "\\u003c")
    nav = "".join(f'<a href="{target}">{html.escape(name)}</a>' for target, name in links)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{html.escape(title)}</h1><nav>{nav}</nav></header>
<main>
{"".join(parts)}
</main>
<footer>Written by casejax {casejax.__version__}. Charts: Vega-Lite. Everything is in this file.</footer>
<script type="application/json" id="charts">{data}</script>
<script>{_inside_script(program)}</script>
<script>{script}</script>
</body>
</html>
"""


def _inside_script(text: str) -> str:
    """Text that does not end the script it stands in."""
    return re.sub("<(?=/script|!--)", r"\\x3C", text, flags=re.IGNORECASE)
