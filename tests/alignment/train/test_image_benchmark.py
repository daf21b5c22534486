"""The benchmark on pictures: what a step sees, what it trains, resuming, and the whole of it on invented videos."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from casejax.alignment import train
from casejax.alignment.data.blobs import write_blob_videos
from casejax.alignment.data.frames import load_frames, read_frame_videos
from casejax.alignment.train import image_trainer
from casejax.alignment.train.image_benchmark import run_image_benchmark
from casejax.alignment.train.methods import METHODS, Method
from casejax.errors import CheckpointError, DataError, DivergedError, OptionError

CONFIG = image_trainer.ImageConfig(
    steps=2, size=16, depths=(1,), width=2, hidden=4, dim=4, context_stride=3, trained="all", log_every=1
)


def closeness(embed, head, lengths, key):
    """A loss that compiles fast: embeddings of random frames should be alike."""
    frames = jax.random.randint(key, (len(lengths), 3), 0, lengths[:, None])
    return embed(frames).var(axis=1).sum()


QUICK = Method(closeness, unit_norm=False, learning_rate=1e-2, batch_size=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    write_blob_videos(folder, train_videos=2, test_videos=2, shortest=27, longest=30, size=16)
    return folder


@pytest.fixture(scope="module")
def videos(world):
    return read_frame_videos(world)


def start(config, method=QUICK):
    return image_trainer.start_image_network(method, config)


@pytest.fixture(scope="module", autouse=True)
def kept_image_steps():
    """Runs of one method and one network share their step, however many of them they do."""
    make, kept = image_trainer.make_image_step, {}

    def keep(graphdef, method, config):
        key = method, replace(config, steps=0)
        if key not in kept:
            kept[key] = graphdef, make(graphdef, method, config)
        assert kept[key][0] == graphdef
        return kept[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_trainer, "make_image_step", keep)
        yield


def test_the_frames_drawn_are_those_that_the_objective_asks_for():
    """Of methods that ask in three ways, in one program: only the frames are looked at, so losses aren't compiled."""
    graphdef, _ = start(CONFIG)  # the network has no part in it
    methods = [METHODS[name] for name in ("speednet", "sal", "gta")]

    @jax.jit
    def frames(key, step, lengths):
        drawn, asked = [], []

        def embed(frames):
            asked.append(frames)
            return jnp.ones((*frames.shape, 4))

        for method in methods:
            draw, _ = image_trainer.make_image_step(graphdef, method, CONFIG)
            drawn.append(draw(key, step, lengths))
            head = None if method.head is None else method.head(4, rngs=nnx.Rngs(0))
            method.objective(embed, head, lengths, image_trainer._keys(key, step)[0])
        return drawn, asked

    drawn, asked = frames(jax.random.key(0), jnp.int32(0), jnp.array([30, 40, 25, 60]))
    assert len(drawn) == len(asked) == 3
    for got, want in zip(drawn, asked, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("trained", image_trainer.TRAINED)
def test_what_is_not_trained_stays_as_it_was(trained, videos):
    config = replace(CONFIG, trained=trained)
    graphdef, state = start(config)
    before = jax.tree.map(np.array, (state.params, state.statistics))
    _, advance = image_trainer.make_image_step(graphdef, QUICK, config)
    images = np.stack([image_trainer.read_context(video, np.arange(3), config) for video in videos[:2]])
    state, loss = advance(state, jnp.asarray(images), jnp.array([20, 20]))
    assert np.isfinite(loss)
    wanted = image_trainer.TRAINED[trained](before[0])
    names = [path for path, _ in jax.tree_util.tree_leaves_with_path(before[0])]
    for path, old, new, moves in zip(names, *map(jax.tree.leaves, (before[0], state.params, wanted)), strict=True):
        assert moves or np.array_equal(old, new), path
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before[1], state.statistics)
    assert any(jax.tree.leaves(moved["embedder"]["embedder"]))
    assert any(jax.tree.leaves(moved["embedder"]["backbone"])) == (trained != "frozen")


