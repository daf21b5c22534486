"""Training embedders: what a step computes, side by side, on several devices, resumed; and the whole benchmark."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.alignment.data.motion import make_motion
from casejax.alignment.data.pose_augmentation import augment_poses
from casejax.alignment.data.video_set import pack_videos
from casejax.alignment.train import trainer as align
from casejax.alignment.train.benchmark import run_benchmark
from casejax.alignment.train.methods import METHODS, Method
from casejax.data.poses import pose_features
from casejax.errors import CheckpointError, DataError, DivergedError, OptionError

CONFIG = align.AlignConfig(steps=4, num_context=2, context_stride=5, hidden=8, dim=8, log_every=2)


@pytest.fixture(scope="module")
def motion():
    return make_motion(num_actions=2, train_videos=5, test_videos=3, shortest=24, longest=40)


@pytest.fixture(scope="module")
def videos(motion):
    train = [track for track in motion if track.train]
    return pack_videos([pose_features(t) for t in train], [t.action for t in train])[0]


def closeness(embed, head, lengths, key):
    """A loss that compiles fast: embeddings of random frames should be alike."""
    frames = jax.random.randint(key, (len(lengths), 4), 0, lengths[:, None])
    return embed(frames).var(axis=1).sum()


QUICK = Method(closeness, unit_norm=False, learning_rate=1e-2)


@pytest.fixture(scope="module", autouse=True)
def kept_steps():
    """Runs of one method and one network share their step, however many of them they do."""
    make, kept = align.make_train_steps, {}

    def keep(graphdef, method, config, *, augment=None, alone=True):
        key = graphdef, method, replace(config, steps=1), augment, alone
        if key not in kept:
            kept[key] = make(graphdef, method, config, augment=augment, alone=alone)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(align, "make_train_steps", keep)
        yield


def test_videos_are_packed_action_by_action(rng):
    features = [rng.standard_normal((n, 2)).astype(np.float32) for n in (3, 4, 2, 5)]
    videos, names, order = pack_videos(features, ["b", "a", "b", "a"])
    assert names == ("a", "b")
    np.testing.assert_array_equal(order, [1, 3, 0, 2])
    np.testing.assert_array_equal(videos.counts, [2, 2])
    np.testing.assert_array_equal(videos.lengths, [4, 5, 3, 2])
    for place, video in enumerate(order):
        start, length = int(videos.starts[place]), int(videos.lengths[place])
        np.testing.assert_array_equal(videos.frames[start : start + length], features[video])


def test_videos_that_cannot_be_learned_from_are_refused():
    good = np.ones((3, 2), np.float32)
    with pytest.raises(DataError, match="no video to learn from"):
        pack_videos([], [])
    with pytest.raises(DataError, match="video 1 \\(a\\) has no frame"):
        pack_videos([good, good[:0]], ["a", "a"])
    with pytest.raises(DataError, match="video 0 \\(a\\) has features that are not finite"):
        pack_videos([good * np.nan, good], ["a", "a"])
    with pytest.raises(DataError, match="action b has a single training video"):
        pack_videos([good, good, good], ["a", "a", "b"])


@pytest.mark.parametrize(
    "name", [name if name in ("gta", "tcc") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_learns_from_its_own_action_alone(videos, name):
    """The gradient is finite and not zero, and the other action's features have no part in it."""
    method = METHODS[name]
    graphdef, state = align.initial_state(method, CONFIG, videos.frames.shape[1], [0], [0])
    loss_of = partial(align.objective, graphdef=graphdef, method=method, config=CONFIG, augment=None)

    @jax.jit
    def gradient(frames):
        own = videos._replace(frames=frames)
        return jax.value_and_grad(loss_of)(align.network_params(state, 0), own, state.actions[0], state.key[0])

    loss, grads = gradient(videos.frames)
    other = videos.starts[videos.firsts[1]]
    loss_without, grads_without = gradient(videos.frames.at[other:].set(1e3))
    assert np.isfinite(loss)
    assert loss == loss_without
    for leaf, leaf_without in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_without), strict=True):
        assert np.isfinite(leaf).all()
        np.testing.assert_array_equal(leaf, leaf_without)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_networks_side_by_side_are_the_same_as_one_at_a_time_and_on_several_devices(videos):
    def losses(actions, seeds, devices):
        """Of each network, by the third step, which depend on what the two before did."""
        mesh = align.make_networks_mesh(devices, len(seeds))
        graphdef, state = align.initial_state(QUICK, CONFIG, videos.frames.shape[1], actions, seeds)
        state, everywhere = align.place(state, videos, mesh)
        advance = align.make_train_steps(graphdef, QUICK, CONFIG, alone=devices == 1)
        state, _ = advance(state, everywhere, jnp.int32(2))
        assert len(state.actions.sharding.device_set) == devices
        return np.asarray(advance(state, everywhere, jnp.int32(1))[1])

    together = losses([0, 1, 0, 1], [0, 0, 1, 1], 4)
    np.testing.assert_allclose(losses([0, 1, 0, 1], [0, 0, 1, 1], 1), together, rtol=1e-4)
    np.testing.assert_allclose(losses([1], [1], 1), together[3:], rtol=1e-4)
    assert len(np.unique(together)) == 4


