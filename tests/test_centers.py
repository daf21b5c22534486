import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from slopes import assert_gradient

from casejax import centers
from casejax.train.center_update import center_update, network_and_centers, renormalise


@jax.jit
def everything(features, background, labels, rows, mask, candidates, options, scale):
    """Loss, gradients of features and background, both gradients of the centers, true gradients, and triplets."""

    def loss(features, background, rows, averaged):
        return scale * centers.center_loss(
            features, background, labels, rows, mask, candidates=candidates, averaged=averaged, **options
        )

    value, averaged = jax.value_and_grad(loss, argnums=(0, 1, 2))(features, background, rows, True)
    same, true = jax.value_and_grad(loss, argnums=(0, 1, 2))(features, background, rows, False)
    margins = {name: value for name, value in options.items() if name.startswith("margin")}
    triplets = centers.triplets(features, background, labels, rows, candidates=candidates, **margins)
    return value, averaged, same, true, triplets


def padded(x, *shape):
    return np.pad(x, [(0, wanted - size) for wanted, size in zip(shape, x.shape, strict=True)])


# Published values


@pytest.mark.parametrize("x64", [False, True])
def test_published_losses_and_gradients(golden, x64):
    """Among them, the averaged gradient ignores what the loss is multiplied with; that of the features does not."""
    arrays, notes = golden.arrays("a2cl_pt"), golden.notes("a2cl_pt")
    dtype, precision, atol = (np.float64, "f64", 1e-12) if x64 else (np.float32, "f32", 1e-6)
    cases = [key.split("/")[0] for key in arrays if key.endswith("/featureH")]
    assert cases
    # All cases in one shape, for one compilation: pairs masked, classes no candidates, dimensions zero.
    sizes = {case: (*arrays[f"{case}/featureH"].shape, len(arrays[f"{case}/centers"])) for case in cases}
    most_pairs, most_dims, most_classes = (max(column) for column in zip(*sizes.values(), strict=True))
    for case, (num_pairs, dim, num_classes) in sizes.items():
        a = {key.removeprefix(f"{case}/"): value for key, value in arrays.items() if key.startswith(f"{case}/")}
        gamma = re.search(r"gamma ([\d.]+)", notes["arrays"][f"{case}/{precision}/loss"]["meaning"])
        options = {
            "nt_weight": dtype(gamma[1]),
            "margin_nt": dtype(a["margins"][0]),
            "margin_atcl": dtype(a["margins"][1]),
        }
        labels = a["label"].astype(np.int32)
        given = (
            *(padded(a[key].astype(dtype), most_pairs, most_dims) for key in ("featureH", "featureL")),
            padded(labels, most_pairs),
            padded(a["centers"].astype(dtype), most_classes, most_dims),
            np.arange(most_pairs) < num_pairs,
            np.broadcast_to(np.arange(most_classes) < num_classes, (most_pairs, most_classes)),
            options,
        )
        with jax.enable_x64(x64):
            results = [
                jax.tree.map(np.asarray, everything(*given, dtype(scale))) for scale in (1, 2)
            ]
        for *_, gradients, true, triplets in ():
            pass
        (value, (high, low, averaged), same, true, triplets), doubled = results
        want = {key: a[f"{precision}/{key}"] for key in ("loss", "grad_featureH", "grad_featureL", "grad_centers")}
        for got, expected in (
            (value, want["loss"]),
            (same, want["loss"]),
            (high, want["grad_featureH"]),
            (low, want["grad_featureL"]),
            (averaged, want["grad_centers"]),
            (true[0], want["grad_featureH"]),
            (true[1], want["grad_featureL"]),
            (true[2], a["f64/grad_centers_true"]),
            (triplets.nt, a["hinge_nt"]),
            (triplets.atcl, a["hinge_atcl"]),
        ):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, expected, rtol=atol, atol=atol, err_msg=case)
        np.testing.assert_array_equal(triplets.nearest, a["hard_negative"])
        for counted, name in (
            (labels[np.asarray(triplets.atcl) > 0], "count_g1"),
            (np.asarray(triplets.nearest)[np.asarray(triplets.atcl) > 0], "count_g2"),
            (labels[np.asarray(triplets.nt) > 0], "count_h"),
        ):
            np.testing.assert_array_equal(np.bincount(counted, minlength=len(a["centers"])), a[name])

        report = notes["report"][case]
        ratio = np.linalg.norm(doubled[1][0]) / np.linalg.norm(high)
        np.testing.assert_allclose(ratio, report["upstream2_feature_grad_ratio"], rtol=1e-6)
        assert report["upstream2_center_grad_ratio"] == 1
        np.testing.assert_array_equal(doubled[1][2], averaged)
        np.testing.assert_allclose(doubled[3][2], 2 * true[2], rtol=1e-6)


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
    options = {"margin_atcl": 0.4, "margin_nt": 0.7, "nt_weight": 0.6}
    labels = np.array([2, 0, 2, 1, 3, 2], np.int32)
    arrays = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)), labels, 2 * rng.normal(size=(4, 3))
    return *arrays, mask, candidates, {name: np.float64(value) for name, value in options.items()}


