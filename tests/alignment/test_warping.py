from functools import cache, partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from casejax.alignment import bands as dtw_kernels
from casejax.alignment.soft_min import hard_min, min_gamma, smooth_min
from casejax.alignment.warping import alignment_matrix, dtw, dtw_path, dtw_table, visitation_matrix

PUBLISHED = {"dtw_prob": smooth_min, "dtw_minGamma": min_gamma, "non-diff": hard_min}
MINIMUMS = list(PUBLISHED.values())


def plain_minimum(minimum, values: list[float], gamma: float) -> float:
    values = np.asarray(values)
    if minimum is hard_min or gamma == 0:
        return values.min()
    if minimum is min_gamma:
        return -gamma * logsumexp(-values / gamma)
    return softmax(-values / gamma) @ values


def plain_table(cost: np.ndarray, minimum, gamma: float) -> np.ndarray:
    table = np.zeros(cost.shape)
    for i, j in np.ndindex(cost.shape):
        before = [table[a, b] for a, b in ((i, j - 1), (i - 1, j - 1), (i - 1, j)) if a >= 0 and b >= 0]
        table[i, j] = cost[i, j] + (plain_minimum(minimum, before, gamma) if before else 0)
    return table


@cache
def all_paths(n: int, m: int) -> list[list[tuple[int, int]]]:
    if n == 0 or m == 0:
        return []
    before = [path for a, b in ((n - 1, m - 1), (n, m - 1), (n - 1, m)) for path in all_paths(a, b)]
    return [[*path, (n - 1, m - 1)] for path in before] or [[(0, 0)]]


@partial(jax.jit, static_argnames="minimum")
def table_and_gradients(cost, x_mask, y_mask, gamma, cotangents, minimum):
    """Of every pair: its table, and the gradients in its cost for each of its cotangents of the table."""

    def run(cost, x_mask, y_mask, gamma, cotangents):
        table, pullback = jax.vjp(
            lambda c: dtw_table(c, x_mask=x_mask, y_mask=y_mask, minimum=minimum, gamma=gamma), cost
        )
        score = dtw(cost, x_mask=x_mask, y_mask=y_mask, minimum=minimum, gamma=gamma)
        return table, score, jax.vmap(lambda c: pullback(c)[0])(cotangents)

    return jax.vmap(run)(cost, x_mask, y_mask, gamma, cotangents)


def contrastive(x, y, temperature):
    similarity = x.astype(np.float64) @ y.astype(np.float64).T / temperature
    return logsumexp(similarity, axis=0) - similarity, softmax(similarity, axis=0)


def golden_entries(arrays, kind):
    """The configurations of one relaxation: prefix, embeddings, gamma and temperature."""
    for key in arrays:
        prefix = key.removesuffix("table")
        if prefix != key and prefix.split("/")[1] == kind:
            case, _, gamma, temperature, _ = prefix.split("/")
            yield prefix, case, float(gamma.removeprefix("gs")), float(temperature.removeprefix("gf"))


def run_goldens(arrays, kind, dtype):
    """All configurations of one relaxation as a single padded batch; yields our results, cropped again."""
    entries = list(golden_entries(arrays, kind))
    pairs = [(arrays[f"{case}/X"], arrays[f"{case}/Y"]) for _, case, _, _ in entries]
    n, m = (max(len(pair[k]) for pair in pairs) for k in (0, 1))
    costs, cotangents = np.zeros((len(pairs), n, m), dtype), np.zeros((len(pairs), 2, n, m), dtype)
    shares = []
    for k, ((x, y), (_, case, _, temperature)) in enumerate(zip(pairs, entries, strict=True)):
        costs[k, : len(x), : len(y)], p = contrastive(x, y, temperature)
        shares.append(p)
        cotangents[k, 0, len(x) - 1, len(y) - 1] = 0.1  # of the factors see the golden's notes
        if f"{case}/Wt" in arrays:
            cotangents[k, 1, : len(x), : len(y)] = 0.02 * arrays[f"{case}/Wt"]
    x_mask = np.arange(n) < np.array([len(x) for x, _ in pairs])[:, None]
    y_mask = np.arange(m) < np.array([len(y) for _, y in pairs])[:, None]
    gammas = np.array([gamma for _, _, gamma, _ in entries], dtype)
    tables, scores, gradients = map(
        np.asarray, table_and_gradients(costs, x_mask, y_mask, gammas, cotangents, PUBLISHED[kind])
    )
    for k, ((x, y), (prefix, _, _, temperature)) in enumerate(zip(pairs, entries, strict=True)):
        crop = gradients[k, :, : len(x), : len(y)].astype(np.float64)
        of_similarity = shares[k] * crop.sum(1, keepdims=True) - crop
        of_x, of_y = of_similarity @ y / temperature, of_similarity.swapaxes(1, 2) @ x / temperature
        yield prefix, tables[k, : len(x), : len(y)], scores[k], dict(dX=of_x[0], dY=of_y[0], dXw=of_x[1], dYw=of_y[1])


