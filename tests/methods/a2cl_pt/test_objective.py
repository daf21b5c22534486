import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from casejax.methods.a2cl_pt.center_update import network_and_centers
from casejax.methods.case.recipe import make_optimizer
from flax import nnx

from casejax import losses
from casejax.methods.a2cl_pt import objective as a2cl_pt
from casejax.methods.a2cl_pt.network import A2CLPTNet, A2CLPTOutputs

# Published values


def test_published_center_losses(golden):
    arrays = golden.arrays("a2cl_pt")
    runs = sorted({key.split("/")[1] for key in arrays if re.match(r"full/it\d+/", key)})
    assert runs
    features, labels = arrays["full/feat"], arrays["full/label"]
    mask = np.arange(features.shape[1])[None] < arrays["full/len"][:, None]
    places = int(labels.sum(axis=1).max())

    @jax.jit
    def loss_and_gradients(features, cas, rows, betas, multi_label):
        pairs = a2cl_pt.class_pairs(labels, multi_label=multi_label, max_labels=places)

        def loss(*inputs):
            features, cas, rows = inputs
            return a2cl_pt.branch_center_loss(features, cas, pairs, rows, betas, mask=jnp.asarray(mask))

        return *jax.value_and_grad(loss, argnums=(0, 1, 2))(features, cas, rows), pairs

    for run in runs:
        a = {key.removeprefix(f"full/{run}/"): x for key, x in arrays.items() if key.startswith(f"full/{run}/")}
        since = re.search(r">=(\d+) every", golden.notes("a2cl_pt")["arrays"][f"full/{run}/iters"]["meaning"])
        multi_label = a["iters"] >= int(since[1])
        takes_part = (labels.sum(axis=1) == 1) | multi_label
        betas = np.zeros((2, len(labels), places), np.float32)
        place = np.concatenate([np.arange(int(n)) for n in labels[takes_part].sum(axis=1)])
        video = np.repeat(np.arange(len(labels)), (labels.sum(axis=1) * takes_part).astype(int))
        for branch in range(2):
            betas[branch, video, place] = a[f"beta{branch + 1}"]
        rows = np.stack([a["centers1_before"], a["centers2_before"]])
        cas = arrays["full/cas1"], arrays["full/cas2"]
        value, (high, logits, averaged), pairs = loss_and_gradients(features, cas, rows, betas, multi_label)
        assert int(pairs.mask.sum()) == len(video)
        for got, want in (
            (value, a["loss"]),
            (high, a["grad_feat"]),
            (logits[0], a["grad_cas1"]),
            (logits[1], a["grad_cas2"]),
            (averaged[0], a["grad_centers1"]),
            (averaged[1], a["grad_centers2"]),
        ):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=run)


def test_published_mil_losses(golden):
    arrays = golden.arrays("a2cl_pt")
    cas, labels = arrays["mil/cas"], arrays["mil/label"]
    mask = np.arange(cas.shape[1])[None] < arrays["mil/len"][:, None]
    divisors = [re.fullmatch(r"mil/loss_s(\d+)", key) for key in arrays if key.startswith("mil/loss_s")]
    assert divisors
    assert all(divisors)

    @partial(jax.jit, static_argnums=1)
    def loss_and_gradient(cas, divisor):
        return jax.value_and_grad(
            lambda cas: losses.mil_loss(cas, jnp.asarray(labels), mask=jnp.asarray(mask), divisor=divisor).mean()
        )(cas)

    for found in divisors:
        value, gradient = loss_and_gradient(cas, int(found[1]) or 1)  # there, 0 stands for all snippets
        np.testing.assert_allclose(value, arrays[found[0]], rtol=1e-6)
        np.testing.assert_allclose(gradient, arrays[f"mil/grad_s{found[1]}"], rtol=1e-6, atol=1e-7)


# Pairs and pooling


