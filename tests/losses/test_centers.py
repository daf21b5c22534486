import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slopes import assert_gradient

from casejax import losses

PAIRS, DIM, CLASSES = 12, 16, 6
"""All problems are of the size of the greatest published one, for one compilation."""


def everything(*problem):
    return jax.device_get(compiled(*problem))


@jax.jit
def compiled(features, background, labels, rows, mask, candidates, options):
    """Losses; gradients of features and background, averaged and true gradient of the centers; triplets."""

    def loss(features, background, rows, averaged):
        options_of_loss = {name: value for name, value in options.items() if name != "scale"}
        return options["scale"] * losses.center_loss(
            features, background, labels, rows, mask=mask, candidates=candidates, averaged=averaged, **options_of_loss
        )

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(features, background, rows, True)
    same, true = jax.value_and_grad(loss, argnums=2)(features, background, rows, False)
    margins = {name: value for name, value in options.items() if name.startswith("margin")}
    triplets = losses.triplets(features, background, labels, rows, candidates=candidates, **margins)
    return (value, same), (*gradients, true), triplets


# Published values


def one_shape(arrays, dtype):
    """Published problems in one shape: pairs masked, classes no candidates, dimensions zero."""

    def padded(x, *shape):
        return np.pad(x, [(0, wanted - size) for wanted, size in zip(shape, x.shape, strict=True)])

    for name in (key.split("/")[0] for key in arrays if key.endswith("/featureH")):
        num_pairs, dim, num_classes = *arrays[f"{name}/featureH"].shape, len(arrays[f"{name}/centers"])
        a = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
        inputs = (
            padded(a["featureH"].astype(dtype), PAIRS, DIM),
            padded(a["featureL"].astype(dtype), PAIRS, DIM),
            padded(a["label"].astype(np.int32), PAIRS),
            padded(a["centers"].astype(dtype), CLASSES, DIM),
            np.arange(PAIRS) < num_pairs,
            np.broadcast_to(np.arange(CLASSES) < num_classes, (PAIRS, CLASSES)),
        )
        yield name, a, inputs, (num_pairs, dim, num_classes)


@pytest.mark.parametrize("x64", [False, True])
def test_golden_losses_and_gradients(golden, x64):
    arrays, notes = golden.arrays("a2cl_pt"), golden.notes("a2cl_pt")
    dtype, precision, tolerance = (np.float64, "f64", 1e-12) if x64 else (np.float32, "f32", 1e-6)
    cases = list(one_shape(arrays, dtype))
    assert cases
    for case, a, inputs, (n, d, c) in cases:
        gamma = re.search(r"gamma ([\d.]+)", notes["arrays"][f"{case}/{precision}/loss"]["meaning"])
        margin_nt, margin_atcl = a["margins"]
        options = {"nt_weight": gamma[1], "margin_nt": margin_nt, "margin_atcl": margin_atcl, "scale": 1}
        options = {name: dtype(value) for name, value in options.items()}
        with jax.enable_x64(x64):
            (value, same), gradients, triplets = everything(*inputs, options)
            doubled = everything(*inputs, options | {"scale": dtype(2)})[1]
        high, low, averaged, true = gradients
        atcl, nt, nearest = (x[:n] for x in triplets)
        for got, want in (
            (value, a[f"{precision}/loss"]),
            (same, a[f"{precision}/loss"]),
            (high[:n, :d], a[f"{precision}/grad_featureH"]),
            (low[:n, :d], a[f"{precision}/grad_featureL"]),
            (averaged[:c, :d], a[f"{precision}/grad_centers"]),
            (true[:c, :d], a["f64/grad_centers_true"]),
        ):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=case)
        for got, want in ((nt, a["hinge_nt"]), (atcl, a["hinge_atcl"])):  # single angles, steep where they are small
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=10 * tolerance, err_msg=case)
        np.testing.assert_array_equal(nearest, a["hard_negative"])
        labels = inputs[2][:n]
        for counted, name in ((labels[atcl > 0], "g1"), (nearest[atcl > 0], "g2"), (labels[nt > 0], "h")):
            np.testing.assert_array_equal(np.bincount(counted, minlength=c), a[f"count_{name}"])

        # What the loss is multiplied with reaches the features, and the centers' true gradient alone.
        np.testing.assert_allclose(doubled[0], notes["report"][case]["upstream2_feature_grad_ratio"] * high, rtol=1e-6)
        np.testing.assert_allclose(doubled[3], 2 * true, rtol=1e-6)
        ratio = notes["report"][case]["upstream2_center_grad_ratio"]
        np.testing.assert_allclose(doubled[2], ratio * averaged, rtol=1e-6)


# An oracle: Eqs. 1 to 10, one pair after the other


def normalised(x):
    return x / np.linalg.norm(x)