@pytest.mark.parametrize(
    ("kind", "precise"), [*((kind, False) for kind in PUBLISHED), ("dtw_prob", True), ("dtw_minGamma", True)]
)
def test_small_goldens(golden, kind, precise):
    arrays, seen = golden.arrays("gta/sdtw_small"), 0
    with jax.enable_x64(precise):
        results = list(run_goldens(arrays, kind, np.float64 if precise else np.float32))
    for prefix, table, score, gradients in results:
        published, exact = arrays[f"{prefix}table"][1:, 1:], arrays[f"{prefix}f64/score"]
        large = max(1, abs(exact))
        np.testing.assert_allclose(score, exact, rtol=1e-10 if precise else 1e-6, atol=1e-12 if precise else 1e-6)
        assert score == table[-1, -1]
        if not np.isnan(published).any():  # the published program has NaN for unnormalised embeddings
            np.testing.assert_allclose(table, published, atol=2e-5 * large, rtol=0, err_msg=prefix)
            seen += 1
        for name, gradient in gradients.items():
            want = arrays[f"{prefix}f64/{name}"]
            tolerance = (2e-7 if precise else 1e-5) * max(1, np.abs(want).max())
            np.testing.assert_allclose(gradient, want, atol=tolerance, rtol=0, err_msg=prefix + name)
    assert seen


@pytest.mark.parametrize("kind", PUBLISHED)
def test_big_goldens(golden, kind):
    arrays = golden.arrays("gta/sdtw_big")
    for prefix, table, score, gradients in run_goldens(arrays, kind, np.float32):
        np.testing.assert_allclose(score, arrays[f"{prefix}f64/score"], rtol=1e-6, err_msg=prefix)
        assert np.isfinite(table).all()
        published = arrays[f"{prefix}table"]
        if np.isnan(published).any():
            assert all(np.isfinite(gradients[name]).all() for name in ("dX", "dY"))
            continue
        np.testing.assert_allclose(table, published[1:, 1:], rtol=5e-6, atol=2e-4, err_msg=prefix)
        for name in ("dX", "dY"):
            np.testing.assert_allclose(gradients[name], arrays[prefix + name], atol=2e-3, rtol=0, err_msg=prefix)


@pytest.mark.parametrize("precise", [False, True])
def test_soft_dtw_golden(golden, precise):
    arrays = golden.arrays("gta/softdtw_lav")

    def value(x, y):
        cost = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
        return dtw(cost, gamma=float(arrays["gamma"]))

    with jax.enable_x64(precise):
        x, y = (arrays[name].astype(np.float64 if precise else np.float32) for name in "xy")
        got, gradient = jax.jit(lambda x, y: (value(x, y), jax.grad(lambda x: value(x, y).sum())(x)))(x, y)
    np.testing.assert_allclose(got, arrays["value"], rtol=1e-6)
    scale = np.abs(arrays["grad_x"]).max()
    np.testing.assert_allclose(gradient, arrays["grad_x"], atol=(1e-4 if precise else 2e-3) * scale)


