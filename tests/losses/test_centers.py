import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from casejax.methods.a2cl_pt.center_update import center_update, network_and_centers, renormalise
from slopes import assert_gradient

from casejax import losses


@jax.jit
def everything(features, background, labels, rows, mask, candidates, options):
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
    """Published problems in one shape, for one compilation: pairs masked, classes no candidates, dimensions zero."""
    names = [key.split("/")[0] for key in arrays if key.endswith("/featureH")]
    sizes = [(*arrays[f"{name}/featureH"].shape, len(arrays[f"{name}/centers"])) for name in names]
    pairs, dims, classes = (max(column) for column in zip(*sizes, strict=True))

    def padded(x, *shape):
        return np.pad(x, [(0, wanted - size) for wanted, size in zip(shape, x.shape, strict=True)])

    for name, (num_pairs, dim, num_classes) in zip(names, sizes, strict=True):
        a = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
        inputs = (
            padded(a["featureH"].astype(dtype), pairs, dims),
            padded(a["featureL"].astype(dtype), pairs, dims),
            padded(a["label"].astype(np.int32), pairs),
            padded(a["centers"].astype(dtype), classes, dims),
            np.arange(pairs) < num_pairs,
            np.broadcast_to(np.arange(classes) < num_classes, (pairs, classes)),
        )
        yield name, a, inputs, (num_pairs, dim, num_classes)


@pytest.mark.parametrize("x64", [False, True])
def test_published_losses_and_gradients(golden, x64):
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
        high, low, averaged, true = (np.asarray(x) for x in gradients)
        atcl, nt, nearest = (np.asarray(x)[:n] for x in triplets)
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
    """Six pairs, one of them padding and one without a candidate, and four centers of different norms."""
    rng = np.random.default_rng(1)
    mask = np.array([1, 1, 1, 1, 0, 1], bool)
    candidates = rng.random((6, 4)) < 0.7
    candidates[3] = False
    labels = np.array([2, 0, 2, 1, 3, 2], np.int32)
    arrays = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)), labels, 2 * rng.normal(size=(4, 3))
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
    for violation in (np.asarray(triplets.atcl)[mask], np.asarray(triplets.nt)[mask]):
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
    assert (np.asarray(high)[~mask] == 0).all()

    cropped = [x[mask] for x in (features, background, labels)]
    got = everything(*cropped, rows, None, candidates[mask], options)
    want = (*values, high[mask], low[mask], averaged, true)
    for a, b in zip(jax.tree.leaves(got[:2]), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)

    empty = everything(features, background, labels, rows, np.zeros(6, bool), candidates, options)
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(empty[:2]))


@pytest.mark.usefixtures("x64")
def test_order_of_pairs_and_of_classes_does_not_matter(problem):
    features, background, labels, rows, mask, candidates, options = problem
    values, (high, _, averaged, true), _ = everything(*problem)
    pairs, classes = np.array([3, 5, 0, 4, 1, 2]), np.array([2, 0, 3, 1])
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
    fixed = {"candidates": jnp.asarray(candidates), "num_samples": 3.0, **options}

    def loss(features, background, rows, **options):
        return losses.center_loss(features, background, labels, rows, mask=jnp.asarray(mask), **fixed, **options)

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=2), in_axes=(0, 0, None)))(*both, rows)
    for s in range(2):
        want = oracle(both[0][s], both[1][s], labels, rows, mask, candidates, options, num_samples=3)
        for got, expected in zip((values[s], gradients[s]), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-14)
    eager = loss(jnp.asarray(features), jnp.asarray(background), jnp.asarray(rows), averaged=False)
    np.testing.assert_allclose(eager, values[0], rtol=1e-12)


