"""Several processes on one machine, over loopback: the same run as one process, and an end when one is killed."""

import os
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from pairs import PATIENCE, PEER_TIMEOUT, finish, losses, start

from casejax.cli.options import Parser, add_cluster_options, join_cluster
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.synthetic import make_world
from casejax.errors import OptionError
from casejax.run.config import Config
from casejax.runtime import checkpoint, distributed
from casejax.train import loop

CONFIG = Config.of("case").changed(
    num_clusters=4,
    hidden=16,
    num_snippets=24,
    batch_size=4,
    learning_rate=1e-3,
    epochs=2,
    log_every=2,
    checkpoint_every=2,
    rank="true",
    prior_std=0.3,
    data_parts=2,
)
pytestmark = pytest.mark.usefixtures("kept_steps")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "world"
    write_dataset(make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400), folder)
    return folder


@pytest.fixture(scope="module")
def pair(root, tmp_path_factory):
    """A finished run of two processes: its folder."""
    out = tmp_path_factory.mktemp("pair")
    statuses = finish(start(root, out, CONFIG.changed(feed="stream")))
    assert statuses == [0, 0], [(out / f"stderr{i}").read_text()[-2000:] for i in range(2)]
    return out


@pytest.fixture(scope="module")
def alone(root, kept_steps, tmp_path_factory):
    """The run of one process, everything on its four devices: its folder and its parameters."""
    out = tmp_path_factory.mktemp("alone")
    return out, loop.train(read_dataset(root), CONFIG.changed(feed="device"), out, devices=4).state.params


def test_two_processes_train_to_the_parameters_of_one(pair, alone):
    """2 x 2 devices, each process with its own files and streaming, against 1 x 4, everything on the device."""
    folder, wanted = alone
    np.testing.assert_allclose(losses(pair), losses(folder), rtol=1e-5)
    with np.load(pair / "params.npz") as params:
        for mine, theirs in zip(params.values(), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_each_process_opens_its_own_feature_files_alone(root, pair):
    ids = (root / "split_train.txt").read_text().split()
    for i, own in enumerate((ids[:8], ids[8:])):
        opened = {Path(line).stem for line in (pair / f"report{i}").read_text().splitlines() if "/train/" in line}
        assert opened == set(own)
    assert "/test/" not in (pair / "report1").read_text()


def end_of_a_pair(out, processes, victim, reached):
    """Kill one process once a checkpoint is there; the other must end soon, and say why and how to go on."""
    since = time.monotonic()
    (out / "checkpoints").mkdir(exist_ok=True)
    while not any(int(name) >= reached for name in os.listdir(out / "checkpoints") if name.isdecimal()):
        assert time.monotonic() - since < PATIENCE, (out / "stderr0").read_text()[-2000:]
        time.sleep(0.05)
    processes[victim].send_signal(signal.SIGKILL)
    since = time.monotonic()
    statuses = finish(processes)
    assert time.monotonic() - since < 3 * PEER_TIMEOUT
    assert statuses[victim] == -signal.SIGKILL
    assert statuses[1 - victim] not in (0, -signal.SIGKILL)
    said = out / f"stderr{1 - victim}"
    since = time.monotonic()
    while f"error: process {1 - victim} of 2" not in said.read_text():  # the obituary comes after the end
        assert time.monotonic() - since < 5, said.read_text()[-2000:]
        time.sleep(0.05)
    assert "--resume" in said.read_text()


def go_on(root, out):
    """One process resumes what two left, to the end of an epoch."""
    with checkpoint.Checkpoints(out / "checkpoints") as checkpoints:
        epochs = checkpoints.latest // 4 + 1
    resumed = loop.train(read_dataset(root), CONFIG.changed(epochs=epochs), out, resume=True, devices=4)
    assert int(resumed.state.step) == 4 * epochs
    assert all(np.isfinite(losses(out)))


@pytest.mark.slow
def test_a_run_goes_from_two_processes_to_one_and_back_and_outlives_a_kill(root, pair, alone):
    """Two processes of two devices, then one of one device, then two of two again; against one of four all along.

    Then one of the two is killed, the other ends, and one process goes on.
    """
    with checkpoint.Checkpoints(pair / "checkpoints") as checkpoints:
        assert checkpoints.latest == 8
    folder, _ = alone
    resumed, whole = (
        loop.train(read_dataset(root), CONFIG.changed(epochs=3), out, resume=True, devices=devices)
        for out, devices in ((pair, 1), (folder, 4))
    )
    assert int(resumed.state.step) == 12
    for mine, theirs in zip(*(jax.tree.leaves(x.state.params) for x in (resumed, whole)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-5)
    end_of_a_pair(pair, start(root, pair, CONFIG.changed(epochs=10**6), "--resume"), victim=1, reached=16)
    loop.train(read_dataset(root), CONFIG.changed(epochs=4), folder, resume=True, devices=4)
    np.testing.assert_allclose(losses(pair)[:8], losses(folder), rtol=1e-4)  # two steps a line
    go_on(root, pair)


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_other_ends_and_the_run_resumes(root, tmp_path):
    end_of_a_pair(tmp_path, start(root, tmp_path, CONFIG.changed(epochs=10**6)), victim=0, reached=4)
    go_on(root, tmp_path)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_and_saves_both(root, tmp_path):
    processes = start(root, tmp_path, CONFIG.changed(epochs=10**6, checkpoint_every=10**6))
    since = time.monotonic()
    while not (tmp_path / "metrics.jsonl").exists() or not losses(tmp_path):
        assert time.monotonic() - since < PATIENCE
        time.sleep(0.05)
    processes[1].terminate()
    assert finish(processes) == [3] * 2
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest == 2 * len(losses(tmp_path))


def parsed(*flags):

    parser = Parser()
    add_cluster_options(parser)
    return parser.parse_args(flags)


def test_flags_that_do_not_go_together_are_refused():
    with pytest.raises(OptionError, match="go together"):
        join_cluster(parsed("--coordinator", "127.0.0.1:1"))
    with pytest.raises(OptionError, match="--process-id 2 is not one of 2 processes"):
        join_cluster(parsed("--coordinator", "h:1", "--num-processes", "2", "--process-id", "2"))
    join_cluster(parsed())  # nothing asked for, nothing done
    assert jax.process_count() == 1


def test_one_process_agrees_with_itself():
    assert distributed.own_part(4) == (0, 1)
    assert distributed.largest(3) == distributed.from_first(3) == 3
    distributed.wait_for_all("nobody")
    error = jax.errors.JaxRuntimeError("out of memory")
    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        distributed.raise_peer_lost(error)