def test_sums_over_every_path(rng):
    n, m, gamma = 4, 5, 0.3
    cost = rng.random((n, m))
    paths = all_paths(n, m)
    costs = np.array([sum(cost[cell] for cell in path) for path in paths])
    with jax.enable_x64(True):
        np.testing.assert_allclose(dtw(jnp.asarray(cost), gamma=gamma), plain_minimum(min_gamma, costs, gamma))
        expected, matrix = np.zeros((n, m)), alignment_matrix(jnp.asarray(cost), gamma=gamma)
        for path, weight in zip(paths, softmax(-costs / gamma), strict=True):
            expected[tuple(zip(*path, strict=True))] += weight
        np.testing.assert_allclose(matrix, expected, rtol=1e-10)
        np.testing.assert_allclose(dtw(jnp.asarray(cost), minimum=hard_min), costs.min(), rtol=1e-12)
        path = dtw_path(jnp.asarray(cost))
    best = paths[costs.argmin()]
    assert [tuple(cell) for cell in np.asarray(path.cells)[np.asarray(path.mask)].tolist()] == best
    assert (np.asarray(path.cells)[len(best) :] == (n - 1, m - 1)).all()


def test_visitation_is_the_path_that_smooth_min_averages(rng):
    cost = rng.random((2, 5, 4))
    with jax.enable_x64(True):
        visits = np.asarray(visitation_matrix(jnp.asarray(cost), gamma=0.2))
        score = dtw(jnp.asarray(cost), minimum=smooth_min, gamma=0.2)
    np.testing.assert_allclose((visits * cost).sum((1, 2)), score, rtol=1e-12)
    np.testing.assert_allclose(visits[:, [0, -1], [0, -1]], 1)
    table = plain_table(cost[0], smooth_min, 0.2)
    want = np.zeros((5, 4))
    want[-1, -1] = 1
    for i, j in [(i, j) for i in range(4, -1, -1) for j in range(3, -1, -1)]:
        before = [(a, b) for a, b in ((i, j - 1), (i - 1, j - 1), (i - 1, j)) if a >= 0 and b >= 0]
        if before:
            for cell, share in zip(before, softmax([-table[cell] / 0.2 for cell in before]), strict=True):
                want[cell] += share * want[i, j]
    np.testing.assert_allclose(visits[0], want, rtol=1e-10)