# Angles


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_finite_where_the_angle_has_a_kink(problem, dtype):
    """Features on centers, opposite to them, and of length zero, with violated triplets throughout."""
    _, _, labels, rows, _, _, _ = problem
    rows = np.concatenate([rows[:3], np.zeros((1, 3))]).astype(dtype)
    features = np.stack([rows[2], -rows[0], 5 * rows[0], np.zeros(3), rows[1], 1e-30 * rows[2]]).astype(dtype)
    background = np.stack([np.zeros(3), rows[0], -rows[2], rows[1], np.zeros(3), rows[2]]).astype(dtype)
    options = {"margin_atcl": 4, "margin_nt": 4, "nt_weight": 0.6, "scale": 1}
    options = {name: dtype(value) for name, value in options.items()}
    mask, candidates = np.ones(6, bool), np.ones((6, 4), bool)
    with jax.enable_x64(dtype == np.float64):
        values, gradients, triplets = everything(features, background, labels, rows, mask, candidates, options)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((values, gradients, triplets)))
    right, near = np.pi / 2, 1e-7 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(triplets.nt[0], 0 - right + 4, atol=near)  # on its center, background nowhere
    np.testing.assert_allclose(triplets.nt[1], np.pi - 0 + 4, atol=near)  # opposite, background on the center
    np.testing.assert_allclose(triplets.nt[3], right - 0 + 4, atol=near)  # nowhere, background on the center
    assert (np.asarray(gradients[0])[3] == 0).all()
    assert (np.asarray(gradients[2])[3] == 0).all()  # of the center that is zero


def test_guarded_arccos():
    x = np.array([-1.5, -1, -0.7, 0, 0.3, 1, 1 + 1e-6], np.float32)
    value, slope = jax.vmap(jax.value_and_grad(losses.guarded_arccos))(x)
    np.testing.assert_allclose(value, np.arccos(np.clip(x, -1, 1)), rtol=1e-6)
    inside = np.abs(x) < 1
    np.testing.assert_allclose(slope[inside], -1 / np.sqrt(1 - x[inside].astype(float) ** 2), rtol=1e-6)
    np.testing.assert_allclose(slope[~inside], -1 / np.sqrt(np.finfo(np.float32).eps), rtol=1e-6)


def test_angular_distance_and_nearest_negative(rng):
    features, rows = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    got = np.asarray(losses.angular_distance(jnp.asarray(features), jnp.asarray(rows)))
    for i in np.ndindex(2, 3):
        for c in range(5):
            want = np.arccos(normalised(features[i].astype(float)) @ normalised(rows[c].astype(float)))
            np.testing.assert_allclose(got[i][c], want, rtol=1e-5)
    labels = np.array([0, 2, 4], np.int32)
    nearest = losses.nearest_negative(jnp.asarray(features[0]), labels, jnp.asarray(rows))
    own = np.eye(5, dtype=bool)[labels]
    np.testing.assert_array_equal(nearest, np.where(own, np.inf, got[0]).argmin(axis=1))
    allowed = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], bool)
    nearest = losses.nearest_negative(
        jnp.asarray(features[0]), labels, jnp.asarray(rows), candidates=jnp.asarray(allowed)
    )
    assert nearest[0] == 3 + (got[0, 0, 4] < got[0, 0, 3])
    assert nearest[1:].tolist() == [4, 0]  # the second has its own center and one other, the third its own alone
    twins = jnp.asarray(np.stack([rows[0], rows[1], rows[1]]))
    assert int(losses.nearest_negative(jnp.asarray(features[0, :1]), labels[:1], twins)[0]) == 1


def test_bad_input_is_refused(problem):
    features, background, labels, rows, mask = (jnp.asarray(x) for x in problem[:5])
    for function in (losses.angular_distance, lambda f, r: losses.nearest_negative(f, labels, r)):
        with pytest.raises(ValueError, match=r"dimension of the features, got features \(6, 3\) and centers \(4, 2\)"):
            function(features, rows[:, :2])
    for function in (losses.center_loss, losses.triplets):
        with pytest.raises(ValueError, match=r"dimension of the features, got features \(6, 3\) and centers \(4, 5\)"):
            function(features, background, labels, jnp.zeros((4, 5)))
        with pytest.raises(ValueError, match=r"two centers or more, got centers \(1, 3\)"):
            function(features, background, labels, rows[:1])
        with pytest.raises(ValueError, match=r"labels \(N,\), got \(6, 3\), \(6, 3\) and \(5,\)"):
            function(features, background, labels[:5], rows)
        with pytest.raises(ValueError, match="label 3 is not the index of one of the 3 centers"):
            function(features, background, labels, rows[:3])
        with pytest.raises(ValueError, match="label -2 is not"):
            function(features, background, -labels, rows)
    # The label 3 is masked.
    jax.eval_shape(lambda f: losses.center_loss(f, background, labels, rows[:3], mask=mask), features)
    with pytest.raises(ValueError, match="num_classes=1 and dim=3"):
        losses.initial_centers(1, 3, jax.random.key(0))


