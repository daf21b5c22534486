"""Strict JAX settings, eight CPU devices, shape-checked annotations, and the folder of golden arrays."""

import importlib
import json
import logging
import os
import pkgutil
import typing
from importlib import metadata
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if metadata.version("jaxlib").startswith("0.10."):
    # The emitters of fused loops take half of the time of compiling; later releases have no choice of others.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Third-party modules must all be imported before TYPE_CHECKING reads True below.
import chex  # noqa: F401
import flax.nnx  # noqa: F401
import jax
import numpy as np
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pytest
import rich.progress  # noqa: F401
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# TensorStore's futures complain of damaged checkpoints once more when they are collected.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling is what takes the time here, and nothing is asserted about speed.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# The library imports jaxtyping only for type checkers, so that users need not have it. Here its
# annotations are turned on, and beartype checks the shapes of every call into a casejax function.
import casejax  # noqa: E402

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float
typing.TYPE_CHECKING = True
with install_import_hook("casejax", "conftest.typechecker"):
    for _module in pkgutil.walk_packages(casejax.__path__, "casejax."):
        importlib.import_module(_module.name)
typing.TYPE_CHECKING = False


class Goldens:
    """The folder of golden arrays; a file that is missing there fails the test that asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            pytest.fail(f"golden file {path} is missing; set CASEJAX_GOLDEN to the folder that has it")
        with np.load(path) as archive:
            return dict(archive)

    def notes(self, name: str) -> dict[str, typing.Any]:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            pytest.fail(f"golden file {path} is missing; set CASEJAX_GOLDEN to the folder that has it")
        return json.loads(path.read_text())


@pytest.fixture(scope="session")
def golden() -> Goldens:
    return Goldens(Path(os.environ.get("CASEJAX_GOLDEN", Path(__file__).parent / "golden")))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> typing.Iterator[None]:
    with jax.enable_x64(True):
        yield
