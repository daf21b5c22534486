"""Strict JAX settings, eight CPU devices, shape-checked annotations, and the folder of golden arrays."""

import functools
import gc
import importlib
import json
import logging
import os
import pkgutil
import typing
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# The programs are small: cut into parts they take longer to compile.
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
if metadata.version("jaxlib").startswith("0.10."):
    # The emitters of fused loops take half of the time of compiling; later releases have no choice of others.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
# Set as variables, not with jax.config, so that the processes which tests start compile and keep programs alike.
# Compiling is what takes the time here, and nothing is asserted about speed.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"


def pytest_configure(config: pytest.Config) -> None:
    """Import everything, where tests are run: a process that hands them to others has no use for it."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import_checked()


def import_checked() -> None:
    """Import JAX with strict settings, and casejax with its annotations checked at every call."""
    import jax
    import typechecking  # noqa: F401
    from jaxtyping import install_import_hook

    # TensorStore's futures complain of damaged checkpoints once more when they are collected.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    jax.config.update("jax_numpy_rank_promotion", "raise")

    # jaxtyping is loaded, so the annotations are its types, and beartype checks every call into a casejax function.
    import casejax

    with install_import_hook("casejax", "typechecking.typechecker"):
        for module in pkgutil.walk_packages(casejax.__path__, "casejax."):
            importlib.import_module(module.name)
    # Tracing makes many small objects; to look through all those of the modules each time would take long.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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


@pytest.fixture(scope="module", autouse=True)
def _forgets_programs() -> typing.Iterator[None]:
    """Compiled programs of a module are let go with it, or a worker would end with gigabytes of them."""
    import jax

    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> typing.Iterator[None]:
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def kept_steps() -> typing.Iterator[None]:
    """Runs of the very same arguments share their traced step instead of tracing it anew."""
    from casejax.alignment.train import trainer as align
    from casejax.train import feed

    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((feed, "make_train_steps"), (feed, "make_batch_step"), (align, "make_train_steps")):
            patch.setattr(module, name, functools.cache(getattr(module, name)))
        yield