def test_initial_centers_are_random_directions():
    rows = losses.initial_centers(50, 3, jax.random.key(0))
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert float(jnp.linalg.norm(rows.mean(axis=0))) < 0.5
    assert float(jnp.abs(rows - losses.initial_centers(50, 3, jax.random.key(1))).max()) > 0.1


# Their update


def test_published_steps_of_the_centers(golden):
    arrays, notes = golden.arrays("a2cl_pt"), golden.notes("a2cl_pt")
    after = [key for key in arrays if re.fullmatch(r"full/it\d+/centers\d_after", key)]
    assert after
    for key in after:
        rate = re.search(r"lr=([\d.]+)", notes["arrays"][re.sub(r"centers\d", "centers1", key)]["meaning"])
        optimizer = center_update(float(rate[1]))
        before = jnp.asarray(arrays[key.replace("after", "before")])
        gradient = jnp.asarray(arrays[key.replace("centers", "grad_centers").removesuffix("_after")])
        updates, _ = optimizer.update(gradient, optimizer.init(before), before)
        np.testing.assert_allclose(optax.apply_updates(before, updates), arrays[key], rtol=1e-6, atol=1e-7)


def test_normalising_before_or_after_the_step(rng):
    rows, gradient = (jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32).at[1, 2].set(0) for _ in range(2))
    for before in (True, False):
        optimizer = center_update(0.1, before=before)
        updates, _ = optimizer.update(gradient, optimizer.init(rows), rows)
        got = np.asarray(optax.apply_updates(rows, updates), np.float64)
        for i in np.ndindex(2, 4):
            row, step = np.asarray(rows[i], np.float64), 0.1 * np.asarray(gradient[i], np.float64)
            if i == (1, 2):
                want = row
            elif before:
                want = normalised(row) - step
            else:
                want = normalised(row - step)
            np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-6)
    # it is the last link of any chain, here of gradient descent with momentum
    chain = optax.chain(optax.trace(0.9), optax.scale(-0.1), renormalise(before=False))
    state = chain.init(rows)
    for _ in range(2):
        updates, state = chain.update(gradient, state, rows)
    want = rows - 0.1 * 1.9 * gradient
    want = want / jnp.maximum(jnp.linalg.norm(want, axis=-1, keepdims=True), 1e-12)
    np.testing.assert_allclose(optax.apply_updates(rows, updates), want, rtol=1e-5, atol=1e-6)


def test_one_optimizer_of_network_and_centers(rng):
    network = {"w": jnp.asarray(rng.normal(size=3), jnp.float32), "b": jnp.zeros(())}
    rows = tuple(jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32) for _ in range(2))
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), (network, rows))
    schedule = optax.linear_schedule(0.2, 0.0, 2)
    optimizer, adam = network_and_centers(optax.adam(1e-2), (0.1, schedule)), optax.adam(1e-2)
    params, alone = (network, rows), network
    state, alone_state = optimizer.init(params), adam.init(network)

    @jax.jit
    def both(params, state, alone, alone_state):
        updates, state = optimizer.update(gradient, state, params)
        alone_updates, alone_state = adam.update(gradient[0], alone_state, alone)
        moved = jax.tree.map(jnp.add, (params, alone), (updates, alone_updates))
        return moved[0], state, moved[1], alone_state

    for step in range(2):
        before = params
        params, state, alone, alone_state = both(params, state, alone, alone_state)
        for a, b in zip(jax.tree.leaves(params[0]), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        for s, rate in enumerate((0.1, schedule(step))):
            want = before[1][s] / jnp.linalg.norm(before[1][s], axis=-1, keepdims=True) - rate * gradient[1][s]
            np.testing.assert_allclose(params[1][s], want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="learning rate of the centers of each stream, got none"):
        network_and_centers(optax.adam(1e-2), ())