def oracle(features, background, labels, rows, mask, candidates, options, num_samples=None):
    """Loss and averaged gradient of the centers, in NumPy."""
    total, sums, counts = 0.0, np.zeros((3, *rows.shape)), np.zeros((3, len(rows)))
    for i in np.flatnonzero(mask):
        own, feature, other = labels[i], normalised(features[i]), normalised(background[i])
        angles = [np.arccos(feature @ normalised(row)) for row in rows]
        away = np.arccos(other @ normalised(rows[own]))
        negatives = [k for k in range(len(rows)) if k != own and candidates[i, k]]
        g = -feature / np.sin(angles[own])
        if negatives:
            n = min(negatives, key=lambda k: angles[k])
            atcl = angles[own] - angles[n] + options["margin_atcl"]
            if atcl > 0:
                total += atcl
                sums[0, own] += g
                counts[0, own] += 1
                sums[1, n] += feature / np.sin(angles[n])
                counts[1, n] += 1
        nt = angles[own] - away + options["margin_nt"]
        if nt > 0:
            total += options["nt_weight"] * nt
            sums[2, own] += options["nt_weight"] * (g + other / np.sin(away))
            counts[2, own] += 1
    count = num_samples or max(sum(mask), 1)
    mean = (sums / (1 + counts[:, :, None])).sum(axis=0) / count
    units = np.stack([normalised(row) for row in rows])
    projected = mean - units * (units * mean).sum(axis=1, keepdims=True)
    return total / count, projected / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def problem():
    """Twelve pairs, one of them padding and one without a candidate, and six centers of different norms."""
    rng = np.random.default_rng(1)
    mask = np.arange(PAIRS) != 4
    candidates = rng.random((PAIRS, CLASSES)) < 0.7
    candidates[3] = False
    labels = np.array([2, 0, 2, 1, 3, 2, 4, 5, 4, 0, 2, 5], np.int32)
    high, low = rng.normal(size=(2, PAIRS, DIM))
    arrays = high, low, labels, 2 * rng.normal(size=(CLASSES, DIM))
    options = {"margin_atcl": 0.1, "margin_nt": 0.2, "nt_weight": 0.6, "scale": 1}
    return *arrays, mask, candidates, {name: np.float64(value) for name, value in options.items()}


@pytest.mark.usefixtures("x64")
def test_the_equations_pair_by_pair(problem):
    (value, same), (*_, averaged, true), triplets = everything(*problem)
    want, gradient = oracle(*problem)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(same, want, rtol=1e-12)
    np.testing.assert_allclose(averaged, gradient, rtol=1e-11, atol=1e-14)
    assert np.abs(averaged - true).max() > 0.01
    mask = problem[4]
    for violation in (triplets.atcl[mask], triplets.nt[mask]):
        assert 0 < (violation > 0).sum() < mask.sum()
    assert triplets.atcl[3] == -np.inf


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(problem):
    """That of the features whichever way the centers go."""

    def loss(features, background, rows):
        (value, _), (high, low, _, true), _ = everything(features, background, problem[2], rows, *problem[4:])
        return value, (high, low, true)

    features, background, _, rows, *_ = problem
    assert_gradient(loss, (features, background, rows))


