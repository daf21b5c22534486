import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from casejax.methods.a2cl_pt import objective as a2cl_pt
from casejax.methods.a2cl_pt.network import A2CLPTOwn
from casejax.methods.contract import Outputs


def test_golden_center_losses(golden):
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


def test_class_pairs():
    labels = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 1]], np.float32)
    options = {}, {"max_labels": 3}, {"multi_label": False}, {"max_labels": 2}
    found = jax.jit(lambda labels: [a2cl_pt.class_pairs(labels, **own) for own in options])(labels)
    pairs, fewer, single, too_few = jax.device_get(found)
    assert pairs.label.shape == (4, 4)
    classes = [label[mask].tolist() for label, mask in zip(pairs.label, pairs.mask, strict=True)]
    assert classes == [[1, 3], [], [0], [0, 2, 3]]
    assert not pairs.label[~pairs.mask].any()
    assert pairs.dropped == 0
    np.testing.assert_array_equal(fewer.label, pairs.label[:, :3])
    assert single.mask.sum(axis=1).tolist() == [0, 0, 1, 0]
    assert too_few.dropped == 1
    assert too_few.label[3].tolist() == [0, 2]
    with pytest.raises(ValueError, match="a video has 3 labels, max_labels is 2"):
        a2cl_pt.class_pairs(labels, max_labels=2)
    with pytest.raises(ValueError, match="max_labels must be 1 or more, got 0"):
        a2cl_pt.class_pairs(labels, max_labels=0)


def test_attended_features(rng):
    """Of two videos, the second shorter, with nonsense for padding."""
    mask = np.arange(9)[None] < np.array([[9], [5]])
    embedding, cas = rng.normal(size=(2, 9, 4)).astype(np.float32), rng.normal(size=(2, 9, 3)).astype(np.float32)
    labels, betas = np.array([[2, 0], [1, 1]]), np.array([[1.0, 0.05], [0.5, 0.0]], np.float32)

    @jax.jit
    def pooled(embedding, cas):
        def total(embedding, cas):
            features = a2cl_pt.attended_features(
                embedding, cas, jnp.asarray(labels), mask=jnp.asarray(mask), temperature=jnp.asarray(betas)
            )
            return (features**2).sum(), features

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(embedding, cas)

    clean = jax.device_get(pooled(embedding, cas))
    spoiled = pooled(*(np.where(mask[:, :, None], x, np.nan) for x in (embedding, cas)))
    jax.tree.map(np.testing.assert_array_equal, clean, spoiled)
    (_, got), gradients = clean
    for b, k in np.ndindex(2, 2):
        n = mask[b].sum()
        weights = oracles.softmax(betas[b, k] * cas[b, :n, labels[b, k]].astype(float))
        np.testing.assert_allclose(got[b, k], weights @ embedding[b, :n], rtol=1e-5, atol=1e-6)
    assert not any(gradient[~mask].any() for gradient in gradients)


def test_the_objective_is_the_sum_of_its_parts():
    """With temperatures that leave nothing to chance, and negatives from absent classes."""
    rng = np.random.default_rng(4)
    labels = np.eye(3, dtype=np.float32)[np.arange(8) % 3]
    labels[0, 2] = 1
    mask = np.arange(10)[None] < rng.integers(6, 11, size=8)[:, None]

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

    outputs = jax.tree.map(np.float32, Outputs(tuple(cas), tuple(embedding), own=A2CLPTOwn(tuple(erased), tcam)))
    loss, metrics = objective(outputs, jax.tree.map(np.float32, tuple(rows)), jax.random.key(0))
    mil, center = want(absent=True)
    np.testing.assert_allclose(metrics["loss_mil"], mil, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_center"], center, rtol=1e-5)
    np.testing.assert_allclose(loss, mil + center, rtol=1e-5)
    assert abs(want(absent=False)[1] - center) > 1e-3


def test_what_does_not_fit_is_refused():
    labels, cas = np.ones((8, 3), np.float32), jnp.zeros((8, 10, 3))
    outputs = Outputs((cas,), (jnp.zeros((8, 10, 4)),), own=A2CLPTOwn((cas,), cas))
    rows, key = jnp.ones((2, 3, 4)), jax.random.key(0)

    def objective(labels, rows, **options):
        jax.eval_shape(lambda x: a2cl_pt.a2cl_pt_objective(x, jnp.asarray(labels), rows, key, **options), outputs)

    with pytest.raises(ValueError, match=r"outputs of 1 streams and 3 classes need .* got 2 and 3"):
        objective(labels, [rows, rows])
    with pytest.raises(ValueError, match=r"outputs of 1 streams and 3 classes need .* got 1 and 4"):
        objective(np.ones((8, 4), np.float32), [rows])
    with pytest.raises(ValueError, match=r"2 branches of 3 classes need centers \(2, 3, D\) .* got \(2, 5, 4\)"):
        objective(labels, [jnp.ones((2, 5, 4))])
    with pytest.raises(ValueError, match=r"centers must be \(C, D=4\), got \(3, 7\)"):
        objective(labels, [jnp.ones((2, 3, 7))])
    with pytest.raises(ValueError, match=r"range of temperatures from 0 on, got \(0.2, 0.1\)"):
        objective(labels, [rows], betas=(0.2, 0.1))
