"""Attacks that are guided by coverage, some seconds a target; see `guided.py` for more."""

import subprocess
import sys
from pathlib import Path

import pytest

GUIDED = Path(__file__).with_name("guided.py")


@pytest.mark.parametrize("target", ["pickle", "npy", "zip", "json"])
def test_no_guided_change_ends_in_anything_but_a_sentence(target, tmp_path):
    pytest.importorskip("atheris", reason="atheris is not installed (pip install atheris; Linux)")
    words = [sys.executable, str(GUIDED), target, "-runs=3000", "-max_total_time=20"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    assert "Done " in done.stderr
