"""What importing casejax costs, and what it leaves alone."""

import subprocess
import sys

import pytest

HEAVY = (
    "flax",
    "optax",
    "orbax",
    "matplotlib",
    "scipy",
    "chex",
    "jaxtyping",
    "beartype",
    "rich",
    "torch",
    "tensorflow",
)


@pytest.mark.parametrize(
    "module",
    [
        "casejax",
        "casejax.ot.solver",
        "casejax.labels.self_labels",
        "casejax.losses.classification",
        "casejax.localize.proposals",
        "casejax.alignment",
    ],
)
def test_arrays_only_modules_load_nothing_heavy(module):
    code = (
        "import jax, sys; before = dict(jax.config.values);"
        f"import {module};"
        f"print([m for m in {HEAVY!r} if m in sys.modules], dict(jax.config.values) == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
