"""Runs side by side are the runs alone; Q^C of a whole split is what one great batch gives."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax import errors
from casejax.data.sampling import uniform_snippets
from casejax.data.synthetic import make_world
from casejax.methods import Step
from casejax.methods.case.whole_split import make_whole_split_labels
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.train import loop
from casejax.train.ensemble import train_ensemble, training_part

CONFIG = Config.of("case").changed(
    num_clusters=4, hidden=16, num_snippets=32, batch_size=8, learning_rate=1e-3, epochs=2
)
CONFIG = CONFIG.changed(log_every=3, rank="true", prior_std=0.3)
CONFIGS = [
    CONFIG.changed(seed=1, cas_weight=0.8, learning_rate=3e-3, warmup_epochs=2.0, snippet_weight=0.5),
    CONFIG,
    CONFIG.changed(transformed_weight=0.1),
    CONFIG.changed(seed=2, warmup_epochs=1.0, snippet_weight=0.0),
    CONFIG.changed(num_clusters=3),
]


def one_stream(world):
    """A step with one stream compiles in half the time of one with two."""
    first = {
        name: replace(split, features=replace(split.features, streams=split.features.streams[:1]))
        for name, split in (("train", world.train), ("test", world.test))
    }
    return replace(world, streams=world.streams[:1], **first)


@pytest.fixture(scope="module")
def both():
    return make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400)


@pytest.fixture(scope="module")
def world(both):
    return one_stream(both)


@pytest.fixture(scope="module")
def alone(world, tmp_path_factory):
    """Some of the runs one by one."""
    out = tmp_path_factory.mktemp("alone")
    return {i: loop.train(world, CONFIGS[i], out / str(i), devices=1).state for i in (0, 1)}


@pytest.mark.parametrize(("side_by_side", "num_runs"), [(1, 5), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_every_run_is_the_run_alone(world, alone, side_by_side, num_runs):
    """Three runs of one shape, one that differs from them in inference alone, and one of another shape."""
    configs, seen, found = CONFIGS[:num_runs], [], {}
    for served, member in train_ensemble(
        world, configs, side_by_side=side_by_side, on_progress=lambda *x: seen.append(x)
    ):
        found |= dict.fromkeys(served, member)
    steps = 4 * (num_runs - 1)
    assert seen[-1] == (steps, steps)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert sorted(found) == list(range(num_runs))
    assert found[1] is found[2]  # equal but for inference
    if num_runs == 5:
        other = found[4].state
        assert other.cluster_labels.shape == (1, 3, 2)
        assert int(other.step) == 4
        assert found[4].metrics[-1]["loss_video"] != found[1].metrics[-1]["loss_video"]
    for index in alone:
        state, member = alone[index], found[index]
        assert [line["step"] for line in member.metrics] == [3, 4]
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(member.state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(state.cluster_labels, member.state.cluster_labels, atol=1e-3)
        assert int(member.state.step) == 4


def test_numbers_are_all_that_shares_a_program():
    """Every numeric option is a value of the configuration; no integer and no flag is among them."""
    options = CONFIG.flat()
    assert all(isinstance(options[name], float) for name in CONFIG.numeric)
    assert training_part(replace(CONFIG.changed(nms="soft"), variant="paper")) == training_part(CONFIG)
    assert training_part(CONFIG.changed(hidden=9)) != training_part(CONFIG)


def test_unusable_ensembles_are_refused(world):
    with pytest.raises(ValueError, match="side_by_side must be at least 1, got 0"):
        next(train_ensemble(world, [CONFIG], side_by_side=0))
    with pytest.raises(ValueError, match="epochs must lie in"):
        next(train_ensemble(world, [CONFIG, CONFIG.changed(epochs=0)]))
    with pytest.raises(errors.DivergedError, match="with seed 3 and learning rate 1e"):
        # as many as above, so that the program is there already
        list(train_ensemble(world, [CONFIG, CONFIG.changed(seed=2), CONFIG.changed(seed=3, learning_rate=1e30)]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"co_label_clusters": False, "co_label_selection": False, "fuse": "probabilities"},
        {"cluster_marginal": "attention", "prior": False},
        {"cluster_judge": "members", "judge_epsilon": 0.25, "cluster_context": 3},
    ],
    ids=str,
)
def test_whole_split_is_one_great_batch(both, options):
    """In batches of 5, the last one not full, against the objective on all videos at once."""
    config = CONFIG.changed(prototype_features="unit", **options)
    split = both.train
    graphdef, state = initial_state(config, both.dims, len(both.classes))
    rows = split.features.starts[:, None] + np.asarray(uniform_snippets(jnp.asarray(split.features.lengths), 32))
    features = tuple(jnp.asarray(stream[rows]) for stream in split.features.streams)
    labels = jnp.asarray(split.multi_hot(both.classes))
    before = jnp.asarray(np.random.default_rng(0).dirichlet([1, 1], (2, 4)), jnp.float32)
    if config.settings.head.co_label_clusters:
        before = before.at[1].set(before[0])

    @jax.jit
    def at_once(params):
        outputs, now = nnx.merge(graphdef, params)(features), Step(cluster_labels=before)
        return config.method.loss(outputs, labels, now, settings=config.settings).cluster_labels

    of_split = make_whole_split_labels(
        graphdef, split, both.classes, settings=config.settings, num_snippets=32, batch_size=5
    )
    np.testing.assert_allclose(of_split(state.params, before), at_once(state.params), rtol=1e-4, atol=1e-5)


def test_momentum_keeps_a_share_of_the_step_before(world):
    found = {}
    configs = [CONFIG.changed(cluster_momentum=m, epochs=1, log_every=1) for m in (0.0, 0.75, 1.0)]
    for served, member in train_ensemble(world, configs):
        found |= dict.fromkeys(served, member)
    start = initial_state(CONFIG, world.dims, len(world.classes))[1].cluster_labels
    np.testing.assert_array_equal(found[2].state.cluster_labels, start)
    first = [found[i].metrics[0]["cluster_foreground_mean"] for i in range(3)]
    np.testing.assert_allclose(first[1], 0.25 * first[0] + 0.75 * first[2], rtol=1e-5)
    assert first[0] != first[2]
