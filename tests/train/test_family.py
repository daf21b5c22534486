"""Every method runs under the one trainer: the same on several devices, after an interruption, and behind padding."""

import inspect
import json
from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax import errors
from casejax.data.synthetic import make_world
from casejax.errors import CheckpointError
from casejax.inference.evaluate import evaluate_scores
from casejax.inference.scoring import make_test_scorer
from casejax.methods import METHODS, Step, find, with_head
from casejax.records import Batch
from casejax.run import state
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
pytestmark = pytest.mark.usefixtures("kept_steps")
# each method once, with the head where it can have one; what learns from instances is in test_teaching
NAMES = [
    f"{name}+case" if method.can_be_clustered else name
    for name, method in METHODS.items()
    if name != "case" and not method.learns_instances
]


def small(name):
    config = Config.of(name)
    has = config.flat()
    options = {option: value for option, value in SMALL.items() if option in has}
    return config.changed(**options, hidden=8, similar_pairs=2 if config.schedule.similar_pairs else 0)


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
    if config.flat().get("pseudo_labels"):
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
    assert (scored.cluster_labels is not None) == (config.method.foreground is not None)
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
    if "pseudo_labels" in config.flat():
        config = config.changed(pseudo_labels=False)
    one = mesh.make_mesh(1)
    graphdef, start = state.initial_state(config, (6, 6), 4)
    run = jax.jit(partial(step.update, steps_per_epoch=2, graphdef=graphdef, config=config, mesh=one))
    clean, spoiled = (run(start, batch_of(config, np.random.default_rng(0), x)) for x in (0.0, np.nan))
    chex.assert_trees_all_equal(*[(new._replace(key=0), metrics) for new, metrics in (clean, spoiled)])
    assert np.isfinite(clean[1]["loss"])


@pytest.mark.parametrize("name", [pytest.param("zhou+case", marks=pytest.mark.slow), "a2cl_pt"])
def test_a_resumed_run_ends_with_the_same_bits(world, tmp_path, monkeypatch, name):
    config = small(name)
    check_scores(world, config, check_resumes(world, config, tmp_path, monkeypatch))


def test_devices_do_not_change_a_method(world, tmp_path, monkeypatch):
    config = small("asl").changed(epochs=1, sampling="crop", similar_pairs=2)
    whole = train(world, config, tmp_path / "whole", monkeypatch, devices=1)
    check_devices(world, config, whole, tmp_path, monkeypatch, 4)
    with pytest.raises(CheckpointError, match="epochs was 1, is 2"):  # its phases would move
        loop.train(world, config.changed(epochs=2), tmp_path / "whole", devices=1, resume=True)


def test_padding_is_inert_with_the_head():
    check_padding(small("asl+case"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_method_resumes_on_any_devices_behind_any_padding(world, tmp_path, monkeypatch, name):
    config = small(name)
    whole = check_resumes(world, config, tmp_path, monkeypatch)
    check_scores(world, config, whole)
    check_devices(world, config, whole, tmp_path, monkeypatch, 8)
    check_padding(config)


def test_the_head_is_the_same_inside_a_network_and_around_it():
    """CASE holds its head; put around the two-branch network, it gives the same loss, Q^C and gradients."""
    config, batch = small("case").changed(cluster_weight=0.4), batch_of(small("case"), np.random.default_rng(1))
    inside = find("case")
    around = inspect.unwrap(with_head)(replace(find("baseline"), takes_head=False))
    q = jnp.full((2, 3, 2), 1 / 3)

    def gradients(method, params=None):
        network = method.network((6, 6), 4, settings=config.settings, rngs=nnx.Rngs(0))
        graphdef, own = nnx.split(network, nnx.Param)
        if params is not None:
            streams = nnx.to_pure_dict(params)["streams"]
            heads = {s: stream.pop("clusters") for s, stream in streams.items()}
            nnx.replace_by_pure_dict(own, {"base": {"streams": streams}, "clusters": heads})

        def loss(params):
            network = nnx.merge(graphdef, params)
            outputs = network(batch.streams, mask=batch.mask)
            step = Step(network, cluster_labels=q)
            found = method.loss(outputs, batch.labels, step, settings=config.settings, mask=batch.mask)
            return found.value, found.cluster_labels

        return own, jax.jit(jax.value_and_grad(loss, has_aux=True))(own)

    params, ((value, labels), slopes) = gradients(inside)
    _, ((same, same_labels), other_slopes) = gradients(around, params)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    np.testing.assert_allclose(labels, same_labels, rtol=1e-5)
    for s in range(2):
        ours, theirs = slopes["streams"][s], other_slopes["base"]["streams"][s]
        pairs = [(ours["clusters"]["directions"], other_slopes["clusters"][s]["directions"])]
        pairs += [(ours[layer][name], theirs[layer][name]) for layer in theirs for name in ("kernel", "bias")]
        for a, b in pairs:
            np.testing.assert_allclose(a[...], b[...], rtol=1e-4, atol=1e-6)
