"""Libraries that damaged files can crash run in a process apart: this one goes on, whatever the file."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hostile_readers import READERS, ROWS, Reader
from mutations import mutate
from refusals import answer

import casejax
from casejax.alignment.networks.keras_weights import read_keras_weights
from casejax.data.layouts.feature_files import load_features_file
from casejax.errors import CheckpointError, DataError
from casejax.runtime import apart, hdf5
from casejax.runtime.checkpoint import SUMS, Checkpoints

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(casejax.__file__).parents[1])}


def many(folder, **options):
    with h5py.File(folder / "a.h5", "w", **options) as file:
        for number in range(20):
            file[f"g{number}/x"] = ROWS
        file.create_dataset("rgb", data=np.tile(ROWS, (50, 1)), compression="gzip", shuffle=True, chunks=(50, 3))
        file.create_dataset("lzf", data=np.tile(ROWS, (50, 1)), compression="lzf", fletcher32=True)
        file.create_dataset("names", data=["x", "yy"] * 20)
    return folder / "a.h5"


def matlab(folder):
    """As MATLAB's -v7.3 writes: HDF5 behind a block of text."""
    path = many(folder, userblock_size=512)
    content = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + content[128:])
    return path


def read_all(path):
    return [hdf5.read_array(path, name, remedy="fetch it") for name in hdf5.array_names(path, remedy="fetch it")[:-4]]


HDF5 = {
    "features": Reader(READERS["h5"].write, load_features_file),
    "keras": Reader(READERS["keras"].write, read_keras_weights),
    "many": Reader(many, read_all),
    "latest": Reader(lambda folder: many(folder, libver="latest"), read_all),
    "matlab": Reader(matlab, read_all),
}


def flip(data, rng):
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("cases", [10, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", HDF5)
def test_no_damaged_hdf5_ends_the_process(tmp_path, name, cases):
    reader, rng = HDF5[name], random.Random(f"1 {name}")
    path = reader.write(tmp_path)
    good = path.read_bytes()
    assert len(reader.read(path))
    for _ in range(cases):
        answer(reader, path, rng.choice((flip, mutate))(good, rng))


class State(NamedTuple):
    step: jax.Array
    key: jax.Array
    params: dict


def state(step):
    params = {f"layer {number}": jnp.full((30, 40 + number), number, jnp.float32) for number in range(6)}
    return State(jnp.int32(step), jax.random.key(0), params)


@pytest.fixture
def unsummed(tmp_path):
    """A checkpoint as earlier releases left it."""
    with Checkpoints(tmp_path / "whole") as checkpoints:
        checkpoints.save(state(3), {"a": 1})
    (tmp_path / "whole" / "3" / SUMS).unlink()
    return tmp_path / "whole"


def refusal(folder):
    try:
        with Checkpoints(folder) as checkpoints:
            checkpoints.meta()
            checkpoints.restore(state(0))
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("cases", [8, pytest.param(400, marks=pytest.mark.slow)])
def test_no_damaged_checkpoint_without_sums_ends_the_process(tmp_path, unsummed, cases):
    with Checkpoints(unsummed) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(state(0)).params["layer 5"], state(3).params["layer 5"])
    rng, folder, refused = random.Random(1), tmp_path / "damaged", 0
    names = sorted(path.relative_to(unsummed) for path in unsummed.rglob("*") if path.is_file())
    for _ in range(cases):
        shutil.copytree(unsummed, folder)
        path = folder / rng.choice([name for name in names if name.name != "commit_success.txt"])
        path.write_bytes(rng.choice((flip, mutate))(path.read_bytes(), rng))
        said = refusal(folder)
        refused += bool(said)
        assert not said or (str(folder) in said and "\n" not in said)
        shutil.rmtree(folder)
    assert refused > cases / 4


def test_a_checkpoint_with_sums_starts_no_process(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state(3), {})
    monkeypatch.setattr(apart.subprocess, "Popen", None)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state(0)).step) == 3


@pytest.fixture
def asked(tmp_path):
    """A process apart that has answered, and a file it can read."""
    path = READERS["h5"].write(tmp_path)
    with apart.Apart() as process:
        assert process.ask("list_names", path, remedy="fetch it", top=None)[0] == ["rgb"]
        yield process, path


@POSIX
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGSEGV, r"ends the process \(SIGSEGV\)"), (signal.SIGXCPU, "does not end")],
)
def test_a_process_that_dies_over_a_file_is_one_sentence(asked, number, said):
    process, path = asked
    child = process._process
    child.send_signal(signal.SIGSTOP)  # so that it is in the middle of its answer

    def end():
        time.sleep(0.3)
        child.send_signal(number)
        child.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(DataError, match=rf"a\.h5: is damaged so that reading it {said}; fetch it$"):
        process.ask("list_names", path, remedy="fetch it", top=None)
    thread.join()
    assert process.ask("list_names", path, remedy="fetch it", top=None)[0] == ["rgb"]  # by another one


@POSIX
def test_a_process_that_was_killed_between_two_files_is_started_again(asked):
    process, path = asked
    process._process.kill()
    process._process.wait()
    assert process.ask("list_names", path, remedy="fetch it", top=None)[0] == ["rgb"]


@POSIX
def test_it_ends_with_the_process_that_asks(asked):
    code = "import sys, os; from casejax.runtime import apart\n"
    code += "apart.shared.ask('list_names', sys.argv[1], remedy='', top=None); print(apart.shared._process.pid)\n"
    code += "sys.stdout.flush(); os.kill(os.getpid(), 9)"
    done = subprocess.run(
        [sys.executable, "-c", code, asked[1]], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    for _ in range(100):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        if (
            Path(f"/proc/{int(done.stdout)}/stat").is_file()
            and ") Z " in Path(f"/proc/{int(done.stdout)}/stat").read_text()
        ):
            return  # it has ended, and nobody has asked how
        time.sleep(0.05)
    pytest.fail("the process apart lives on")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize(
    ("work", "end"), [("while True: pass", -signal.SIGXCPU), ("bytearray(1 << 28); print('taken')", 1)]
)
def test_what_an_answer_takes_is_bounded(work, end):
    code = f"from casejax.runtime import apart\napart.limit(100)\n{work}"
    since = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == end, done
    assert done.stdout == ""
    assert time.monotonic() - since < 60
