"""Training: the same on any number of devices, after any interruption, and for every platform."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import errors
from casejax.data import sampling
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.synthetic import make_world
from casejax.errors import DataError
from casejax.run import state
from casejax.run.config import Config
from casejax.runtime import checkpoint, mesh
from casejax.train import feed, loop, step

CONFIG = Config.of("case").changed(
    num_clusters=4,
    hidden=16,
    num_snippets=32,
    batch_size=8,
    learning_rate=1e-3,
    epochs=4,
    log_every=3,
    checkpoint_every=4,
    rank="true",
    prior_std=0.3,
)
EXAMPLE = Path(__file__).parents[2] / "examples" / "train_thumos.py"
pytestmark = pytest.mark.usefixtures("kept_steps")


def one_stream(world):
    """A step with one stream compiles in half the time of one with two."""
    first = {
        name: replace(split, features=replace(split.features, streams=split.features.streams[:1]))
        for name, split in (("train", world.train), ("test", world.test))
    }
    return replace(world, streams=world.streams[:1], **first)


@pytest.fixture(scope="module")
def world():
    return one_stream(make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400))


@pytest.fixture(scope="module")
def whole(world, kept_steps, tmp_path_factory):
    """An uninterrupted run of 8 steps on one device, and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return loop.train(world, CONFIG, out, devices=1), out


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(a, b):
    chex.assert_trees_all_equal(a.params, b.params)
    chex.assert_trees_all_equal(a.opt_state, b.opt_state)
    chex.assert_trees_all_equal(a.cluster_labels, b.cluster_labels)


def test_every_log_step_has_its_line(whole):
    trained, out = whole
    assert [line["step"] for line in lines(out)] == [3, 6, 8]
    for line in lines(out):
        assert {"loss", "loss_video", "loss_attention", "loss_snippet", "loss_cluster"} <= line.keys()
        assert {"entropy_snippet_labels", "entropy_cluster_labels", "entropy_mean_assignment"} <= line.keys()
        assert {"snippet_column_error", "cluster_column_error", "snippets_per_second"} <= line.keys()
        assert all(np.isfinite(value) for value in line.values())
        terms = line["loss_video"] + line["loss_attention"] + line["loss_snippet"] + 0.3 * line["loss_cluster"]
        np.testing.assert_allclose(line["loss"], terms, rtol=1e-5)
    assert int(trained.state.step) == 8