@pytest.mark.usefixtures("x64")
def test_the_equations_pair_by_pair(problem):
    value, gradients, same, true, triplets = everything(*problem, 1.0)
    want, gradient = oracle(*problem)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    np.testing.assert_allclose(same, want, rtol=1e-12)
    np.testing.assert_allclose(gradients[2], gradient, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(gradients[0], true[0], rtol=1e-12)
    assert np.abs(gradients[2] - true[2]).max() > 0.01
    active = np.asarray(triplets.atcl) > 0
    assert active.any()
    assert not active.all()

    def by_videos(rows):
        return centers.center_loss(
            *problem[:3], rows, *problem[4:5], candidates=problem[5], num_samples=3, **problem[6]
        )

    value, gradient = jax.value_and_grad(by_videos)(jnp.asarray(problem[3]))  # not compiled
    for got, want in zip((value, gradient), oracle(*problem, num_samples=3), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_gradients_are_those_of_finite_differences(problem):
    def loss(features, background, rows):
        _, _, value, gradients, _ = everything(features, background, problem[2], rows, *problem[4:], 1.0)
        return value, gradients

    features, background, _, rows, *_ = problem
    assert_gradient(loss, (features, background, rows))


@pytest.mark.usefixtures("x64")
def test_padding_is_inert_and_a_mask_is_a_crop(problem):
    features, background, labels, rows, mask, candidates, options = problem
    spoiled = [np.where(mask[:, None], x, np.nan) for x in (features, background)]
    nonsense = np.where(mask, labels, 99).astype(np.int32), np.where(mask[:, None], candidates, True)
    got = everything(*spoiled, nonsense[0], rows, mask, nonsense[1], options, 1.0)
    want = everything(*problem, 1.0)
    for a, b in zip(jax.tree.leaves(got[:4]), jax.tree.leaves(want[:4]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(got[1][0])[~mask] == 0).all()
    cropped = [x[mask] for x in (features, background, labels)]
    value, (high, _, averaged), *_ = everything(*cropped, rows, None, candidates[mask], options, 1.0)
    np.testing.assert_allclose(value, want[0], rtol=1e-12)
    np.testing.assert_allclose(high, want[1][0][mask], rtol=1e-12)
    np.testing.assert_allclose(averaged, want[1][2], rtol=1e-12, atol=1e-15)
    empty = everything(*problem[:4], np.zeros(6, bool), candidates, options, 1.0)
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(empty[:4]))


@pytest.mark.usefixtures("x64")
def test_order_of_pairs_and_of_classes_does_not_matter(problem):
    features, background, labels, rows, mask, candidates, options = problem
    want = everything(*problem, 1.0)
    pairs, classes = np.array([3, 5, 0, 4, 1, 2]), np.array([2, 0, 3, 1])
    shuffled = [x[pairs] for x in (features, background, np.argsort(classes).astype(np.int32)[labels])]
    got = everything(*shuffled, rows[classes], mask[pairs], candidates[pairs][:, classes], options, 1.0)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1][0], want[1][0][pairs], rtol=1e-12)
    np.testing.assert_allclose(got[1][2], want[1][2][classes], rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_problems_side_by_side(problem):
    features, background, labels, rows, mask, candidates, options = problem
    both = np.stack([features, 3 * background]), np.stack([background, features])
    loss = jax.value_and_grad(
        lambda f, b, r: centers.center_loss(f, b, labels, r, mask, candidates=candidates, **options), argnums=(0, 2)
    )
    values, (high, averaged) = jax.jit(jax.vmap(loss, in_axes=(0, 0, None)))(*both, rows)
    for s in range(2):
        want = everything(both[0][s], both[1][s], labels, rows, mask, candidates, options, 1.0)
        np.testing.assert_allclose(values[s], want[0], rtol=1e-12)
        np.testing.assert_allclose(high[s], want[1][0], rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(averaged[s], want[1][2], rtol=1e-11, atol=1e-15)


# Angles


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_finite_where_the_angle_has_a_kink(problem, dtype):
    """Features on centers, opposite to them, and of length zero, with violated triplets throughout."""
    _, _, labels, rows, _, _, _ = problem
    rows = np.concatenate([rows[:3], np.zeros((1, 3))]).astype(dtype)
    features = np.stack([rows[2], -rows[0], 5 * rows[0], np.zeros(3), rows[1], 1e-30 * rows[2]]).astype(dtype)
    background = np.stack([np.zeros(3), rows[0], -rows[2], rows[1], np.zeros(3), rows[2]]).astype(dtype)
    options = {"margin_atcl": dtype(4), "margin_nt": dtype(4), "nt_weight": dtype(0.6)}
    mask, candidates = np.ones(6, bool), np.ones((6, 4), bool)
    with jax.enable_x64(dtype == np.float64):
        value, averaged, same, true, triplets = everything(
            features, background, labels, rows, mask, candidates, options, dtype(1)
        )
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, averaged, same, true, triplets)))
    right, near = np.pi / 2, 1e-7 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(triplets.nt[0], 0 - right + 4, atol=near)  # on its center, background nowhere
    np.testing.assert_allclose(triplets.nt[1], np.pi - 0 + 4, atol=near)  # opposite, background on the center
    np.testing.assert_allclose(triplets.nt[3], right - 0 + 4, atol=near)  # nowhere, background on the center
    assert (np.asarray(averaged[0])[3] == 0).all()
    assert (np.asarray(averaged[2])[3] == 0).all()