def test_a_resumed_run_ends_with_the_same_bits(videos, tmp_path):
    train = [video for video in videos if video.train]

    def run(out, steps, resume=False, meta=None):
        config = replace(CONFIG, steps=steps)
        graphdef, state = start(config)
        return image_trainer.train_image_network(train, graphdef, state, QUICK, config, out, resume=resume, meta=meta)

    whole = run(tmp_path / "whole", 2)
    run(tmp_path / "parts", 1)
    with pytest.raises(CheckpointError, match="holds a run at step 1; add --resume"):
        run(tmp_path / "parts", 2)
    with pytest.raises(CheckpointError, match="is of another run: seed"):
        run(tmp_path / "parts", 2, resume=True, meta={"seed": 3})
    parts = run(tmp_path / "parts", 2, resume=True)
    for a, b in zip(jax.tree.leaves(whole[:4]), jax.tree.leaves(parts[:4]), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


def test_a_loss_that_is_not_finite_stops_the_run(videos, tmp_path):
    graphdef, state = start(CONFIG)
    broken = state._replace(params=jax.tree.map(lambda x: jnp.asarray(np.full(x.shape, np.nan, x.dtype)), state.params))
    with pytest.raises(DivergedError, match="the mean loss is nan by step 1"):
        image_trainer.train_image_network(videos, graphdef, broken, QUICK, CONFIG, tmp_path)


def test_a_function_is_shown_every_frame_with_its_context(videos):
    video = videos[0]
    shown = image_trainer.over_frames(lambda images: images[..., 0, 0, 0], video, CONFIG, chunk=8)
    want = load_frames(video, np.arange(len(video)), size=16)[:, 0, 0, 0] / 127.5 - 1
    np.testing.assert_allclose(shown[:, 1], want, atol=1e-6)
    np.testing.assert_allclose(shown[:, 0], want[np.maximum(np.arange(len(video)) - 3, 0)], atol=1e-6)


def test_the_whole_benchmark(videos, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "gta", QUICK)
    console = Console(record=True, width=200, file=(tmp_path / "log").open("w"))
    rows = run_image_benchmark(videos, replace(CONFIG, steps=1), tmp_path, activations=2, console=console)
    console.file.close()
    for table in rows.values():
        assert [row.name for row in table] == ["clock", "backbone", "GTA"]
    results = json.loads((tmp_path / "results.json").read_text())
    scores = results["labels"]["GTA"]["circle"]
    assert {"SVM 100%", "few-shot 2", "R^2 100%"} <= set(scores)
    assert 0 <= scores["SVM 100%"] <= 1
    assert (tmp_path / "pictures" / "zigzag.png").stat().st_size > 1000
    assert "Phases of test frames" in (tmp_path / "tables.txt").read_text()


def test_elements_are_classified_over_all_events_and_event_by_event(videos, tmp_path):
    run_image_benchmark(videos, replace(CONFIG, steps=0), tmp_path, elements=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["labels"]) == ["backbone"]
    assert list(results["labels"]["backbone"]) == ["all events", "circle", "zigzag"]
    assert results["minutes"] == {}


def test_what_cannot_be_measured_is_refused(videos, tmp_path):
    train, test = ([video for video in videos if video.train == part] for part in (True, False))
    for case, says in (
        ([replace(train[0], phases=None), *train[1:], *test], "has no phases.txt, as other videos of circle have"),
        ([replace(train[0], paths=train[0].paths[:4]), *train[1:], *test], "has 4 frames; a training video needs 5"),
        ([*train[1:], *test], r"action circle has 1 training video\(s\)"),
        ([*train, replace(test[0], paths=test[0].paths[:25]), *test[1:]], "fewer than two test videos that reach"),
    ):
        with pytest.raises(DataError, match=says):
            run_image_benchmark(case, CONFIG, tmp_path)
    for change, says in (
        ({"steps": -1}, "--steps must be 0 or more"),
        ({"size": 8}, "--size must be at least 16"),
        ({"trained": "some"}, "--train some: choose from frozen, only-bn, all"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0"),
    ):
        with pytest.raises(OptionError, match=says):
            run_image_benchmark(videos, replace(CONFIG, **change), tmp_path)


def test_the_example_says_what_is_wrong_in_a_line(world, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[3] / "examples" / "align_images.py"
    options = ["--data", str(world), "--out", str(tmp_path), "--steps", "0", "--weights", str(tmp_path / "none.h5")]
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    monkeypatch.setattr(train, "ImageConfig", lambda: CONFIG)  # a network of the default size takes seconds
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.h5'}: no such file; put it there, or name another\n"
