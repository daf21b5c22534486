"""Parameters and multiply-accumulates of every model of the family, Table 1 of CASE; `ablations.py --table 1`.

One video of 750 snippets, two streams of 1024 dimensions, 20 classes, inference. Multiply-accumulates are half of the
floating-point operations that XLA's cost analysis counts in the program before it is optimised; it counts everything,
element by element, so that they come out a little above the products of the layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console
from rich.table import Table

from casejax.methods import METHODS, find

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
    "student": ("student", None),
}
"""The method of each model, and G multiply-accumulates and M parameters in the paper."""


def sizes(name: str) -> tuple[int, float]:
    """Parameters and multiply-accumulates of a method's network."""
    method, graphdefs = find(name), []

    def parameters() -> object:
        network = method.network(DIMS, CLASSES, settings=method.settings, rngs=nnx.Rngs(0))
        # the centers of A2CL-PT are no part of what predicts
        graphdef, params = nnx.split(network.network if hasattr(network, "centers") else network, nnx.Param)
        graphdefs.append(graphdef)
        return params

    shapes = jax.eval_shape(parameters)
    features = tuple(jax.ShapeDtypeStruct((1, SNIPPETS, dim), jnp.float32) for dim in DIMS)

    @jax.jit
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
    for name, (method, paper) in MODELS.items():
        own = sizes(method)
        headed = sizes(f"{method}+case") if METHODS[method].can_be_clustered else None
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
