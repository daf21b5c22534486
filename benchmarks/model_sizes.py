"""Parameters and multiply-accumulates of every model of the family, Table 1 of CASE; `ablations.py --table 1`.

One video of 750 snippets, two streams of 1024 dimensions, 20 classes, inference. Multiply-accumulates are half of the
floating-point operations that XLA's cost analysis counts in the program before it is optimised; it counts everything,
element by element, so that they come out a little above the products of the layers.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from casejax.methods.recipes import recipe_of
from casejax.run.base_options import with_base
from flax import nnx
from rich.console import Console
from rich.table import Table

from casejax.run.config import Config

DIMS, CLASSES, SNIPPETS = (1024, 1024), 20, 750
MODELS = {
    "W-TALC": ("wtalc", None),
    "BaS-Net": ("basnet", (38.60, 26.26)),
    "ACM-Net": ("acmnet", (9.48, 12.63)),
    "CoLA": ("cola", (9.47, 12.62)),
    "CO2-Net": ("co2net", (20.88, 34.13)),
    "RSKP": ("rskp", (6.90, 4.20)),
    "DELU": ("delu", (20.88, 34.13)),
    "A2CL-PT": ("a2cl_pt", None),
    "ASL": ("asl", None),
    "AICL": ("aicl", None),
    "baseline": ("baseline", None),
    "CASE": ("case", (1.60, 2.13)),
}
"""The base of each model, and G multiply-accumulates and M parameters in the paper."""


def sizes(base: str, *, case: bool = False) -> tuple[int, float]:
    """Parameters and multiply-accumulates of a base, with the clustering head on it or without."""
    config = with_base(Config.of("case"), base, case=case)
    recipe = recipe_of(config)
    graphdefs = []

    def parameters() -> object:
        begun = recipe.start(config, DIMS, CLASSES)
        graphdefs.append(begun.graphdef)
        return begun.params[0] if base == "a2cl_pt" else begun.params  # centers are no part of the network

    shapes = jax.eval_shape(parameters)
    features = tuple(jax.ShapeDtypeStruct((1, SNIPPETS, dim), jnp.float32) for dim in DIMS)

    @partial(jax.jit)
    def forward(params: object, features: tuple[jax.Array, ...]) -> object:
        return nnx.merge(graphdefs[0], params)(features)

    operations = forward.lower(shapes, features).cost_analysis()["flops"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes)), operations / 2


def print_sizes(console: Console) -> None:
    """Print every model beside the paper's figures."""
    console.print("\nTable 1: one video of 750 snippets, inference", style="bold")
    table = Table("", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("parameters", "with CASE", "paper, M", "G multiply-accumulates", "with CASE", "paper"):
        table.add_column(name, justify="right")
    for name, (base, paper) in MODELS.items():
        own = sizes(base)
        headed = None if base in ("case", "a2cl_pt", "wtalc") else sizes(base, case=True)
        macs, params = ("-", "-") if paper is None else (f"{figure:.2f}" for figure in paper)
        table.add_row(
            name,
            f"{own[0]:,}",
            "-" if headed is None else f"{headed[0]:,}",
            params,
            f"{own[1] / 1e9:.2f}",
            "-" if headed is None else f"{headed[1] / 1e9:.2f}",
            macs,
        )
    console.print(table)