def assert_same_run(a, folder_a, b, folder_b):
    """Metrics and parameters of two runs agree, but for rounding."""
    for line, other in zip(lines(folder_a), lines(folder_b), strict=True):
        for name in line.keys() - {"snippets_per_second"}:
            np.testing.assert_allclose(line[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
    for leaf, other in zip(jax.tree.leaves(a.state.params), jax.tree.leaves(b.state.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=2e-5)


def test_devices_do_not_change_the_run(world, whole, tmp_path):
    eight = loop.train(world, CONFIG, tmp_path, devices=8)
    assert len(eight.state.step.sharding.device_set) == 8
    assert_same_run(*whole, eight, tmp_path)


def test_the_batch_is_really_sharded(world):
    eight = mesh.make_mesh(8)
    graphdef, start = state.initial_state(CONFIG, world.dims, len(world.classes))
    split = feed.pack(world.train, world.classes, eight)
    start = mesh.place(start, mesh.state_shardings(start, eight, CONFIG.method.split))
    train_steps = feed.make_train_steps(graphdef, CONFIG, eight, compact=False)  # as in the run above
    compiled = train_steps.lower(start, split, jnp.int32(1)).compile().as_text()
    own, full = 1 * 32, 8 * 32  # snippets on one device, and in all
    assert f"f32[{own},16]" in compiled  # embeddings of one video
    assert f"f32[{full},16]" not in compiled
    assert "all-reduce" in compiled


def test_a_resumed_run_ends_with_the_same_bits(world, whole, tmp_path):
    """Resumed at step 2, in the middle of what one line of the log covers."""
    trained, _ = whole
    loop.train(world, CONFIG.changed(epochs=1), tmp_path, devices=1)
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 999, "loss": 1.0}\n{"step": 7, "lo')  # lines a killed run would do again
    resumed = loop.train(world, CONFIG, tmp_path, resume=True, devices=1)
    assert_same_bits(trained.state, resumed.state)
    steps = [line["step"] for line in lines(tmp_path)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 8


def test_resuming_on_other_devices_goes_on(world, whole, tmp_path):
    """Resumed at step 6, where a line of the log ends."""
    loop.train(world, CONFIG.changed(epochs=3), tmp_path, devices=1)
    resumed = loop.train(world, CONFIG, tmp_path, resume=True, devices=8)
    assert len(resumed.state.step.sharding.device_set) == 8
    assert_same_run(*whole, resumed, tmp_path)


def test_a_signal_saves_and_leaves(world, tmp_path):
    """Each of the two signals in turn, and then to the end."""
    endless = CONFIG.changed(epochs=10**6, checkpoint_every=10**6)
    (tmp_path / "metrics.jsonl").touch()
    done = 0
    for signum in (signal.SIGINT, signal.SIGTERM):

        def interrupt(signum=signum, seen=len(lines(tmp_path))):
            while len(lines(tmp_path)) <= seen:
                time.sleep(0.01)
            os.kill(os.getpid(), signum)

        before = signal.getsignal(signum)
        sender = threading.Thread(target=interrupt)
        sender.start()
        with pytest.raises(errors.Interrupted) as stopped:
            loop.train(world, endless, tmp_path, resume=done > 0, devices=1)
        sender.join()
        assert signal.getsignal(signum) is before
        assert stopped.value.signum == signum
        assert stopped.value.step > done
        done = stopped.value.step
        assert lines(tmp_path)[-1]["step"] == done
    longer = endless.changed(epochs=done // 2 + 2)
    resumed = loop.train(world, longer, tmp_path, resume=True, devices=1)
    assert int(resumed.state.step) == longer.schedule.epochs * 2
    straight = loop.train(world, longer, tmp_path / "straight", devices=1)
    assert_same_bits(straight.state, resumed.state)


def test_a_killed_process_resumes_to_the_same_bits(world, tmp_path):
    """Killed, resumed and asked to end, and resumed again, against a run without a break."""
    write_dataset(world, tmp_path / "world")
    out = tmp_path / "out"
    options = CONFIG.changed(checkpoint_every=20, epochs=100_000)
    words = "--variant official --devices 1 --num-clusters 4 --hidden 16 --num-snippets 32 --batch-size 8"
    words += " --learning-rate 1e-3 --rank true --prior-std 0.3 --log-every 3 --checkpoint-every 20"
    words += " --epochs 100000 --streams rgb"
    command = [sys.executable, EXAMPLE, "--data", tmp_path / "world", "--out", out, *words.split()]

    def saved():
        folders = [path.parent for path in out.glob("checkpoints/*/state")]
        return max((int(folder.name) for folder in folders if folder.name.isdecimal()), default=0)

    for signum, more in ((signal.SIGKILL, []), (signal.SIGTERM, ["--resume"])):
        process = subprocess.Popen([*map(str, command), *more], stderr=subprocess.PIPE, text=True)
        try:
            since, done = time.monotonic(), saved()
            while saved() == done:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() - since < 120, "no checkpoint within 120 s"
                time.sleep(0.05)
            process.send_signal(signum)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        if signum == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
            done = saved()
    assert process.returncode == 3
    # orbax warns where the kill left half of a checkpoint; jaxlib 0.10.0 logs an error for every program that it reads
    # from the cache, even on the machine that wrote it
    said = [
        line
        for line in errors.splitlines()
        if line and "cpu_aot_loader" not in line and "WARNING:absl" not in line and "snippets/s" not in line
    ]
    assert said[0] == f"resuming at step {done} of 200000"
    assert said[2].startswith(f"SIGTERM: saved at step {saved()}")
    assert "--resume" in said[2]
    assert len(said) == 3
    dataset, longer = (
        read_dataset(tmp_path / "world", streams=("rgb",)),
        options.changed(epochs=saved() // 2 + 3),
    )  # two steps an epoch
    done = saved()
    resumed = loop.train(dataset, longer, out, resume=True, devices=1)
    straight = loop.train(dataset, longer, tmp_path / "straight", devices=1)
    assert int(resumed.state.step) == int(straight.state.step) == done + 6 - done % 2
    assert_same_bits(resumed.state, straight.state)


def kept_program(world, compact=False):
    """The compiled steps that `whole` runs, its first state and its split."""
    one = mesh.make_mesh(1)
    graphdef, start = state.initial_state(CONFIG, world.dims, len(world.classes))
    start = mesh.place(start, mesh.state_shardings(start, one, CONFIG.method.split))
    split = feed.pack(world.train, world.classes, one)
    return feed.make_train_steps(graphdef, CONFIG, one, compact=compact), start, split


def test_one_compilation_serves_every_count(world, whole):
    train_steps, start, split = kept_program(world)
    sizes = []
    for count in (1, 2, 5):
        start, _ = train_steps(start, split, jnp.int32(count))
        sizes.append(train_steps._cache_size())
    assert len(set(sizes)) == 1
    assert int(start.step) == 8


def test_repeated_snippets_are_computed_once(world, whole):
    """A step that does so where it can ends as one that does not, whether or not the batch fits in half the rows."""
    for fits in (False, True):
        (repeated_steps, start, split), (once_steps, start_too, _) = (kept_program(world, c) for c in (False, None))
        if fits:
            split = split._replace(lengths=jnp.minimum(split.lengths, 15))
        videos, snippets = step.draw(start.key, start.step, split.lengths, config=CONFIG)
        needed = sampling.distinct_rows(split.lengths[videos], CONFIG.schedule.num_snippets).sum()
        assert (int(needed) <= snippets.size // 2) == fits
        one = jnp.int32(1)
        (repeated, wanted), (once, metrics) = repeated_steps(start, split, one), once_steps(start_too, split, one)
        chex.assert_trees_all_close(metrics, wanted, rtol=1e-4, atol=1e-6)
        chex.assert_trees_all_close(once.opt_state, repeated.opt_state, rtol=1e-3, atol=1e-6)


def test_the_step_lowers_for_accelerators(world):
    one = mesh.make_mesh(1)
    graphdef, start = state.initial_state(CONFIG, world.dims, len(world.classes))
    split = feed.pack(world.train, world.classes, one)
    train_steps = step.make_train_steps(graphdef, CONFIG.changed(encoder_dtype="bfloat16"), one)
    exported = jax.export.export(train_steps, platforms=["tpu", "cuda"])(start, split, jnp.int32(1))
    assert exported.platforms == ("tpu", "cuda")
    assert "stablehlo.dot_general" in exported.mlir_module()


def test_folders_of_other_runs_are_refused(world, whole):
    _, out = whole
    with pytest.raises(errors.CheckpointError, match="already holds this run at step 8; pass --resume"):
        loop.train(world, CONFIG, out, devices=1)
    for resume in (False, True):
        with pytest.raises(errors.CheckpointError, match=r"prior_std was 0.3, is 0.5.*another --out"):
            loop.train(world, CONFIG.changed(prior_std=0.5), out, resume=resume, devices=1)
    other = one_stream(make_world(num_classes=4, dim=5, train_videos=16, test_videos=12, median=60, longest=400))
    with pytest.raises(errors.CheckpointError, match=r"dims of the data was \[6\], is \[5\]"):
        loop.train(other, CONFIG, out, resume=True, devices=1)
    assert [line["step"] for line in lines(out)] == [3, 6, 8]


def test_a_checkpoint_of_another_shape_is_refused(world, whole):
    _, out = whole
    _, template = state.initial_state(CONFIG.changed(hidden=8), world.dims, len(world.classes))
    message = r"8 is of another shape: .*attention.kernel.* is \(16, 1\), this configuration needs \(8, 1\)"
    with (
        checkpoint.Checkpoints(out / "checkpoints") as checkpoints,
        pytest.raises(errors.CheckpointError, match=message),
    ):
        checkpoints.restore(template)


def flip(folder, rng):
    """Change one bit of one file of a checkpoint; returns the file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "sums.json"]
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return path


def test_m_a_flipped_bit_of_the_newest_checkpoint_is_named_and_the_one_before_is_used(world, whole, rng, tmp_path):
    straight, out = whole
    for attempt in range(4):  # any bit of any file
        place = tmp_path / str(attempt)
        shutil.copytree(out, place)
        flip(place / "checkpoints" / "8", rng)
        with pytest.raises(errors.CheckpointError, match=r"checkpoints/8 is damaged: .* fall back .* step 6"):
            loop.train(world, CONFIG, place, resume=True, devices=1)
    shutil.rmtree(place / "checkpoints" / "8")
    assert_same_bits(loop.train(world, CONFIG, place, resume=True, devices=1).state, straight.state)


def test_m_a_damaged_checkpoint_without_sums_is_named(world, whole, tmp_path):
    """As earlier releases left them."""
    shutil.copytree(whole[1], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "8"
    (folder / "sums.json").unlink()
    for file in (folder / "state").rglob("*"):
        if file.is_file() and "manifest" in file.name:
            file.write_bytes(b"rubbish")
    with pytest.raises(
        errors.CheckpointError, match=r"checkpoints/8/state: cannot be read .* delete that step's folder"
    ):
        loop.train(world, CONFIG, tmp_path / "run", resume=True, devices=1)


def test_j_a_second_run_in_a_folder_is_refused(world, whole, tmp_path):
    shutil.copytree(whole[1], tmp_path / "run")
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); f.write('process 7 on afar'); f.flush();"
    code += "fcntl.flock(f, 2); print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path / "run" / ".lock"], stdin=-1, stdout=-1)
    other.stdout.readline()
    with pytest.raises(errors.CheckpointError, match=r"run: another run is in this folder \(process 7 on afar\)"):
        loop.train(world, CONFIG, tmp_path / "run", resume=True, devices=1)
    other.kill()  # its lock goes with it, though the file stays
    other.communicate()
    loop.train(world, CONFIG, tmp_path / "run", resume=True, devices=1)
    assert not (tmp_path / "run" / ".lock").exists()


def test_h_damaged_lines_of_metrics_cost_nothing_else(world, whole, tmp_path):
    straight, out = whole
    shutil.copytree(out, tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_bytes(b'\xff\xfe{"step": 3}\n{"step": "3", "loss": []}\n[]\n' + path.read_bytes() + b'{"step": 8, "lo')
    again = loop.train(world, CONFIG, tmp_path / "run", resume=True, devices=1)
    assert_same_bits(again.state, straight.state)
    assert lines(tmp_path / "run") == lines(out)


def beyond(world, value):
    """The world with the first feature of one video changed."""
    stream = world.train.features.streams[0].copy()
    stream[world.train.features.rows(0), 0] = value
    features = replace(world.train.features, streams=(stream,))
    return replace(world, train=replace(world.train, features=features))


def test_g_what_is_not_finite_is_never_kept(world, tmp_path):
    """One feature of 1e30 leaves the loss finite and the second moment of Adam infinite."""
    with pytest.raises(errors.DivergedError, match=r"not finite by step \d: .*--on-nan skip"):
        loop.train(beyond(world, 1e30), CONFIG, tmp_path, devices=1)
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in checkpoints.steps:
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored(world, checkpoints, step)))


def restored(world, checkpoints, step):
    state_ = checkpoints.restore(state.initial_state(CONFIG, world.dims, len(world.classes))[1], step)
    return state_.params, state_.opt_state


def test_g_steps_that_end_in_nan_are_skipped_if_asked(world, tmp_path):
    trained = loop.train(beyond(world, 1e30), CONFIG.changed(on_nan="skip"), tmp_path, devices=1)
    assert int(trained.state.step) == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((trained.state.params, trained.state.opt_state)))
    assert any(line["skipped"] > 0 for line in lines(tmp_path))
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path))


def test_g_growth_without_nan_is_said(world, tmp_path):
    with pytest.warns(errors.TrainingWarning, match=r"largest parameter is .* by step \d.*lower --learning-rate"):
        trained = loop.train(world, CONFIG.changed(learning_rate=1e6), tmp_path, devices=1)
    assert "diverged" in trained.remarks[0]


def test_too_few_videos_are_refused(world, tmp_path):
    with pytest.raises(DataError, match="16 training videos do not fill one batch of 32; use --batch-size 16"):
        loop.train(world, CONFIG.changed(batch_size=32), tmp_path / "out", devices=1)
    assert not (tmp_path / "out").exists()


def test_placement_that_cannot_be_is_refused(world, tmp_path):
    with pytest.raises(ValueError, match=r"--devices 99: there are 8 cpu device\(s\)"):
        loop.train(world, CONFIG, tmp_path / "out", devices=99)
    with pytest.raises(ValueError, match="a batch of 8 videos does not divide over 3 devices"):
        loop.train(world, CONFIG, tmp_path / "out", devices=3)
    assert not (tmp_path / "out").exists()


def test_a_diverged_run_keeps_its_last_good_checkpoint(world, tmp_path):
    features = world.train.features
    features = replace(features, streams=tuple(np.full_like(stream, np.inf) for stream in features.streams))
    beyond = replace(world, train=replace(world.train, features=features))
    with pytest.raises(errors.DivergedError, match="lower --learning-rate"):
        loop.train(beyond, CONFIG, tmp_path, devices=1)
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest is None or checkpoints.latest < 8
