"""Every method runs under the one trainer: the same on several devices, after an interruption, and behind padding."""

import json
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import errors
from casejax.data.synthetic import make_world
from casejax.errors import CheckpointError
from casejax.inference.evaluate import evaluate_scores
from casejax.inference.scoring import make_test_scorer
from casejax.methods import BASES
from casejax.methods.recipes import recipe_of
from casejax.records import Batch
from casejax.run import state
from casejax.run.base_options import with_base
from casejax.run.config import Config
from casejax.runtime import mesh
from casejax.train import loop, pseudo_labelling, step

SMALL = {
    "num_clusters": 3,
    "num_snippets": 16,
    "batch_size": 8,
    "epochs": 3,
    "log_every": 2,
    "learning_rate": 1e-3,
    "rank": "true",
    "prior_std": 0.3,
}
METHODS = [*((name, base.has_attention) for name, base in BASES.items()), ("a2cl_pt", False)]


def small(name, case):
    config = with_base(Config.of("case"), name, case=case)
    return config.changed(**SMALL, hidden=8, similar_pairs=2 if config.schedule.similar_pairs else 0)


@pytest.fixture(scope="module")
def world():
    return make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=20, longest=60)


@pytest.fixture(autouse=True)
def few_proposals(monkeypatch):
    monkeypatch.setattr(pseudo_labelling, "MAX_PROPOSALS", 16)
    monkeypatch.setattr(pseudo_labelling, "MAX_INSTANCES", 4)


class StopAfter:
    """In the place of the signals: asks to stop once it has been asked so many times."""

    def __init__(self, times):
        self.times = times

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    @property
    def signum(self):
        self.times -= 1
        return 15 if self.times < 0 else None


def train(world, config, out, monkeypatch, *, stop=None, **options):
    if stop is not None:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "StopRequest", partial(StopAfter, stop))
            with pytest.raises(errors.Interrupted):
                loop.train(world, config, out, **options)
        options["resume"] = True
    return loop.train(world, config, out, **options)


def check_resumes(world, config, tmp_path, monkeypatch):
    """An interrupted run ends with the bits of one that was not, and its network can be scored."""
    whole = train(world, config, tmp_path / "whole", monkeypatch, devices=1)
    again = train(world, config, tmp_path / "cut", monkeypatch, devices=1, stop=2)
    assert int(whole.state.step) == 6
    chex.assert_trees_all_equal(whole.state._replace(key=0), again.state._replace(key=0))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(value) for line in lines for value in line.values())
    if config.settings.head.pseudo_labels:
        assert int(whole.state.labels.made) == 6
        assert lines[-1]["loss_labels"] != 0
    return whole


