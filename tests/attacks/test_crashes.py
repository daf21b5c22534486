"""Killed whenever a job changes its folder, and again while recovering: after a rerun all is as without."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import casejax

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux does")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(casejax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
CRASHING = Path(__file__).with_name("crashing.py")
MOMENTS = {"report": 13, "pack": 20, "extract": 30, "world": 20}
"""Least numbers of moments of the jobs that need no JAX."""
STATES = {"train": 20, "select": 30, "convert": 10, "publish": 5, "export": 10, "predict": 5}
"""Least numbers of states in which kills leave the jobs that do."""
AT_ONCE = ("convert", "export")
"""Jobs whose recovery passes through no state that a first kill does not leave too."""


@pytest.fixture
def fast(tmp_path):
    """A folder in memory where there is one: syncing a disk some thousand times takes minutes."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    folder = memory / f"casejax-{os.getpid()}-{tmp_path.name}"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("job", MOMENTS)
def test_a_job_killed_anywhere_ends_as_one_that_was_not(job, fast):
    found = moments(job, fast, stride=3)
    assert found["wrong"] == []
    assert found["moments"] >= MOMENTS[job]
    assert found["tried"] > found["moments"] // 2


@pytest.mark.slow
@pytest.mark.parametrize("job", MOMENTS)
def test_every_single_moment(job, fast):
    found = moments(job, fast, stride=1)
    assert found["wrong"] == []
    assert found["tried"] == 2 * found["moments"]


def moments(job, folder, *more, stride=1):
    environment = ENVIRONMENT | {"CASEJAX_CRASH_STRIDE": str(stride)}
    words = [sys.executable, CRASHING, job, folder, *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("job", [*MOMENTS, *STATES])
def test_from_whatever_kills_leave_a_rerun_ends_the_same(job, fast):
    """Every state in which one kill, or several in a row, can leave the folder; see crashing.py."""
    found = moments(job, fast, "--states")
    assert found["wrong"] == []
    assert found["states"] >= STATES.get(job, 5)
    assert found["recovering"] > 0  # kills while recovering from a kill were among them
    assert (found["longest"] > 1) != (job in AT_ONCE)


@pytest.mark.slow
@pytest.mark.parametrize("job", STATES)
def test_real_kills_end_the_same(job, fast):
    """SIGKILL at every seventh moment of what needs JAX; CASEJAX_CRASH_STRIDE=1 takes every moment."""
    found = moments(job, fast, stride=int(os.environ.get("CASEJAX_CRASH_STRIDE", "7")))
    assert found["wrong"] == []
    assert found["tried"] > 0