def test_a_resumed_run_ends_with_the_same_bits(videos, tmp_path):
    options = {"actions": [0, 1], "seeds": [0, 0], "augment": augment_poses, "meta": {"data": "motion"}}
    _, whole = align.train_embedders(videos, QUICK, replace(CONFIG, steps=4), **options)
    half = replace(CONFIG, steps=2)
    align.train_embedders(videos, QUICK, half, out=tmp_path, **options)
    with pytest.raises(CheckpointError, match="holds a run at step 2; add --resume"):
        align.train_embedders(videos, QUICK, CONFIG, out=tmp_path, **options)
    elsewhere = options | {"meta": {"data": "other"}}
    with pytest.raises(CheckpointError, match="is of another run: data is motion, now it is other"):
        align.train_embedders(videos, QUICK, CONFIG, out=tmp_path, resume=True, **elsewhere)
    _, resumed = align.train_embedders(videos, QUICK, CONFIG, out=tmp_path, resume=True, **options)
    assert int(resumed.step) == 4
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]


def test_embeddings_do_not_depend_on_the_chunks(videos, rng):
    graphdef, state = align.initial_state(QUICK, CONFIG, 3, [0], [0])
    params = align.network_params(state, 0)
    features = [rng.standard_normal((n, 3)).astype(np.float32) for n in (4, 7)]
    whole = align.embed_videos(graphdef, params, features, CONFIG, chunk=16)
    cut = align.embed_videos(graphdef, params, features, CONFIG, chunk=5)
    assert [len(video) for video in whole] == [4, 7]
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # a frame sees itself and earlier frames of its own video
    changed = [features[0], np.concatenate([features[1][:3], features[1][3:] + 1])]
    again = align.embed_videos(graphdef, params, changed, CONFIG, chunk=16)
    np.testing.assert_array_equal(again[0], whole[0])
    np.testing.assert_array_equal(again[1][:3], whole[1][:3])
    assert (again[1][3:] != whole[1][3:]).any()


def test_bad_options_and_a_loss_that_is_not_finite(videos):
    with pytest.raises(OptionError, match="--steps must be at least 1, got 0"):
        align.train_embedders(videos, QUICK, replace(CONFIG, steps=0), actions=[0], seeds=[0])
    with pytest.raises(OptionError, match="--learning-rate must be above 0, got -1"):
        align.train_embedders(videos, QUICK, replace(CONFIG, learning_rate=-1.0), actions=[0], seeds=[0])
    with pytest.raises(OptionError, match="--devices 2 does not divide 1 networks"):
        align.train_embedders(videos, QUICK, CONFIG, actions=[0], seeds=[0], devices=2)
    broken = videos._replace(frames=videos.frames * jnp.nan)
    with pytest.raises(DivergedError, match="loss of network 0 is nan by step 2; lower --learning-rate"):
        align.train_embedders(broken, QUICK, CONFIG, actions=[0], seeds=[0])


@pytest.mark.slow
def test_benchmark_prints_and_writes_both_protocols(motion, tmp_path, capsys):
    rows = run_benchmark(motion, CONFIG, tmp_path, methods=["tcn"], seeds=(0, 1))
    assert [[row.name for row in table] for table in rows.values()] == [["clock", "raw", "no learning", "TCN"]] * 2
    published, honest = rows.values()
    assert published[0].mean > 0.3, "the clock leaks through clipped context"
    assert np.isnan(honest[0].mean), "and has nothing to say where it is not clipped"
    assert honest[0].rate("nan_rate") == 1
    printed = capsys.readouterr().out
    assert (tmp_path / "tables.txt").read_text() in printed
    results = json.loads((tmp_path / "results.json").read_text())
    (_, first), _ = results["tau"].items()
    assert first["TCN"]["mean"] == pytest.approx(published[-1].mean)
    assert len(first["TCN"]["actions"]["crane_lift"]) == 2
    assert (tmp_path / "pictures" / "crane_lift.png").stat().st_size > 1e4
    again = run_benchmark(motion, CONFIG, tmp_path, methods=["tcn"], seeds=(0, 1), resume=True)
    assert next(iter(again.values()))[-1].as_dict() == published[-1].as_dict()


def test_benchmark_refuses_an_action_without_test_videos(motion, tmp_path):
    with pytest.raises(DataError, match="action ladle_pour has 0 test video"):
        run_benchmark([t for t in motion if t.train or t.action == "crane_lift"], CONFIG, tmp_path)