def test_guarded_arccos():
    x = np.array([-1.5, -1, -0.7, 0, 0.3, 1, 1 + 1e-6], np.float32)
    value, slope = jax.vmap(jax.value_and_grad(centers.guarded_arccos))(x)
    np.testing.assert_allclose(value, np.arccos(np.clip(x, -1, 1)), rtol=1e-6)
    inside = np.abs(x) < 1
    np.testing.assert_allclose(slope[inside], -1 / np.sqrt(1 - x[inside].astype(float) ** 2), rtol=1e-6)
    np.testing.assert_allclose(slope[~inside], -1 / np.sqrt(np.finfo(np.float32).eps), rtol=1e-6)


def test_angular_distance_and_nearest_negative(rng):
    features, rows = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    got = np.asarray(centers.angular_distance(jnp.asarray(features), jnp.asarray(rows)))
    for i in np.ndindex(2, 3):
        for c in range(5):
            want = np.arccos(normalised(features[i].astype(float)) @ normalised(rows[c].astype(float)))
            np.testing.assert_allclose(got[i][c], want, rtol=1e-5)
    labels = np.array([0, 2, 4], np.int32)
    nearest = centers.nearest_negative(jnp.asarray(features[0]), labels, jnp.asarray(rows))
    own = np.eye(5, dtype=bool)[labels]
    np.testing.assert_array_equal(nearest, np.where(own, np.inf, got[0]).argmin(axis=1))
    allowed = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], bool)
    nearest = centers.nearest_negative(jnp.asarray(features[0]), labels, jnp.asarray(rows), jnp.asarray(allowed))
    assert nearest[0] == 3 + (got[0, 0, 4] < got[0, 0, 3])
    assert nearest[1:].tolist() == [4, 0]  # the second has its own center and one other, the third its own alone
    twins = jnp.asarray(np.stack([rows[0], rows[1], rows[1]]))
    assert int(centers.nearest_negative(jnp.asarray(features[0, :1]), labels[:1], twins)[0]) == 1


def test_bad_input_is_refused(problem):
    features, background, labels, rows, mask, _, _ = (jnp.asarray(x) for x in problem[:6] + (0,))
    for function in (centers.angular_distance, lambda f, r: centers.nearest_negative(f, labels, r)):
        with pytest.raises(ValueError, match=r"dimension of the features, got features \(6, 3\) and centers \(4, 2\)"):
            function(features, rows[:, :2])
    for function in (centers.center_loss, centers.triplets):
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
    assert np.isfinite(centers.center_loss(features, background, labels, rows[:3], mask))  # the 3 is masked
    with pytest.raises(ValueError, match="num_classes=1 and dim=3"):
        centers.initial_centers(1, 3, jax.random.key(0))


def test_initial_centers_are_random_directions():
    rows = centers.initial_centers(50, 3, jax.random.key(0))
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    assert float(jnp.linalg.norm(rows.mean(axis=0))) < 0.5
    assert float(jnp.abs(rows - centers.initial_centers(50, 3, jax.random.key(1))).max()) > 0.1


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
                want = np.zeros(3)
            else:
                want = normalised(row) - step if before else normalised(row - step)
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
    for step in range(2):
        before = params
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        updates, alone_state = adam.update(gradient[0], alone_state, alone)
        alone = optax.apply_updates(alone, updates)
        for a, b in zip(jax.tree.leaves(params[0]), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a, b)
        for s, rate in enumerate((0.1, schedule(step))):
            want = before[1][s] / jnp.linalg.norm(before[1][s], axis=-1, keepdims=True) - rate * gradient[1][s]
            np.testing.assert_allclose(params[1][s], want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="learning rate of the centers of each stream, got none"):
        network_and_centers(optax.adam(1e-2), ())