def test_class_pairs():
    labels = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 1]], np.float32)
    pairs = a2cl_pt.class_pairs(labels)
    assert pairs.label.shape == (4, 4)
    found = [np.asarray(label)[mask].tolist() for label, mask in zip(pairs.label, np.asarray(pairs.mask), strict=True)]
    assert found == [[1, 3], [], [0], [0, 2, 3]]
    assert (np.asarray(pairs.label)[~np.asarray(pairs.mask)] == 0).all()
    assert int(pairs.dropped) == 0
    fewer = a2cl_pt.class_pairs(labels, max_labels=3)
    np.testing.assert_array_equal(fewer.label, pairs.label[:, :3])
    single = a2cl_pt.class_pairs(labels, multi_label=jnp.asarray(False))
    assert np.asarray(single.mask).sum(axis=1).tolist() == [0, 0, 1, 0]
    traced = jax.jit(lambda labels: a2cl_pt.class_pairs(labels, max_labels=2))(labels)
    assert int(traced.dropped) == 1
    assert traced.label[3].tolist() == [0, 2]
    with pytest.raises(ValueError, match="a video has 3 labels, max_labels is 2"):
        a2cl_pt.class_pairs(labels, max_labels=2)
    with pytest.raises(ValueError, match="max_labels must be 1 or more, got 0"):
        a2cl_pt.class_pairs(labels, max_labels=0)


@pytest.fixture(scope="module")
def videos():
    """Two videos of three classes, the second shorter; and the same with nonsense for padding."""
    rng = np.random.default_rng(2)
    mask = np.arange(9)[None] < np.array([[9], [5]])
    embedding, cas = rng.normal(size=(2, 9, 4)).astype(np.float32), rng.normal(size=(2, 9, 3)).astype(np.float32)
    spoiled = [np.where(mask[:, :, None], x, np.nan) for x in (embedding, cas)]
    return embedding, cas, mask, spoiled


