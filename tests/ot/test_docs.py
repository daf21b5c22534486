"""The examples of docs/sinkhorn.md run, and do what they are said to."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

DOCS = Path(__file__).parent.parent.parent / "docs" / "sinkhorn.md"


def test_all_blocks_run():
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 7
    exec("\n".join(blocks), names)
    assert bool(names["result"].converged)
    np.testing.assert_allclose(names["gradient"], names["result"].plan, rtol=1e-5)
    np.testing.assert_allclose(names["value"].primal, names["value"].dual, rtol=1e-3)
    assert np.isfinite(names["loss"])
    assert np.abs(names["slope"]).max() > 0
    np.testing.assert_allclose(names["sharded_plan"], names["codes"](names["a"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(names["part"].sum(axis=1), 1, rtol=1e-4)
    nearest, rows = names["nearest"], names["embeddings"][:100]
    logs = names["near"](names["prototypes"], rows) / 2 + nearest.row_potential[:100, None]
    np.testing.assert_allclose(jnp.exp(logs + nearest.column_potential[None, :]).sum(axis=1), 1, rtol=1e-4)
    matched = names["matched"]
    assert matched.argmax(axis=1).tolist()[:5] == [0, 1, 2, 3, 4]
    assert float(jnp.diagonal(matched).min()) > 0.5 > float(matched[5].sum())
    assert float(names["by_bin"]) > 0
    np.testing.assert_allclose(names["loads"], 250 / 8, rtol=1e-2)
    assert float(jnp.abs(names["wished"].plan.sum(axis=0) - 250 / 8).max()) > 1
    assert float(names["weight"][250:].max()) == 0
    assert jax.device_count() == 8
