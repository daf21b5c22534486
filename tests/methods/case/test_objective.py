"""The objective: what its options do, and what must not change it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.methods import Outputs, Step
from casejax.methods.case import CaseNet, CaseSettings, HeadSettings
from casejax.methods.case.clustering import group_snippet_labels, initial_cluster_labels
from casejax.methods.case.head import make_head
from casejax.run.config import Config


def random_outputs(rng, b=4, t=24, c=5, k=6, d=7):
    def normal(*shape):
        return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))

    attention = tuple(jax.nn.sigmoid(x) for x in normal(b, t))
    return Outputs(normal(b, t, c), tuple(jnp.abs(x) for x in normal(b, t, d)), attention, normal(b, t, k))


def video_labels(b=4, c=5):
    return jnp.asarray(np.eye(c)[np.arange(b) % c], jnp.float32)


PARTS = ("cas", "attention", "embedding", "cluster_logits")
OPTIONS = [
    {"rank": "true", "prior_std": 0.3},
    {"rank": "attention", "prior_std": 0.3},
    {"prior": False},
    {"fuse": "probabilities"},
    {"co_label_selection": False},
    {"co_label_clusters": False},
    {"co_label_selection": False, "co_label_clusters": False},
    {"transport": False},
    {"hard_labels": True},
    {"transport": False, "hard_labels": True},
    {"pooling": "probabilities"},
    {"gce_exponent": 0.0},
    {"cluster_marginal": "equal"},
    {"cluster_judge": "members"},
    {"cluster_judge": "members", "judge_epsilon": 0.25, "cluster_marginal": "attention", "co_label_clusters": False},
    {"prototype_features": "unit"},
    {"sinkhorn_iters": 50, "sinkhorn_tolerance": 1e-3},
    {"cas_weight": 0.25},
]


def objective(out, labels, q, config, mask=None):
    """The loss, and the whole of what comes with it."""
    loss = config.method.loss(out, labels, Step(cluster_labels=q), settings=config.settings, mask=mask)
    return loss.value, loss


def value_and_grad(out, labels, q, config):
    """Not jitted: operation by operation, nearly all that one option compiles serves the next."""
    return jax.value_and_grad(lambda o: objective(o, labels, q, config), has_aux=True)(out)


@pytest.fixture(scope="module")
def plain():
    """A batch and what the published options make of it."""
    rng = np.random.default_rng(0)
    out, labels = random_outputs(rng), video_labels()
    q = jnp.tile(jnp.asarray(rng.dirichlet([1, 1], 6), jnp.float32), (2, 1, 1))
    return (out, labels, q), value_and_grad(out, labels, q, Config.of("case"))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_acts_and_stays_finite(plain, options):
    batch, ((plain_loss, plain_aux), _) = plain
    (loss, aux), gradient = value_and_grad(*batch, Config.of("case").changed(**options))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, aux, gradient)))
    labels = np.asarray(aux.cluster_labels)
    np.testing.assert_allclose(labels.sum(axis=2), 1, rtol=1e-5)
    assert float(loss) != float(plain_loss) or (labels != np.asarray(plain_aux.cluster_labels)).any()


@pytest.fixture(scope="module")
def ranked(plain):
    """What the printed rank and prior make of the batch."""
    batch, _ = plain
    return batch, value_and_grad(*batch, Config.of("case").changed(**OPTIONS[0]))


def test_masked_batch_equals_cropped_batch(ranked, rng):
    """A batch whose videos all end in padding gives the loss, labels and gradient of the batch without it."""
    (cropped, labels, q), ((want, want_aux), want_gradient) = ranked
    length, padded = 24, 30
    padding = jax.device_get(random_outputs(rng, t=padded - length))
    out = jax.tree.map(lambda x, y: np.concatenate([x, y], axis=1), jax.device_get(cropped), padding)
    mask = np.tile(np.arange(padded) < length, (4, 1))
    config = Config.of("case").changed(**OPTIONS[0])

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def value(o, mask):
        return objective(o, labels, q, config, mask)

    (loss, aux), gradient = jax.device_get(value(out, mask))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(aux.cluster_labels, want_aux.cluster_labels, rtol=1e-4)
    for name, value_ in want_aux.terms.items():
        np.testing.assert_allclose(aux.terms[name], value_, rtol=2e-3, atol=1e-6, err_msg=name)
    for got, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(want_gradient), strict=True):
        np.testing.assert_allclose(got[:, :length], wanted, rtol=1e-3, atol=1e-7)
        assert not got[:, length:].any()


def test_the_order_of_the_videos_does_not_matter(ranked):
    (out, labels, q), ((loss, aux), _) = ranked
    order = np.array([2, 0, 3, 1])
    config = Config.of("case").changed(**OPTIONS[0])
    (other, other_aux), _ = value_and_grad(jax.tree.map(lambda x: x[order], out), labels[order], q, config)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    np.testing.assert_allclose(aux.cluster_labels, other_aux.cluster_labels, rtol=1e-4)


def test_gradients_stop_where_the_published_program_stops_them(rng):
    """L_C reaches only the embedding, L_S only the cluster logits, L_A only the attention, L_V only the CAS."""
    out, labels = random_outputs(rng), video_labels()
    q = initial_cluster_labels(2, 6)

    def gradient(snippet, cluster):
        config = Config.of("case").changed(snippet_weight=snippet, cluster_weight=cluster)
        return jax.device_get(value_and_grad(out, labels, q, config)[1])._asdict()

    base = gradient(0.0, 0.0)

    def of(snippet, cluster):
        # the logged terms carry no gradient, so each is switched on alone through its weight
        full = gradient(snippet, cluster)
        return {name: bool(np.abs(np.stack(full[name]) - np.stack(base[name])).max() > 1e-9) for name in PARTS}

    assert of(1.0, 0.0) == {"cas": False, "attention": False, "embedding": False, "cluster_logits": True}
    assert of(0.0, 1.0) == {"cas": False, "attention": False, "embedding": True, "cluster_logits": False}


def test_snippets_given_once_train_like_repeated_ones(rng):
    """Value, Q^C and the gradient of every parameter are those of the batch with each repeat written out.

    That the published options train alike is shown by whole steps in train/test_loop.py.
    """
    config = Config.of("case").changed(prototype_features="unit", co_label_clusters=False)
    labels = video_labels()
    head = make_head(HeadSettings(num_clusters=6))

    def build():
        return CaseNet((4, 3), 5, settings=CaseSettings(hidden=7), head=head, rngs=nnx.Rngs(0))

    graphdef, params = nnx.split(nnx.eval_shape(build), nnx.Param)
    params = jax.tree.map(lambda x: (rng.normal(size=x.shape) / 2).astype(np.float32), params)
    distinct = [rng.normal(size=(40, d)).astype(np.float32) for d in (4, 3)]
    rows = np.asarray(np.sort(rng.choice(36, (4, 24)), axis=1))  # the last four stand nowhere
    q = initial_cluster_labels(2, 6)

    def loss(params, features, rows):
        value, aux = objective(nnx.merge(graphdef, params)(features, rows=rows), labels, q, config)
        return value, aux.cluster_labels

    gradient = jax.value_and_grad(loss, has_aux=True)
    once = jax.jit(gradient)(params, distinct, rows)
    repeated = gradient(params, [jnp.asarray(x[rows]) for x in distinct], None)
    for got, want in zip(jax.tree.leaves(once), jax.tree.leaves(repeated), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(np.asarray(want)).max())


def test_clusters_are_judged_by_the_labels_of_their_members(rng):
    """Q^C has the share that P^A says; its odds part as those of the members, to the power 1 / epsilon."""
    out, labels = random_outputs(rng), video_labels()
    config = Config.of("case").changed(cluster_judge="members", judge_epsilon=0.5, cluster_marginal="attention")
    _, loss = objective(out, labels, initial_cluster_labels(2, 6), config)
    found = np.float64(loss.cluster_labels)[0]
    np.testing.assert_allclose(found[:, 0].mean(), np.mean(out.attention), rtol=2e-3)

    head = config.settings.head
    flat = [x.reshape(-1, 6) for x in out.cluster_logits]
    members = np.float64(group_snippet_labels(flat, jnp.zeros(96), jnp.full(6, 1 / 6), settings=head).labels)
    foreground = np.float64(loss.foreground[0]).reshape(-1)
    share = np.asarray([np.average(foreground, weights=own) for own in members.T])
    odds = np.log(share / (1 - share)) / 0.5
    np.testing.assert_allclose(np.diff(np.log(found[:, 0] / found[:, 1])), np.diff(odds), rtol=1e-2, atol=1e-3)


def test_initial_cluster_labels():
    np.testing.assert_allclose(initial_cluster_labels(2, 4), np.full((2, 4, 2), 0.25))
