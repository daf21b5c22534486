"""Several processes at once: peers that stop, readers of what is rebuilt, runs that want the same folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pairs import PATIENCE, PEER_TIMEOUT, finish, losses, start

import casejax
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.synthetic import make_world
from casejax.run.config import Config
from casejax.train import loop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of the signals and locks of Linux")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(casejax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
SIZES = {"hidden": 8, "num_clusters": 4, "num_snippets": 16, "batch_size": 4, "log_every": 2, "checkpoint_every": 2}
CONFIG = Config.of("case").changed(**SIZES, epochs=10**6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "world"
    write_dataset(make_world(num_classes=2, dim=4, train_videos=8, test_videos=6, median=40, longest=80), folder)
    return folder


def until(reached, processes, out):
    since = time.monotonic()
    while not reached():
        assert time.monotonic() - since < PATIENCE, (out / "stderr0").read_text()[-2000:]
        assert all(process.poll() is None for process in processes), (out / "stderr0").read_text()[-2000:]
        time.sleep(0.05)


def lines_of(out):
    return len(losses(out)) if (out / "metrics.jsonl").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_peer_that_is_stopped_is_waited_for_no_longer_than_said(root, tmp_path, victim):
    """SIGSTOP: the other says so and ends within the timeout; the stopped one ends when it wakes; the run goes on."""
    processes = start(root, tmp_path, CONFIG)
    until(lambda: lines_of(tmp_path) >= 3, processes, tmp_path)
    processes[victim].send_signal(signal.SIGSTOP)
    since = time.monotonic()
    try:
        status = processes[1 - victim].wait(PATIENCE)
        took = time.monotonic() - since
    finally:
        processes[victim].send_signal(signal.SIGCONT)
    woken = processes[victim].wait(3 * PEER_TIMEOUT)
    assert took < 3 * PEER_TIMEOUT
    assert 0 not in (status, woken)
    for i in range(2):
        said = ends(tmp_path / f"stderr{i}")
        assert len(said) == 1, said
        assert f"process {i} of 2" in said[0]
        assert "--resume" in said[0]
    go_on(root, tmp_path)


def ends(path):
    """The lines in which a process says why it ends; one may come a moment after its end."""
    since = time.monotonic()
    while not (found := [line for line in path.read_text().splitlines() if line.startswith("error:")]):
        assert time.monotonic() - since < 5, path.read_text()[-2000:]
        time.sleep(0.05)
    return found


def go_on(root, out):
    """One process goes on from what two have left, a few steps."""
    epochs = lines_of(out) + 2  # two steps each
    resumed = loop.train(read_dataset(root), CONFIG.changed(epochs=epochs), out, resume=True, devices=4)
    assert int(resumed.state.step) == 2 * epochs
    assert all(np.isfinite(losses(out)))
    assert len(losses(out)) == epochs


@pytest.mark.slow
def test_a_peer_that_is_slow_costs_time_alone(root, tmp_path):
    """Stopped three times for half of the timeout, it is no lost peer; the losses are those of one process."""
    config = CONFIG.changed(epochs=200)
    processes = start(root, tmp_path / "slow", config)
    for reached in (2, 6, 10):
        until(lambda least=reached: lines_of(tmp_path / "slow") >= least, processes, tmp_path / "slow")
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(PEER_TIMEOUT / 2)
        processes[1].send_signal(signal.SIGCONT)
    assert finish(processes) == [0, 0]
    loop.train(read_dataset(root), config, tmp_path / "alone", devices=4)
    np.testing.assert_allclose(losses(tmp_path / "slow")[:20], losses(tmp_path / "alone")[:20], rtol=1e-3)
    assert len(losses(tmp_path / "slow")) == 200


RACE = """
import os, sys, time
from casejax.errors import CheckpointError
from casejax.runtime.lock import own_folder
for turn in range(20):
    children = []
    read, write = os.pipe()
    begin = time.time() + 0.3
    for _ in range(6):
        if (child := os.fork()) == 0:
            time.sleep(max(0.0, begin - time.time()))
            try:
                with own_folder(sys.argv[1] + f"/{turn}"):
                    time.sleep(0.3)
                os._exit(0)
            except CheckpointError as error:
                os._exit(3 if "another run is in this folder (process" in str(error) else 4)
        children.append(child)
    statuses = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert statuses == [0, 3, 3, 3, 3, 3], statuses
"""


def test_of_processes_that_want_a_folder_at_once_one_gets_it(tmp_path):
    """Six at the same moment, twenty times; the others are told which process it is."""
    words = [sys.executable, "-c", RACE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]


REBUILDING = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from casejax.data.store import Source, packed
folder, role, until = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
source = folder / "source"
def value():
    return int(source.read_text())
class Rows:
    def __iter__(self):
        yield np.full((50, 8), value(), np.float32)
count, wrong = 0, []
while time.time() < until:
    count += 1
    if role == "rebuild":
        new = folder / "new"
        new.write_text(str(count))
        os.replace(new, source)
    before = value()
    try:
        got = np.array(packed(folder / "packed", "train", Source([source], [8], [50], "float32"), Rows()).streams[0])
        if len(np.unique(got)) > 1 or not before <= got[0, 0] <= value():
            wrong.append(f"{before}: {np.unique(got)[:5]}")
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
print(json.dumps({"count": count, "wrong": wrong[:5], "errors": len(wrong)}))
"""


def test_two_readers_of_packed_features_that_are_rebuilt(tmp_path):
    """A third process changes the source and packs it again all the time; every reader has rows that were there."""
    (tmp_path / "source").write_text("0")
    end = str(time.time() + 8)
    words = [sys.executable, "-c", REBUILDING, str(tmp_path)]
    running = [
        subprocess.Popen([*words, role, end], stdout=-1, stderr=-1, text=True, env=ENVIRONMENT)
        for role in ("rebuild", "read", "read")
    ]
    said = [process.communicate(timeout=PATIENCE) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    found = [json.loads(out) for out, _ in said]
    assert [each["errors"] for each in found] == [0, 0, 0], found
    assert all(each["count"] > 3 for each in found)
    assert len(list((tmp_path / "packed").iterdir())) <= 4  # what is packed last, and what a reader packed of before