def kernel_results(cost, gamma, weights, minimum, height):
    """Values of both kernels, and their gradients in cost and gamma."""

    def last(cost, gamma):
        return (dtw_kernels.last_cell(cost, gamma, minimum, height) * weights[:, 0, 0]).sum()

    def table(cost, gamma):
        cells = dtw_kernels.all_cells(cost, gamma, minimum, height)
        return (cells * weights).sum(), cells

    of_last = jax.value_and_grad(last, argnums=(0, 1))(cost, gamma)
    (_, cells), of_table = jax.value_and_grad(table, argnums=(0, 1), has_aux=True)(cost, gamma)
    return of_last, cells, of_table


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("minimum", "height"), [(smooth_min, 2), (min_gamma, 1)])
def test_bands_change_nothing_and_gradients_are_right(rng, minimum, height):
    cost, weights, gamma, step = rng.random((2, 6, 5)), rng.normal(size=(2, 6, 5)), 0.3, 1e-6
    in_one, in_bands = (jax.jit(partial(kernel_results, minimum=minimum, height=h)) for h in (6, height))
    whole = in_one(cost, gamma, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), in_bands(cost, gamma, weights), whole)
    (_, of_last), cells, of_table = whole
    for k in range(2):
        np.testing.assert_allclose(cells[k], plain_table(cost[k], minimum, gamma), rtol=1e-12)
    along = (rng.normal(size=cost.shape), rng.normal())
    up, down = (in_one(cost + e * along[0], gamma + e * along[1], weights) for e in (step, -step))
    for (of_cost, of_gamma), a, b in (
        (of_last, up[0][0], down[0][0]),
        (of_table, (up[1] * weights).sum(), (down[1] * weights).sum()),
    ):
        got = (of_cost * along[0]).sum() + of_gamma * along[1]
        np.testing.assert_allclose(got, (a - b) / (2 * step), rtol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("minimum", [smooth_min, min_gamma])
def test_second_derivatives(rng, minimum):
    cost, along, step = rng.random((3, 4)), rng.normal(size=(3, 4)), 1e-5
    gradient = jax.grad(lambda c: dtw(c, minimum=minimum, gamma=0.4))

    @jax.jit
    def derivatives(c):
        first, forward = jax.jvp(gradient, (c,), (along,))
        return first, forward, jax.grad(lambda c: (gradient(c) * along).sum())(c)

    _, forward, reverse = derivatives(cost)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-12)
    (above, *_), (below, *_) = derivatives(cost + step * along), derivatives(cost - step * along)
    np.testing.assert_allclose(forward, (above - below) / (2 * step), atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("minimum", "height"), [(smooth_min, 2), (min_gamma, 6), pytest.param(hard_min, 3, marks=pytest.mark.slow)]
)
def test_forward_mode_agrees_with_reverse_mode(rng, minimum, height):
    cost, weights = rng.random((2, 6, 5)), rng.normal(size=(2, 6, 5))
    cost[0, 2, 3] = np.inf

    @jax.jit
    def products(cost, gamma, along):
        forth, back = [], []
        for cells in (dtw_kernels.last_cell, dtw_kernels.all_cells):
            run = partial(cells, minimum=minimum, height=height)
            value, moved = jax.jvp(run, (cost, gamma), along)
            asked = jnp.where(value < 1e300, weights[:, 0, 0] if value.ndim == 1 else weights, 0)
            gradient = jax.vjp(run, cost, gamma)[1](asked)
            forth.append((asked * moved).sum())
            back.append((gradient[0] * along[0]).sum() + gradient[1] * along[1])
            # in the cost alone
            forth.append((asked * jax.jvp(lambda c, run=run: run(c, gamma), (cost,), along[:1])[1]).sum())
            back.append((gradient[0] * along[0]).sum())
        return jnp.stack(forth), jnp.stack(back)

    forth, back = products(cost, 0.4, (rng.normal(size=cost.shape), rng.normal()))
    np.testing.assert_allclose(forth, back, rtol=1e-9)


def delannoy(n: int, m: int) -> np.ndarray:
    return np.array([[len(all_paths(i, j)) for j in range(1, m + 1)] for i in range(1, n + 1)])


@pytest.mark.usefixtures("x64")
def test_relaxations_bound_each_other(rng):
    cost = 0.3 * rng.random((20, 5, 6))
    tables = jax.jit(lambda c, g: [dtw_table(c, minimum=minimum, gamma=g) for minimum in MINIMUMS])
    for gamma in (0.05, 1.0):
        smooth, lower, hard = map(np.asarray, tables(cost, gamma))
        steps = np.add.outer(np.arange(5), np.arange(6))
        assert np.all(hard <= smooth + 1e-12)
        assert np.all(smooth <= hard + 0.4630556 * gamma * steps + 1e-12)
        assert np.all(lower <= hard + 1e-12)
        assert np.all(hard - gamma * np.log(delannoy(5, 6)) <= lower + 1e-12)
        for table in (smooth, lower, hard):  # one way to the cells of the first row and column
            np.testing.assert_allclose(table[:, 0], cost[:, 0].cumsum(-1), rtol=1e-12)
            np.testing.assert_allclose(table[:, :, 0], cost[:, :, 0].cumsum(-1), rtol=1e-12)
    smooth, lower, hard = tables(cost, 0.0)
    np.testing.assert_array_equal(smooth, hard)
    np.testing.assert_array_equal(lower, hard)
    ties = np.zeros_like(cost)
    np.testing.assert_allclose(tables(ties, 1.0)[1], np.broadcast_to(-np.log(delannoy(5, 6)), cost.shape), atol=1e-12)


