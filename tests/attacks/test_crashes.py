"""Killed whenever a job changes its folder, and again while recovering: after a rerun all is as without."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import casejax

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux does")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(casejax.__file__).parents[1])}
CRASHING = Path(__file__).with_name("crashing.py")
MOMENTS = {"report": 15, "pack": 20, "extract": 30, "world": 20}
"""Least numbers of moments of the jobs that need no JAX."""


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
    found = moments(job, fast, 3)
    assert found["wrong"] == []
    assert found["moments"] >= MOMENTS[job]
    assert found["tried"] > found["moments"] // 2


@pytest.mark.slow
@pytest.mark.parametrize("job", MOMENTS)
def test_every_single_moment(job, fast):
    found = moments(job, fast, 1)
    assert found["wrong"] == []
    assert found["tried"] == 2 * found["moments"]


def moments(job, folder, stride):
    environment = ENVIRONMENT | {"CASEJAX_CRASH_STRIDE": str(stride)}
    words = [sys.executable, CRASHING, job, folder]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def crash(job, folder, at, cache):
    environment = ENVIRONMENT | {"CRASHING_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, CRASHING, job, folder, "--at", str(at)]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])["moments"] if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "select"])
def test_a_run_killed_anywhere_ends_with_the_same_results(job, fast, tmp_path):
    """Every moment of a whole run; CASEJAX_CRASH_STRIDE=7 takes every seventh."""
    sys.path.insert(0, str(CRASHING.parent))
    from crashing import tree

    fast.mkdir()
    (fast / "whole").mkdir()
    count = crash(job, fast / "whole", 0, tmp_path)
    want = tree(fast / "whole")
    assert {"run/results.json", "run/predictions.json"} <= want.keys()
    wrong = []
    for at in range(1, count + 1, int(os.environ.get("CASEJAX_CRASH_STRIDE", "1"))):
        place = fast / str(at)
        place.mkdir()
        assert crash(job, place, at, tmp_path) is None
        crash(job, place, 0, tmp_path)
        got = tree(place)
        if got != want:
            wrong.append((at, sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))))
        shutil.rmtree(place)
    assert wrong == []