def check_devices(world, config, whole, tmp_path, monkeypatch, devices):
    other = train(world, config, tmp_path / "devices", monkeypatch, devices=devices)
    assert len(other.state.step.sharding.device_set) == devices
    for a, b in zip(*(jax.tree.leaves(run.state.params) for run in (whole, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=2e-4)


def check_scores(world, config, trained):
    scored = make_test_scorer(trained.graphdef, world, config)(trained.state.params, trained.state.cluster_labels)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(scored.scores))
    assert (scored.cluster_labels is not None) == (config.settings.head.case or config.settings.head.base == "case")
    detections, result, _ = evaluate_scores(scored.scores, world, config.localization)
    ends = world.test.features.lengths * world.snippet_seconds
    assert (detections.segment[:, 1] <= ends[detections.video] + 1e-6).all()
    assert 0 <= result.average(0.1, 0.7) <= 1


def batch_of(config, rng, spoiled=0.0):
    shape = config.schedule.batch_size, config.schedule.num_snippets
    lengths = rng.integers(6, shape[1], shape[0])
    mask = np.arange(shape[1])[None] < lengths[:, None]
    streams = tuple(rng.normal(size=(*shape, 6)).astype(np.float32) for _ in range(2))
    labels = np.eye(4, dtype=np.float32)[np.arange(shape[0]) // 2 % 4]
    clean = [np.where(mask[:, :, None], x, spoiled) for x in streams]
    return Batch(tuple(map(jnp.asarray, clean)), jnp.asarray(labels), mask=jnp.asarray(mask))


def check_padding(config):
    """Whatever stands in padding, a step ends with the same bits."""
    config = config.changed(pseudo_labels=False)
    one = mesh.make_mesh(1)
    graphdef, start = state.initial_state(config, (6, 6), 4)
    run = jax.jit(partial(step.update, steps_per_epoch=2, graphdef=graphdef, config=config, mesh=one))
    clean, spoiled = (run(start, batch_of(config, np.random.default_rng(0), x)) for x in (0.0, np.nan))
    chex.assert_trees_all_equal(*[(new._replace(key=0), metrics) for new, metrics in (clean, spoiled)])
    assert np.isfinite(clean[1]["loss"])


@pytest.mark.parametrize(("name", "case"), [("zhou", True), ("a2cl_pt", False)])
def test_a_resumed_run_ends_with_the_same_bits(world, tmp_path, monkeypatch, name, case):
    config = small(name, case)
    check_scores(world, config, check_resumes(world, config, tmp_path, monkeypatch))


def test_devices_do_not_change_a_base(world, tmp_path, monkeypatch):
    config = small("asl", False).changed(epochs=1, sampling="crop", similar_pairs=2)
    whole = train(world, config, tmp_path / "whole", monkeypatch, devices=1)
    check_devices(world, config, whole, tmp_path, monkeypatch, 4)
    with pytest.raises(CheckpointError, match="epochs was 1, is 2"):  # its phases would move
        loop.train(world, config.changed(epochs=2), tmp_path / "whole", devices=1, resume=True)


def test_padding_is_inert_with_the_head():
    check_padding(small("asl", True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case"), METHODS)
def test_every_method_resumes_on_any_devices_behind_any_padding(world, tmp_path, monkeypatch, name, case):
    config = small(name, case)
    whole = check_resumes(world, config, tmp_path, monkeypatch)
    check_scores(world, config, whole)
    check_devices(world, config, whole, tmp_path, monkeypatch, 8)
    check_padding(config)


def test_the_baseline_with_the_head_is_case():
    """The same parameters give the same loss, Q^C and gradients as CASE in one program, under a mask."""
    whole = small("case", False).changed(num_snippets=16)
    apart = small("baseline", True).changed(cluster_weight=0.4)
    whole = whole.changed(cluster_weight=0.4)
    one, batch = mesh.make_mesh(1), batch_of(whole, np.random.default_rng(1))
    graphdef, start = state.initial_state(whole, (6, 6), 4)
    other, head = state.initial_state(apart, (6, 6), 4)
    own = start.params["streams"]
    layers = {"class_encoders": "class_encoder", "classifiers": "classifier", "embedding_encoders": "embedding_encoder"}
    for s in range(2):
        head.params["clusters"][s]["directions"] = own[s]["clusters"]["directions"]
        for theirs, ours in (layers | {"attention": "attention"}).items():
            head.params["base"][theirs][s] = own[s][ours]

    def gradients(graphdef, config, start):
        now = step.Now(jnp.int32(0), 2, 6, jax.random.key(0))
        recipe = recipe_of(config)

        def loss(params):
            return recipe.loss(graphdef, recipe.prepare(params, config), start, batch, now, config)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(start.params)

    assert one.size == 1
    (value, kept), slopes = gradients(graphdef, whole, start)
    (same, head_kept), head_slopes = gradients(other, apart, head)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    np.testing.assert_allclose(kept.cluster_labels, head_kept.cluster_labels, rtol=1e-5)
    for s in range(2):
        pairs = [(slopes["streams"][s]["clusters"]["directions"], head_slopes["clusters"][s]["directions"])]
        for theirs, ours in (layers | {"attention": "attention"}).items():
            pairs += [
                (slopes["streams"][s][ours][name], head_slopes["base"][theirs][s][name]) for name in ("kernel", "bias")
            ]
        for a, b in pairs:
            np.testing.assert_allclose(a[...], b[...], rtol=1e-4, atol=1e-6)
