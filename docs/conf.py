"""The documentation site: `pip install -e '.[docs]' && sphinx-build -W docs build/site`."""

import re
from typing import Any

import casejax

project = "casejax"
author = "the casejax authors"
version = release = casejax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"casejax {version}"
html_static_path: list[str] = []
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # the notebooks are kept without outputs
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them, with the shapes
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = [("Warns", "params_style"), ("Units", "notes_style")]


def as_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are text with code in backticks: nothing else in them is markup, but for their examples."""
    example = False
    for i, line in enumerate(lines):
        if line.strip() and not line.startswith(" "):
            example = line == "Example:"
        if example:
            continue
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", text) for text in parts[::2]]
        lines[i] = "``".join(parts)


def setup(app: Any) -> None:
    """Before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", as_text, priority=100)