def test_attended_features(videos):
    embedding, cas, mask, spoiled = videos
    labels, betas = jnp.asarray([[2, 0], [1, 1]]), jnp.asarray([[1.0, 0.05], [0.5, 0.0]])

    @jax.jit
    def pooled(embedding, cas):
        def total(embedding, cas):
            features = a2cl_pt.attended_features(embedding, cas, labels, mask=jnp.asarray(mask), temperature=betas)
            return (features**2).sum(), features

        (_, features), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(embedding, cas)
        return features, gradients

    got, gradients = pooled(embedding, cas)
    for b, k in np.ndindex(2, 2):
        n = mask[b].sum()
        weights = oracles.softmax(betas[b, k] * cas[b, :n, labels[b, k]].astype(float))
        np.testing.assert_allclose(got[b, k], weights @ embedding[b, :n], rtol=1e-5, atol=1e-6)
    same, same_gradients = pooled(*spoiled)
    for a, b in zip((got, *gradients), (same, *same_gradients), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((np.asarray(g)[~mask] == 0).all() for g in gradients)


def test_top_pooling_and_mil(videos):
    _, cas, mask, spoiled = videos
    labels = np.array([[1, 0, 1], [0, 0, 0]], np.float32)

    @partial(jax.jit, static_argnames="divisor")
    def pooled(cas, labels, divisor):
        def total(cas):
            loss = losses.mil_loss(cas, jnp.asarray(labels), mask=jnp.asarray(mask), divisor=divisor)
            return loss.sum(), (loss, losses.top_k_mean(cas, divisor=divisor, rounding="up", mask=jnp.asarray(mask)))

        (_, values), gradient = jax.value_and_grad(total, has_aux=True)(cas)
        return *values, gradient

    loss, got, gradient = pooled(cas, labels, divisor=3)
    for b, c in np.ndindex(2, 3):
        n = mask[b].sum()
        want = sorted(cas[b, :n, c])[::-1][: -(-n // 3)]
        np.testing.assert_allclose(got[b, c], np.mean(want), rtol=1e-5)
    want = oracles.cross_entropy(np.asarray(got, float), labels / np.maximum(labels.sum(axis=1, keepdims=True), 1))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    assert loss[1] == 0  # without a label
    for a, b in zip(pooled(spoiled[1], labels, divisor=3), (loss, got, gradient), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(gradient)[~mask] == 0).all()
    for function in (
        partial(losses.top_k_mean, divisor=0),
        lambda cas: losses.mil_loss(cas, jnp.asarray(labels), divisor=0),
    ):
        with pytest.raises(ValueError, match="divisor must be 1 or more, got 0"):
            function(jnp.asarray(cas))


# Objective


@pytest.fixture(scope="module")
def batch():
    """Features, labels, mask: each class has a direction of its own, in half of a video's snippets."""
    rng = np.random.default_rng(3)
    labels = np.eye(3, dtype=np.float32)[np.arange(8) % 3]
    labels[0, 2] = 1
    mask = np.arange(10)[None] < rng.integers(6, 11, size=8)[:, None]
    acts = (rng.random((8, 10, 1)) < 0.5) * (labels @ rng.normal(size=(3, 5)))[:, None, :]
    return [(acts + 0.3 * rng.normal(size=(8, 10, 5))).astype(np.float32)], labels, mask


@pytest.fixture(scope="module")
def trainer(batch):
    """A compiled step of network and centers, and where they start."""
    network = A2CLPTNet((5,), 3, hidden=8, dropout=0.3, erase_divisor=5, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(network, nnx.Param)
    rows = (jnp.stack([losses.initial_centers(3, 8, key) for key in jax.random.split(jax.random.key(1))]),)
    optimizer = network_and_centers(make_optimizer(1e-2, 5e-4), (0.1,))

    @jax.jit
    def step(state, features, labels, mask, seed, options):
        params, opt_state = state
        key = jax.random.key(seed)

        def loss(params):
            network, rows = params
            dropout_key, beta_key = jax.random.split(key)
            outputs = nnx.merge(graphdef, network)(features, dropout_key, mask=mask)
            return a2cl_pt.a2cl_pt_objective(outputs, labels, rows, beta_key, mask=mask, max_labels=2, **options)

        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
        return (params, opt_state), metrics, gradients

    return step, ((params, rows), optimizer.init((params, rows)))


OPTIONS = {"multi_label": True, "center_weight": 1.0}


def test_training_lowers_the_loss(batch, trainer):
    step, state = trainer
    losses = []
    for n in range(40):
        options = OPTIONS | {"multi_label": n + 1 >= 10}
        state, metrics, _ = step(state, *batch, n, options)
        losses.append([float(metrics["loss_mil"]), float(metrics["loss_center"])])
        assert int(metrics["pairs"]) == (9 if n >= 9 else 7)
        assert int(metrics["dropped_pairs"]) == 0
    assert (np.mean(losses[-3:], axis=0) < [0.75, 0.95] * np.mean(losses[10:13], axis=0)).all()


def test_what_stands_under_the_mask_is_inert(batch, trainer):
    step, state = trainer
    features, labels, mask = batch
    spoiled = [np.where(mask[:, :, None], x, np.nan) for x in features]
    results = [step(state, x, labels, mask, 0, OPTIONS) for x in (features, spoiled)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weight_of_the_center_losses_does_not_reach_the_centers(batch, trainer):
    step, state = trainer
    results = [step(state, *batch, 0, OPTIONS | {"center_weight": weight}) for weight in (0.0, 1.0, 2.0)]
    gradients = [gradients for _, _, gradients in results]
    for a, b, c in zip(*(jax.tree.leaves(rows) for _, rows in gradients), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(b, c)
        assert np.abs(a).max() > 0
    # That of the embedding is linear in it.
    without, with_one, with_two = (network["streams"][0]["second"]["kernel"][...] for network, _ in gradients)
    assert np.abs(with_two - without).max() > 1e-3
    np.testing.assert_allclose(with_two - with_one, with_one - without, rtol=1e-3, atol=1e-6)


def test_the_objective_is_the_sum_of_its_parts(batch):
    """With temperatures that leave nothing to chance, and negatives from absent classes."""
    _, labels, mask = batch
    rng = np.random.default_rng(4)

    def normal(*shape):
        return rng.normal(size=shape)

    cas, erased, embedding = ([normal(8, 10, d) for _ in range(2)] for d in (3, 3, 4))
    rows, tcam = [normal(2, 3, 4) for _ in range(2)], normal(8, 10, 3)
    beta = 0.02

    def pooled(logits, b, c, factor, x):
        n = mask[b].sum()
        return oracles.softmax(factor * logits[b, :n, c]) @ x[b, :n]

    def angle(x, y):
        return np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    @jax.jit
    def objective(outputs, rows, key):
        return a2cl_pt.a2cl_pt_objective(
            outputs,
            jnp.asarray(labels),
            rows,
            key,
            mask=jnp.asarray(mask),
            betas=(beta, beta),
            absent_negatives=True,
        )

    def want(absent):
        mil = 0
        for logits in (tcam, *cas, *erased):
            scores = np.array(
                [
                    np.sort(x[m], axis=0)[::-1][: -(-m.sum() // 8)].mean(axis=0)
                    for x, m in zip(logits, mask, strict=True)
                ]
            )
            mil += oracles.cross_entropy(scores, labels / labels.sum(axis=1, keepdims=True)).mean()
        center = 0
        for s in range(2):
            for logits, own in ((cas[s], rows[s][0]), (erased[s], rows[s][1])):
                for b, c in zip(*np.nonzero(labels), strict=True):
                    high, low = (pooled(logits, b, c, factor, embedding[s]) for factor in (1, beta))
                    others = [k for k in range(3) if k != c and not (absent and labels[b, k])]
                    atcl = angle(high, own[c]) - min(angle(high, own[k]) for k in others) + 1
                    nt = angle(high, own[c]) - angle(low, own[c]) + 2
                    center += (max(atcl, 0) + 0.6 * max(nt, 0)) / labels.sum()
        return mil, center

    outputs = jax.tree.map(jnp.float32, A2CLPTOutputs(tuple(cas), tuple(erased), tuple(embedding), tcam))
    loss, metrics = objective(outputs, jax.tree.map(jnp.float32, tuple(rows)), jax.random.key(0))
    mil, center = want(absent=True)
    np.testing.assert_allclose(metrics["loss_mil"], mil, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_center"], center, rtol=1e-5)
    np.testing.assert_allclose(loss, mil + center, rtol=1e-5)
    assert abs(want(absent=False)[1] - center) > 1e-3


def test_what_does_not_fit_is_refused(batch):
    _, labels, _ = batch
    outputs = A2CLPTOutputs(
        (jnp.zeros((8, 10, 3)),), (jnp.zeros((8, 10, 3)),), (jnp.zeros((8, 10, 4)),), jnp.zeros((8, 10, 3))
    )
    rows, key = jnp.ones((2, 3, 4)), jax.random.key(0)

    def objective(labels, rows, **options):
        jax.eval_shape(lambda x: a2cl_pt.a2cl_pt_objective(x, jnp.asarray(labels), rows, key, **options), outputs)

    with pytest.raises(ValueError, match=r"outputs of 1 streams and 3 classes need .* got 2 and 3"):
        objective(labels, [rows, rows])
    with pytest.raises(ValueError, match=r"outputs of 1 streams and 3 classes need .* got 1 and 4"):
        objective(np.ones((8, 4), np.float32), [rows])
    with pytest.raises(ValueError, match=r"2 branches of 3 classes need centers \(2, 3, D\) .* got \(2, 5, 4\)"):
        objective(labels, [jnp.ones((2, 5, 4))])
    with pytest.raises(ValueError, match=r"dimension of the features, got features \(24, 4\) and centers \(3, 7\)"):
        objective(labels, [jnp.ones((2, 3, 7))])
    with pytest.raises(ValueError, match=r"range of temperatures from 0 on, got \(0.2, 0.1\)"):
        objective(labels, [rows], betas=(0.2, 0.1))
