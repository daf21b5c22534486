"""Features on the device and features streamed: the same batches, the same run, bounded memory."""

import contextlib
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.data import sampling
from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.data.synthetic import make_world
from casejax.errors import OptionError
from casejax.methods import Loss
from casejax.run.config import Config
from casejax.runtime import mesh
from casejax.train import feed, loop, step

CONFIG = Config.of("case").changed(
    num_clusters=4, hidden=16, num_snippets=24, batch_size=4, learning_rate=1e-3, epochs=2, log_every=3
)


pytestmark = pytest.mark.usefixtures("kept_steps")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "world"
    write_dataset(make_world(num_classes=4, dim=6, train_videos=18, test_videos=12, median=60, longest=400), folder)
    return folder


@pytest.fixture(scope="module")
def packed(root, tmp_path_factory):
    return read_dataset(root, packed=tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def narrow(root, tmp_path_factory):
    """One stream of it: a step compiles in half the time."""
    return read_dataset(root, streams=("rgb",), packed=tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module")
def graphdef(narrow):
    return loop.initial_state(CONFIG, narrow.dims, len(narrow.classes))[0]


@pytest.mark.parametrize(("kind", "parts"), [("random", 1), ("stratified", 1), ("uniform", 2)])
def test_streamed_batches_are_those_sampled_on_the_device(packed, kind, parts):
    config = CONFIG.changed(sampling=kind, data_parts=parts, seed=5)
    place = mesh.make_mesh(2)
    split = feed.pack(packed.train, packed.classes, place)
    read = feed.make_reader(packed.train, packed.classes, config, place)
    key = jax.random.key(5)
    sample = jax.jit(lambda step_: sampling.gather(split, *step.draw(key, step_, split.lengths, config=config)))
    for n in (0, 3, 7):
        want = sample(jnp.int32(n))
        got = feed.to_devices(read(n), 4, place)
        assert got.streams[0].sharding.is_equivalent_to(mesh.over_videos(place), 3)
        for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(narrow, kept_steps, tmp_path_factory):
    """The state after a run on the device and after a streamed one, and where their metrics are."""
    out = tmp_path_factory.mktemp("runs")
    states = {
        kind: loop.train(narrow, CONFIG.changed(feed=kind), out / kind, devices=1).state
        for kind in ("device", "stream")
    }
    return states, out


def test_a_streamed_run_is_the_run_on_the_device(runs):
    states, out = runs
    for a, b in zip(lines(out / "device"), lines(out / "stream"), strict=True):
        for name in a.keys() - {"snippets_per_second"}:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for a, b in zip(*(jax.tree.leaves(state.params) for state in states.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_streamed_run_resumes_to_the_same_bits(narrow, runs, tmp_path):
    streamed = CONFIG.changed(feed="stream")
    loop.train(narrow, streamed.changed(epochs=1), tmp_path, devices=1)
    halves = loop.train(narrow, streamed, tmp_path, devices=1, resume=True)
    for a, b in zip(*(jax.tree.leaves(state.params) for state in (runs[0]["stream"], halves.state)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("num_snippets", "compact", "shapes"), [(24, False, 1), (100, None, 2), (900, True, 1)])
@pytest.mark.parametrize("kind", ["device", "stream"])
def test_the_step_is_traced_once_a_shape(packed, kind, num_snippets, compact, shapes):
    """A batch comes in two shapes, every place or no snippet twice, if the videos' lengths allow for both."""
    lengths, config = packed.train.features.lengths, CONFIG.changed(feed=kind, num_snippets=num_snippets, epochs=3)
    assert sampling.all_compact(lengths, 4, num_snippets) is compact
    traces = []

    def counted(outputs, labels, step, *, settings, mask):  # in the place of the loss: this one compiles fast
        traces.append(1)
        return Loss(sum(e.mean() for e in outputs.embedding), {}, cluster_labels=step.cluster_labels)

    config = replace(config, method=replace(config.method, loss=counted))
    place = mesh.make_mesh(1)
    graphdef, state = loop.initial_state(config, packed.dims, len(packed.classes))
    state = mesh.place(state, mesh.state_shardings(state, place, CONFIG.method.split))
    with feed.make_advance(packed.train, packed.classes, graphdef, config, place) as advance:
        for first, count in ((0, 2), (2, 3), (5, 7)):
            state, _ = advance(state, first, count)
    assert int(state.step) == 12
    assert len(traces) == shapes


@pytest.mark.slow
def test_bfloat16_features_train_close_to_float32(root, runs, tmp_path):
    half = read_dataset(root, streams=("rgb",), packed=tmp_path / "packed", packed_dtype="bfloat16")
    assert half.train.features.streams[0].dtype == jnp.bfloat16
    for kind in ("device", "stream"):
        trained = loop.train(half, CONFIG.changed(feed=kind), tmp_path / kind, devices=1)
        assert {leaf.dtype for leaf in jax.tree.leaves(trained.state.params)} == {jnp.dtype(jnp.float32)}
    folders = (runs[1] / "device", tmp_path / "device", tmp_path / "stream")
    full, here, streamed = (np.asarray([line["loss"] for line in lines(folder)]) for folder in folders)
    np.testing.assert_allclose(here, full, rtol=0.01)
    assert (here != full).any()
    np.testing.assert_allclose(streamed, here, rtol=1e-5)


def test_a_part_of_the_features_streams_and_nothing_else(root, graphdef):
    part = read_dataset(root, streams=("rgb",), part=0, parts=2)
    place = mesh.make_mesh(1)
    with pytest.raises(OptionError, match="--feed device needs all features"):
        feed.make_advance(part.train, part.classes, graphdef, CONFIG.changed(feed="device"), place)
    read = feed.make_reader(part.train, part.classes, CONFIG.changed(data_parts=2), place)
    with pytest.raises(ValueError, match="whose features this process has not read"):
        read(0)


@pytest.mark.parametrize(("limit", "kind"), [(10**12, "on_device"), (1000, "streamed")])
def test_features_that_do_not_fit_are_streamed(narrow, graphdef, monkeypatch, limit, kind):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": limit}

    chosen = []
    for name in ("_on_device", "_streamed"):
        monkeypatch.setattr(feed, name, lambda *a, name=name: chosen.append(name) or contextlib.nullcontext())
    monkeypatch.setattr(feed.jax, "local_devices", lambda: [Device()])
    feed.make_advance(narrow.train, narrow.classes, graphdef, CONFIG, mesh.make_mesh(1))
    assert chosen == [f"_{kind}"]