@partial(jax.jit, static_argnames="minimum")
def masked(cost, x_mask, y_mask, minimum):
    def total(cost):
        return dtw(cost, x_mask=x_mask, y_mask=y_mask, minimum=minimum).sum()

    matrix = jax.grad(total)(cost)
    options = {"x_mask": x_mask, "y_mask": y_mask, "minimum": minimum}
    return dtw(cost, **options), dtw_table(cost, **options), matrix


@pytest.mark.parametrize("minimum", MINIMUMS)
def test_padding_is_inert(rng, minimum):
    cost = rng.random((5, 5, 6)).astype(np.float32)
    sizes = [(5, 6), (5, 2), (3, 6), (2, 4), (1, 1)]
    x_mask, y_mask = (np.arange(c) < np.array([s[k] for s in sizes])[:, None] for k, c in ((0, 5), (1, 6)))
    real = x_mask[:, :, None] & y_mask[:, None]
    got = masked(cost, x_mask, y_mask, minimum)
    for fill in (np.nan, -np.inf, 1e38):
        spoiled = masked(np.where(real, cost, np.float32(fill)), x_mask, y_mask, minimum)
        jax.tree.map(np.testing.assert_array_equal, spoiled, got)
    score, table, matrix = map(np.asarray, got)
    assert not table[~real].any()
    assert not matrix[~real].any()
    np.testing.assert_allclose(matrix[:, 0, 0], 1, rtol=1e-5)  # every path begins there
    np.testing.assert_allclose(matrix[range(5), x_mask.sum(1) - 1, y_mask.sum(1) - 1], 1)
    for k, (n, m) in enumerate(sizes):
        want = plain_table(cost[k, :n, :m].astype(np.float64), minimum, 0.1)
        np.testing.assert_allclose(table[k, :n, :m], want, rtol=1e-5)
        assert score[k] == table[k, n - 1, m - 1]
    # another program, which may round in another order
    alone = alignment_matrix(jnp.asarray(cost[2, :3]), minimum=minimum)
    np.testing.assert_allclose(alone, matrix[2, :3], rtol=1e-6, atol=1e-9)
    if minimum is hard_min:
        path = dtw_path(jnp.asarray(cost), x_mask=jnp.asarray(x_mask), y_mask=jnp.asarray(y_mask))
        for k in range(5):
            steps = np.asarray(path.cells[k])[np.asarray(path.mask[k])]
            visited = np.zeros_like(matrix[k])
            visited[tuple(steps.T)] = 1
            np.testing.assert_array_equal(visited, matrix[k])


def test_axes_of_a_batch_and_devices(rng):
    cost = rng.random((8, 2, 4, 3)).astype(np.float32)
    both = jax.jit(lambda c: (dtw(c), jax.vmap(dtw)(c)))
    want, mapped = both(cost)
    assert want.shape == (8, 2)
    np.testing.assert_array_equal(mapped, want)
    permutation = rng.permutation(8)
    np.testing.assert_array_equal(both(cost[permutation])[0], want[permutation])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(cost, jax.NamedSharding(mesh, jax.P("data")))
    run = jax.jit(lambda c: jax.value_and_grad(lambda c: dtw(c).sum())(c)[1])
    over_devices = run.lower(spread).compile()
    np.testing.assert_allclose(over_devices(spread), run(cost), rtol=1e-6)
    text = over_devices.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text


def test_uneven_bands(rng, monkeypatch):
    cost = jnp.asarray(rng.random((2, 7, 4)), jnp.float32)
    whole = alignment_matrix(cost[:, None]), dtw_table(cost[:, None])
    monkeypatch.setattr(
        import_module("casejax.alignment.warping"), "_num_bands", lambda *shape: 3
    )  # while tracing; the other shape is traced already
    for function, want in zip((alignment_matrix, dtw_table), whole, strict=True):
        np.testing.assert_allclose(function(cost), want[:, 0], rtol=2e-6, atol=1e-7)


