"""D: a disk that is full is one line with the file, the bytes needed and those free; what was there stays."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import casejax
from casejax.errors import WriteError
from casejax.runtime import files

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(casejax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of the files of Linux")
DISKS = Path(__file__).with_name("full_disks.py")
FREE = r"No space left on device \([\d,]+ bytes are needed, [\d,]+ are free\); make room, or name another folder"


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from casejax.runtime import files
try:
    files.{job}
except files.WriteError as error:
    print(error)
"""


@LINUX
@pytest.mark.parametrize(
    "job",
    [
        "write_text('F', 'x' * 100000)",
        "append_line('F', 'x' * 100000)",
        "write_json('F', ['x' * 99999])",
    ],
)
def test_d_a_disk_that_is_full_is_one_line(tmp_path, job):
    """A limit on the size of files stands for the disk's end; the system's words are the same but for the reason."""
    command = [sys.executable, "-c", FULL.format(job=job)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env=ENVIRONMENT)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "F: cannot be written: File too large (" in done.stdout
    assert "are free); make room, or name another folder" in done.stdout
    assert not list(tmp_path.glob(".*"))


SAVE = """
import resource, signal, sys, typing, pathlib
import jax, jax.numpy as jnp
from casejax.errors import WriteError
from casejax.runtime.checkpoint import Checkpoints
class State(typing.NamedTuple):
    step: jax.Array
    key: jax.Array
    values: jax.Array
def state(step):
    return State(jnp.int32(step), jax.random.key(0), jax.random.normal(jax.random.key(1), (300, 300)))
with Checkpoints(pathlib.Path("c")) as checkpoints:
    checkpoints.save(state(1), {})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        checkpoints.save(state(2), {})
    except WriteError as error:
        print(error)
with Checkpoints(pathlib.Path("c")) as checkpoints:
    print(checkpoints.steps, int(checkpoints.restore(state(0)).step))
"""


@LINUX
def test_d_a_checkpoint_on_a_full_disk_is_one_line_and_the_one_before_stays(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAVE], capture_output=True, text=True, cwd=tmp_path, check=True, env=ENVIRONMENT
    )
    first, second = done.stdout.splitlines()
    assert "c/2: cannot be written: " in first
    assert "622,156 bytes are needed" in first
    assert second == "[1] 1"
    assert done.stderr == ""
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1"]


LATE = """
import asyncio, threading
import tensorstore
from casejax.runtime import checkpoint
checkpoint._mute_late_futures()
checkpoint._mute_late_futures()
promise, future = tensorstore.Promise.new()
loop = asyncio.new_event_loop()
async def wait():
    await future
async def begin():
    global task
    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0.05)
loop.run_until_complete(begin())
loop.close()
thread = threading.Thread(target=lambda: promise.set_exception(ValueError("disk full")))
thread.start()
thread.join()
class Other:
    def __del__(self):
        raise KeyError("another")
Other()
task._log_destroy_pending = False
"""


def test_d_a_write_that_fails_after_its_save_says_nothing():
    """A future of TensorStore that ends when its event loop is closed; whatever else cannot be raised is still said."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert "Event loop is closed" not in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "another" in done.stderr


def test_d_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(WriteError, match=r"a: cannot be written: .*; a file stands where a folder is needed"):
            files.write_text(path, "x")


def may_mount(folder):
    """Whether this process may mount a tmpfs."""
    words = ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", str(folder)]
    try:
        if subprocess.run(words, capture_output=True, check=False).returncode:
            return False
    except OSError:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "pack", "export"])
def test_d_disks_of_24_sizes(tmp_path, job):
    """On a disk too small for a job it is refused in one line, with status 2; with room it ends as on a large disk."""
    if not may_mount(tmp_path):
        pytest.skip("a tmpfs cannot be mounted here: that needs root")
    done = subprocess.run(
        [sys.executable, DISKS, job, tmp_path], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr  # not at the end of the process either
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["cases"]) == 24
    assert sum(case["status"] == 2 for case in found["cases"]) >= 20
    for case in found["cases"]:
        assert case["again"] == 0, case
        assert case["remarks"] == "", case
        assert case["rest"] == [], case
        if case["status"]:
            assert case["status"] == 2, case
            assert case["said"].startswith("error: "), case
            assert "\n" not in case["said"], case
            assert str(tmp_path / "disk") in case["said"]
            assert re.search(FREE, case["said"]), case
        else:
            assert case["said"] == "", case