@pytest.mark.usefixtures("x64")
def test_padding_is_inert_and_a_mask_is_a_crop(problem):
    features, background, labels, rows, mask, candidates, options = problem
    values, (high, low, averaged, true), _ = everything(*problem)
    spoiled = [np.where(mask[:, None], x, np.nan) for x in (features, background)]
    nonsense = np.where(mask, labels, 99).astype(np.int32)
    got = everything(*spoiled, nonsense, rows, mask, np.where(mask[:, None], candidates, True), options)
    for a, b in zip(jax.tree.leaves(got[:2]), (*values, high, low, averaged, true), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not high[~mask].any()

    cropped = [x[mask] for x in (features, background, labels)]
    got = everything(*cropped, rows, None, candidates[mask], options)
    want = (*values, high[mask], low[mask], averaged, true)
    for a, b in zip(jax.tree.leaves(got[:2]), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)

    empty = everything(features, background, labels, rows, np.zeros(PAIRS, bool), candidates, options)
    assert not any(x.any() for x in jax.tree.leaves(empty[:2]))


@pytest.mark.usefixtures("x64")
def test_order_of_pairs_and_of_classes_does_not_matter(problem):
    features, background, labels, rows, mask, candidates, options = problem
    values, (high, _, averaged, true), _ = everything(*problem)
    pairs, classes = (np.random.default_rng(2).permutation(count) for count in (PAIRS, CLASSES))
    renamed = np.argsort(classes).astype(np.int32)[labels]
    shuffled = [x[pairs] for x in (features, background, renamed)]
    got = everything(*shuffled, rows[classes], mask[pairs], candidates[pairs][:, classes], options)
    want = (*values, high[pairs], averaged[classes], true[classes])
    for a, b in zip((*got[0], got[1][0], *got[1][2:]), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_problems_side_by_side(problem):
    features, background, labels, rows, mask, candidates, options = problem
    options = {name: value for name, value in options.items() if name != "scale"}
    both = np.stack([features, 3 * background]), np.stack([background, features])
    fixed = {"mask": jnp.asarray(mask), "candidates": jnp.asarray(candidates), "num_samples": 3.0, **options}

    def loss(features, background, rows):
        return losses.center_loss(features, background, labels, rows, **fixed)

    @jax.jit
    def all_at_once(features, background, rows):
        true = losses.center_loss(features[0], background[0], labels, rows, averaged=False, **fixed)
        return *jax.vmap(jax.value_and_grad(loss, argnums=2), in_axes=(0, 0, None))(features, background, rows), true

    values, gradients, true = all_at_once(*both, rows)
    for s in range(2):
        want = oracle(both[0][s], both[1][s], labels, rows, mask, candidates, options, num_samples=3)
        for got, expected in zip((values[s], gradients[s]), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(true, values[0], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_finite_where_the_angle_has_a_kink(problem, dtype):
    """Features on centers, opposite to them, and of length zero, with violated triplets throughout."""
    _, _, labels, rows, _, _, _ = problem
    rows, nothing = rows.astype(dtype), np.zeros(DIM)
    rows[3] = nothing
    features, background = np.zeros((2, PAIRS, DIM), dtype)
    features[:6] = [rows[2], -rows[0], 5 * rows[0], nothing, rows[1], 1e-30 * rows[2]]
    background[:6] = [nothing, rows[0], -rows[2], rows[1], nothing, rows[2]]
    options = {"margin_atcl": 4, "margin_nt": 4, "nt_weight": 0.6, "scale": 1}
    options = {name: dtype(value) for name, value in options.items()}
    mask, candidates = np.arange(PAIRS) < 6, np.ones((PAIRS, CLASSES), bool)
    with jax.enable_x64(dtype == np.float64):
        values, gradients, triplets = everything(features, background, labels, rows, mask, candidates, options)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((values, gradients, triplets)))
    right, near = np.pi / 2, 1e-7 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(triplets.nt[0], 0 - right + 4, atol=near)  # on its center, background nowhere
    np.testing.assert_allclose(triplets.nt[1], np.pi - 0 + 4, atol=near)  # opposite, background on the center
    np.testing.assert_allclose(triplets.nt[3], right - 0 + 4, atol=near)  # nowhere, background on the center
    assert not gradients[0][3].any()
    assert not gradients[2][3].any()  # of the center that is zero


def test_nearest_negative(rng):
    features, rows = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    labels = np.array([0, 2, 4], np.int32)
    allowed = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], bool)

    @jax.jit
    def nearest(features, rows):
        twins = jnp.stack([rows[0], rows[1], rows[1]])
        return (
            losses.nearest_negative(features, labels, rows),
            losses.nearest_negative(features, labels, rows, candidates=jnp.asarray(allowed)),
            losses.nearest_negative(features[:1], labels[:1], twins),
        )

    free, restricted, first_of_equals = nearest(features, rows)
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features.astype(float), rows.astype(float))]
    angles = np.arccos(units[0] @ units[1].T)
    np.testing.assert_array_equal(free, np.where(np.eye(5)[labels], np.inf, angles).argmin(axis=1))
    assert restricted[0] == 3 + (angles[0, 4] < angles[0, 3])
    assert restricted[1:].tolist() == [4, 0]  # the second has its own center and one other, the third its own alone
    assert first_of_equals.tolist() == [1]


def test_bad_input_is_refused():
    def zeros(*shape):
        return jnp.asarray(np.zeros(shape, np.float32))

    features = background = zeros(6, 3)
    labels, mask = np.array([2, 0, 2, 1, 3, 2], np.int32), jnp.asarray([True] * 4 + [False, True])
    with pytest.raises(ValueError, match=r"centers must be \(C, D=3\), got \(4, 2\)"):
        losses.nearest_negative(features, labels, zeros(4, 2))
    for function in (losses.center_loss, losses.triplets):
        for own, centers, message in (
            (labels, (4, 5), r"centers must be \(C, D=3\), got \(4, 5\)"),
            (labels, (1, 3), r"two centers or more, got centers \(1, 3\)"),
            (labels[:5], (4, 3), r"labels must be \(N=6,\), got \(5,\)"),
            (labels, (3, 3), r"labels\[4\] is 3, expected an index from 0 to 2"),
            (-labels, (4, 3), r"labels\[0\] is -2, expected an index"),
        ):
            with pytest.raises(ValueError, match=message):
                function(features, background, own, zeros(*centers))
    # The label 3 is masked.
    jax.eval_shape(lambda f: losses.center_loss(f, background, labels, zeros(3, 3), mask=mask), features)
    with pytest.raises(ValueError, match="num_classes=1 and dim=3"):
        losses.initial_centers(1, 3, jax.random.key(0))


def test_initial_centers_are_random_directions():
    draw = jax.jit(lambda seed: losses.initial_centers(50, 3, jax.random.key(seed)))
    rows, others = (np.asarray(draw(seed)) for seed in (0, 1))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert np.linalg.norm(rows.mean(axis=0)) < 0.5
    assert np.abs(rows - others).max() > 0.1