def test_bands_bound_the_memory_of_a_value():
    cost = jax.ShapeDtypeStruct((1, 2048, 256), jnp.float32)
    run = jax.jit(lambda c: dtw_kernels.last_cell(c, jnp.float32(0.1), hard_min, 64))
    memory = run.lower(cost).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 2048 * 256 / 4


@pytest.mark.parametrize("minimum", MINIMUMS)
def test_any_finite_cost_has_a_finite_gradient(rng, minimum):
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda c, g: dtw(c, minimum=minimum, gamma=g), (0, 1)), (0, None)))
    cost = rng.normal(size=(30, 8, 8)).astype(np.float32)
    for gamma in (0.0, 1e-30, 0.01, 1.0):
        for scale in (1e-30, 1.0, 1e4, 1e30):
            value, (gradient, slope) = run(cost * np.float32(scale), gamma)
            assert np.isfinite(value).all()
            assert np.isfinite(gradient).all()
            assert np.isfinite(slope).all()
    np.testing.assert_allclose(run(cost, 0.1)[1][0][:, 0, 0], 1, rtol=1e-4)


def test_infinite_costs_forbid(rng):
    cost = rng.random((2, 3, 4)).astype(np.float32)
    cost[0, 1, 1:3] = np.inf
    cost[1, 1] = np.inf
    value, gradient = jax.jit(lambda c: (dtw(c), jax.grad(lambda c: dtw(c).sum())(c)))(cost)
    allowed = [path for path in all_paths(3, 4) if not {(1, 1), (1, 2)} & set(path)]
    np.testing.assert_allclose(
        value[0], plain_minimum(min_gamma, [sum(cost[0][cell] for cell in path) for path in allowed], 0.1), rtol=1e-6
    )
    assert value[1] == np.inf
    assert not gradient[1].any()
    np.testing.assert_array_equal(gradient[0, 1, 1:3], 0)


def test_ties_take_the_diagonal():
    path = dtw_path(jnp.zeros((3, 5)))
    assert path.cells.tolist() == [[0, 0], [0, 1], [0, 2], [1, 3], [2, 4], [2, 4], [2, 4]]
    assert path.mask.tolist() == [True] * 5 + [False] * 2
    assert dtw_path(jnp.ones((1, 1))).cells.tolist() == [[0, 0]]


def test_refuses_what_is_wrong():
    cost, mask = jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool)
    for shape in ((0, 3), (2, 3, 0)):
        with pytest.raises(ValueError, match="cost must be"):
            dtw(jnp.zeros(shape))
    with pytest.raises(ValueError, match="gamma must be 0 or more and finite, got -1"):
        dtw(cost, gamma=-1)
    with pytest.raises(ValueError, match=r"without a real frame: \[\[1\]\]"):
        dtw(cost, x_mask=mask.at[1].set(False))
    with pytest.raises(ValueError, match="y_mask has a True after a False"):
        dtw_table(cost, y_mask=jnp.asarray([[True, False, True, True], [True] * 4]))
    for function in (dtw, dtw_table, alignment_matrix):
        with pytest.raises(ValueError, match="NaN"):
            function(cost.at[1, 0, 0].set(jnp.nan))


def test_what_is_wrong_inside_jit_stays_in_its_pair(rng):
    cost, x_mask, y_mask = rng.random((5, 5, 6)).astype(np.float32), np.ones((5, 5), bool), np.ones((5, 6), bool)
    whole = masked(cost, x_mask, y_mask, min_gamma)
    cost[1, 1, 1] = np.nan
    x_mask[2, 0] = False  # a hole
    x_mask[3] = False
    score, table, matrix = map(np.asarray, masked(cost, x_mask, y_mask, min_gamma))
    assert np.isfinite(score).tolist() == [True, False, False, True, True]
    assert score[3] == 0
    assert not table[3].any()
    assert not matrix[3].any()
    assert np.isnan(matrix[1]).any()
    for got, want in zip((score, table, matrix), whole, strict=True):
        np.testing.assert_array_equal(got[[0, 4]], want[np.array([0, 4])])
