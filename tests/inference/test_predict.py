"""A trained network on any videos: the segments of the run, whatever the length, in four compilations."""

import inspect
import json
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from rich.console import Console
from untrained import save_untrained

import casejax
from casejax.data.synthetic import make_world
from casejax.errors import CheckpointError, DataError, DurationMismatchWarning, OptionError
from casejax.inference import Localizer, evaluate_run, make_scorer
from casejax.records import Timing
from casejax.report import pictures
from casejax.run.config import Config
from casejax.run.folder import restore_run
from casejax.train.experiment import run

SIZES = {"hidden": 8, "num_snippets": 32}
WHOLE = {"test_sampling": "whole"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of an untrained network with the given options, made once."""
    folders = {}

    def make(method="case", **options):
        key = repr((method, options))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("run")
            sizes = {"num_clusters": 3} if "case" in method else {}
            save_untrained(folders[key], method, **sizes, **options)
        return folders[key]

    return make


@pytest.fixture(scope="module")
def localizer(made):
    return Localizer.load(made())


def features(length, dims=(6, 4)):
    rng = np.random.default_rng(length)
    return tuple(np.round(rng.random((length, dim)), 2).astype(np.float32) for dim in dims)


# It is the network of the run


@pytest.fixture(scope="module")
def world():
    return make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400)


@pytest.fixture(scope="module")
def finished(world, kept_steps, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    config = Config.of("case").changed(num_clusters=4, batch_size=8, learning_rate=1e-3, epochs=8, **SIZES)
    with (out / "printed").open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "draw_pictures", lambda *_, **__: None)
        run(world, config, out, devices=1, console=Console(file=file, width=100))
    return out


def in_order(rows):
    return sorted(rows, key=lambda row: (row[0], *np.round(row[1:], 4).tolist()))


@pytest.mark.parametrize("options", [{}, WHOLE])
def test_it_finds_what_the_run_found(finished, world, tmp_path, options):
    stored = finished / "predictions.json"
    if options:
        restored = restore_run(finished)
        changed = restored._replace(config=restored.config.changed(**options))
        evaluate_run(changed, world, tmp_path, console=Console(file=(tmp_path / "x").open("w")))
        stored = tmp_path / "predictions.json"
    results = json.loads(stored.read_text())["results"]
    localizer = Localizer.load(finished, **options)
    count = 0
    for v, video in enumerate(world.test.videos):
        own = tuple(stream[world.test.features.rows(v)] for stream in world.test.features.streams)
        found = localizer(own, video=video.id)
        want = [(each["label"], *each["segment"], each["score"]) for each in results[video.id]]
        assert len(found.segments) == len(want)
        for got, expected in zip(in_order(found.segments), in_order(want), strict=True):
            assert got[0] == expected[0]
            assert_allclose(got[1:], expected[1:], atol=1e-6)
        assert sorted(found.segments, key=lambda s: -s.score) == list(found.segments)
        count += len(want)
    assert count > 20


# Lengths


@pytest.mark.parametrize("method", ["case", "co2net"])
def test_padding_changes_no_score(made, method):
    localizer = Localizer.load(made(method, **WHOLE))
    scorer = make_scorer(localizer.restored.graphdef, localizer.config)
    state = localizer.restored.state
    for length in (1, 40, 600):
        streams = features(length)
        want = scorer(state.params, state.cluster_labels, tuple(stream[None] for stream in streams))
        found = localizer(streams)
        assert found.snippet_scores.fused.shape == (1, length, 3)
        for got, alone in zip(jax.tree.leaves(found.snippet_scores), jax.tree.leaves(want), strict=True):
            assert got.shape == alone.shape
            assert_allclose(got, alone, rtol=1e-4, atol=1e-5)
        assert_allclose(list(found.video_scores.values()), want.video[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["case", "co2net"])
def test_resampled_videos_score_as_their_samples(made, method):
    localizer = Localizer.load(made(method, test_sampling="resampled"))
    scorer = make_scorer(localizer.restored.graphdef, localizer.config)
    state = localizer.restored.state
    for length in (1, 9, 32, 75):
        streams = features(length)
        rows = [math.floor(i * length / 32) for i in range(32)]
        want = scorer(state.params, state.cluster_labels, tuple(stream[rows][None] for stream in streams))
        for got, alone in zip(jax.tree.leaves(localizer(streams).snippet_scores), jax.tree.leaves(want), strict=True):
            assert_allclose(got, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("options", "most"), [(WHOLE, 4), ({"test_sampling": "resampled"}, 2)])
def test_any_length_in_few_compilations(made, caplog, options, most):
    localizer = Localizer.load(made(dims=(2, 1), **options), scale=1)
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for length in (1, 15, 17, 512, 513, 5000, 18_500, 100_000, 7):
            found = localizer(features(length, (2, 1)))
            assert found.duration == pytest.approx(0.64 * length)
            assert all(0 <= s.start < s.end <= found.duration for s in found.segments)
    compiled = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Compiling")]
    assert len(compiled) == most, compiled


# What goes in and comes out


def test_features_may_be_of_any_type_and_in_any_form(localizer):
    streams = features(20)
    want = localizer(streams)
    joint = np.concatenate(streams, axis=1)
    same = [
        joint,
        joint.astype(np.float64),
        joint.tolist(),
        jnp.asarray(joint),
        dict(zip(("flow", "rgb"), streams[::-1], strict=True)),
        tuple(stream.tolist() for stream in streams),
        np.asfortranarray(joint),
    ]
    for given in same:
        found = localizer(given)
        assert found.segments == want.segments
        assert found.video_scores == want.video_scores
    for rounded in (joint.astype(np.float16), jnp.asarray(joint, jnp.bfloat16)):
        assert_allclose(localizer(rounded).snippet_scores.fused, want.snippet_scores.fused, atol=0.01)


def test_a_single_stream_needs_no_name(made):
    localizer = Localizer.load(made(dims=(6,), streams=("features",)))
    (x,) = features(20, (6,))
    want = localizer(x)
    assert localizer((x,)).segments == localizer({"features": x}).segments == want.segments
    assert len(want.segments) > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.ones((5, 9)), r"shape \(5, 9\), the network reads columns 6 of rgb and 4 of flow"),
        (np.ones((0, 10)), "at least one snippet"),
        (np.ones(10), r"shape \(10,\)"),
        (np.ones((2, 5, 10)), r"shape \(2, 5, 10\)"),
        ((np.ones((5, 6)), np.ones((4, 4))), "5 and 4 snippets of rgb, flow"),
        ((np.ones((5, 4)), np.ones((5, 6))), r"\(5, 4\), \(5, 6\)"),
        ({"rgb": np.ones((5, 6))}, "streams rgb, the network reads rgb, flow"),
        (np.full((5, 10), np.nan), "30 NaN"),
        (np.full((5, 10), 1e300), "30 infinite|infinite values"),
        ([[1.0] * 10, [1.0] * 9], "no array"),
        (np.full((5, 10), "x"), "dtype <U1"),
        (np.ones((5, 10), complex), "dtype complex128"),
        (np.full((5, 10), None), "dtype object"),
    ],
)
def test_features_that_cannot_be_used_are_refused(localizer, given, said):
    with pytest.raises(DataError, match=said):
        localizer(given)


def test_records_are_ready_for_json(localizer):
    found = localizer(features(20), video="one")
    read = json.loads(json.dumps(found.as_dict()))
    assert read["video"] == "one"
    assert [tuple(each.values()) for each in read["segments"]] == [tuple(each) for each in found.segments]
    assert list(read["video_scores"]) == list(localizer.classes) == ["a", "b", "c"]
    assert_allclose(found.snippet_times, 20 * 0.64 * np.stack([np.arange(32), np.arange(1, 33)], axis=1) / 32)
    assert found.snippet_scores.attention.shape == (1, 32)


# Time


def test_segments_end_where_the_video_ends(localizer):
    streams = features(20)
    free = localizer(streams)
    assert free.duration == pytest.approx(12.8)
    with pytest.warns(DurationMismatchWarning):
        cut = localizer(streams, duration=7.0)
    assert cut.duration == 7.0
    want = [(s.label, s.start, min(s.end, 7.0), s.score) for s in free.segments if s.start < 7.0]
    assert [tuple(s) for s in cut.segments] == want
    assert len(want) < len(free.segments) or any(s.end > 7 for s in free.segments)


def test_rows_that_begin_late_shift_the_segments(made, localizer):
    timing = Timing(frames=32, stride=16, fps=25, first_frame=5)
    late = Localizer.load(made(timing=timing))
    streams = features(20)
    shifted, free = late(streams, timing=timing), localizer(streams)
    assert late.timing.offset == pytest.approx(13 / 25)
    assert_allclose([s[1:3] for s in shifted.segments], np.asarray([s[1:3] for s in free.segments]) + 13 / 25)
    assert shifted.duration == pytest.approx(12.8 + 13 / 25)
    early = Localizer.load(made(timing=Timing(frames=2, stride=16, fps=25)))
    assert early.timing.offset < 0
    assert min(s.start for s in early(streams).segments) == 0


def test_rescaled_rows_divide_the_duration(made, localizer):
    rescaled = Localizer.load(made(timing=Timing(rescaled=True)))
    streams = features(20)
    found, free = rescaled(streams, duration=64.0), localizer(streams)
    assert_allclose([s[1:3] for s in found.segments], 5 * np.asarray([s[1:3] for s in free.segments]))
    with pytest.raises(DataError, match="its rows divide the duration"):
        rescaled(streams)


def test_another_timing_is_refused(localizer):
    streams = features(5)
    assert localizer(streams, snippet_seconds=0.64).segments == localizer(streams, timing=Timing()).segments
    with pytest.raises(CheckpointError, match=r"a row every 0.64 s, this video has a row every 0.25 s"):
        localizer(streams, snippet_seconds=0.25)
    with pytest.raises(OptionError, match="not both"):
        localizer(streams, snippet_seconds=0.64, timing=Timing())
    with pytest.raises(DataError, match="duration nan"):
        localizer(streams, duration=math.nan)


# Options


def test_options_of_inference_may_change(made, localizer):
    streams = features(20)
    every = Localizer.load(made(), class_threshold=0.0)
    assert {s.label for s in every(streams).segments} == {"a", "b", "c"}
    assert every.config.localization.class_threshold == 0
    assert localizer.config.localization.class_threshold == 0.25
    with pytest.raises(OptionError, match="hidden is decided by training"):
        Localizer.load(made(), hidden=4)
    with pytest.raises(OptionError, match="no option nmss"):
        Localizer.load(made(), nmss="hard")
    with pytest.raises(OptionError, match="class_threshold must lie in"):
        Localizer.load(made(), class_threshold=2.0)
    with pytest.raises(OptionError, match="needs the training videos"):
        Localizer.load(made(), test_cluster_labels="train")


# The front door


@pytest.mark.slow
@pytest.mark.usefixtures("kept_steps")
def test_training_is_as_short(world, tmp_path):
    """From files to segments with two names of the front door."""
    lines = ["video,label"]
    for v, video in enumerate(world.train.videos):
        for name, stream in zip(world.streams, world.train.features.streams, strict=True):
            (tmp_path / "features" / name).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "features" / name / f"{video.id}.npy", stream[world.train.features.rows(v)])
        lines.append(f"{video.id},{';'.join(video.labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    words = {
        "features": str(tmp_path / "features"),
        "labels": str(tmp_path / "labels.csv"),
        "out": str(tmp_path / "run"),
        "snippet_seconds": 0.25,
        "console": Console(file=(tmp_path / "printed").open("w")),
    }
    with pytest.raises(OptionError, match="no option hiden"):
        casejax.train(**words, hiden=8)
    assert not (tmp_path / "run").exists()
    trained = casejax.train(**words, method="case", num_clusters=4, epochs=1, log_every=1, devices=1, **SIZES)
    assert isinstance(trained, casejax.Localizer)
    assert trained.config.variant == "corrected"
    assert trained.config.schedule.batch_size == 16  # as many as there are
    assert trained.timing.seconds == 0.25
    own = tuple(stream[world.test.features.rows(0)] for stream in world.test.features.streams)
    again = casejax.Localizer.load(tmp_path / "run")(own, snippet_seconds=0.25)
    assert again.segments == trained(own).segments
    assert again.duration == 0.25 * len(own[0])


def test_the_room_stays_a_room():
    from casejax.train import run as by_name
    from casejax.train import train_on_table

    assert casejax.train.run is by_name
    assert type(casejax.train).__call__ is train_on_table
    assert casejax.Localizer is Localizer
    assert list(inspect.signature(casejax.train).parameters)[:4] == ["features", "labels", "out", "method"]
