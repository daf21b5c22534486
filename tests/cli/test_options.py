"""Flags that say where a run runs."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from casejax.cli.options import add_run_options

KEEP = """
import sys, jax
from pathlib import Path
from casejax.cli.options import use_compilation_cache
before = jax.config.jax_compilation_cache_dir
use_compilation_cache(None)
assert jax.config.jax_compilation_cache_dir == before
use_compilation_cache(Path(sys.argv[1]))
jax.jit(lambda x: x + 1)(1.0)
"""


def test_compiled_programs_are_kept_by_option(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    subprocess.run([sys.executable, "-c", KEEP, tmp_path / "cache"], check=True, env=environment)
    assert any(path.is_file() for path in (tmp_path / "cache").iterdir())


def test_run_options_parse():
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    arguments = parser.parse_args(["--packed", "folder", "--packed-dtype", "bfloat16", "--devices", "2"])
    assert (arguments.packed, arguments.packed_dtype, arguments.devices) == (Path("folder"), "bfloat16", 2)
    assert arguments.compilation_cache is None
    with pytest.raises(SystemExit):
        parser.parse_args(["--packed-dtype", "int8"])
