import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from casejax import ot


def problem(rng, n=40, k=6, scale=1.0):
    scores = (scale * rng.uniform(-1, 1, (n, k))).astype(np.float32)
    prior = rng.uniform(0.1, 1, (n, k)).astype(np.float32)
    return scores, prior, rng.uniform(0.2, 1, n).astype(np.float32), rng.uniform(0.2, 1, k).astype(np.float32)


@jax.jit
@partial(jax.grad, argnums=(0, 4), has_aux=True)
def gradients_and_output(scores, log_prior, columns, mask, epsilon):
    """Slopes of the squared plan by the scores and epsilon, and the whole output: one program for all (40, 6)."""
    got = ot.sinkhorn(scores, log_prior=log_prior, column_marginal=columns, mask=mask, epsilon=epsilon)
    return (got.plan**2).sum(), got


FLAT, EQUAL, ALL = np.zeros((40, 6), np.float32), np.ones(6, np.float32), np.ones(40, bool)


@pytest.mark.parametrize("num_iters", [1, 3, 12])
@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
def test_sinkhorn_agrees_with_the_oracle(rng, epsilon, num_iters):
    scores, prior, rows, columns = problem(rng)
    got = ot.sinkhorn(
        scores,
        log_prior=np.log(prior),
        row_marginal=rows,
        column_marginal=columns,
        epsilon=epsilon,
        num_iters=num_iters,
    )
    plan, u, v = oracles.sinkhorn(scores, prior=prior, rows=rows, columns=columns, epsilon=epsilon, num_iters=num_iters)
    np.testing.assert_allclose(got.plan, plan, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(got.row_potential, u, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(got.column_potential, v, rtol=1e-5, atol=2e-5)
    assert int(got.iterations) == num_iters
    share = columns / columns.sum() * rows.sum()
    np.testing.assert_allclose(got.column_error, np.abs(plan.sum(0) - share).sum() / rows.sum(), rtol=1e-3, atol=1e-6)
    assert float(got.row_error) == 0


def test_default_marginals_are_one_a_row_and_n_over_k_a_column(rng):
    scores, *_ = problem(rng)
    got = ot.sinkhorn(scores, num_iters=2000, epsilon=0.5)
    np.testing.assert_allclose(np.asarray(got.plan).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(got.plan).sum(axis=0), 40 / 6, rtol=1e-4)
    assert bool(got.converged)


def golden_problems(golden, dtype):
    """Name, arguments and stored arrays of every problem in the file."""
    arrays, notes = golden.arrays("sinkhorn"), golden.notes("sinkhorn")["cases"]
    names = sorted(key.removesuffix("/ref3_f64") for key in arrays if key.endswith("/ref3_f64"))
    assert names
    assert names == sorted(notes)
    for name in names:
        case = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith(f"{name}/")}
        keywords = {"epsilon": notes[name]["temp"] / notes[name]["eps"]}
        if "prior" in case:
            keywords["log_prior"] = np.log(case["prior"].astype(dtype))
        if "beta" in case:
            keywords["column_marginal"] = case["beta"].astype(dtype)
        yield name, case["logits"].astype(dtype), keywords, case


def test_goldens(golden):
    """All published label assignments, the overflowing ones too, against three float64 iterations.

    Every entry is held to 1e-5 of itself. Entries below 1e-30, which float32 hardly has, must be as small.
    """
    for name, logits, keywords, case in golden_problems(golden, np.float32):
        if len(logits) < 200 or len(keywords) > 1:  # what takes time is to compile each size with each choice
            flat = {"log_prior": np.zeros_like(logits), "column_marginal": np.ones_like(logits[0])}
            keywords = flat | keywords
        got = ot.sinkhorn(logits, **keywords)
        assert got.plan.dtype == jnp.float32
        np.testing.assert_allclose(got.plan, case["ref3_f64"], rtol=1e-5, atol=1e-30, err_msg=name)
        share = case.get("beta", np.ones(logits.shape[1])).astype(np.float64)
        share = share / share.sum() * len(logits)
        error = np.abs(case["ref3_f64"].sum(axis=0) - share).sum() / len(logits)
        np.testing.assert_allclose(got.column_error, error, rtol=1e-5, atol=1e-6, err_msg=name)
        if np.isfinite(case["official_f32"]).all():
            np.testing.assert_allclose(got.plan, case["official_f32"], atol=2e-6, err_msg=name)


@pytest.mark.usefixtures("x64")
def test_goldens_in_float64(golden):
    """As one size: rows behind a mask and columns without mass fill the smaller ones up."""
    problems = list(golden_problems(golden, np.float64))
    most_n, most_k = np.max([logits.shape for _, logits, *_ in problems], axis=0)
    for name, logits, keywords, case in problems:
        n, k = logits.shape
        fill = ((0, most_n - n), (0, most_k - k))
        columns = keywords.get("column_marginal", np.ones(k))
        keywords = {
            "epsilon": keywords["epsilon"],
            "log_prior": np.pad(keywords.get("log_prior", np.zeros((n, k))), fill),
            "column_marginal": np.pad(columns, fill[1]),
            "mask": np.arange(most_n) < n,
        }
        got = ot.sinkhorn(np.pad(logits, fill), **keywords)
        assert got.plan.dtype == jnp.float64
        np.testing.assert_allclose(got.plan, np.pad(case["ref3_f64"], fill), rtol=1e-10, atol=1e-290, err_msg=name)
        share = case.get("beta", np.ones(k)).astype(np.float64)
        if np.abs(case["ref1000_f64"].mean(axis=0) - share / share.sum()).max() < 1e-13:
            got = ot.sinkhorn(np.pad(logits, fill), **keywords, num_iters=1000, tolerance=1e-13)
            want = np.pad(case["ref1000_f64"], fill)
            np.testing.assert_allclose(got.plan, want, rtol=1e-7, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("as_users_compile_it", [False, True])
def test_float32_keeps_its_digits_at_any_scale_of_scores(rng, as_users_compile_it):
    """Every entry is held to 1e-5 of itself, with and without a prior of the same reach, a mask and marginals."""
    mask = rng.random(200) < 0.8
    jax.config.update("jax_disable_most_optimizations", not as_users_compile_it)  # conftest.py turns it on
    try:
        flat, full = (jax.jit(lambda s, e, **keywords: ot.sinkhorn(s, epsilon=e, **keywords).plan) for _ in range(2))
        for reach, epsilon in itertools.product((60.0, 1e3, 1e4), (0.05, 0.5, 3.0)):
            scores, _, rows, columns = problem(rng, 200, 16, scale=reach * epsilon)
            plan, *_ = oracles.sinkhorn(scores, epsilon=epsilon)
            np.testing.assert_allclose(flat(scores, epsilon), plan, rtol=1e-5, atol=1e-30)
            offsets = (reach * epsilon * rng.uniform(-1, 1, (200, 1))).astype(np.float32)
            scores = scores / 2 + offsets / 2
            log_prior = (-reach * rng.uniform(0, 1, (200, 16))).astype(np.float32)
            got = full(scores, epsilon, log_prior=log_prior, mask=mask, row_marginal=rows, column_marginal=columns)
            kernel = scores[mask].astype(np.float64) / epsilon + log_prior[mask]
            plan, *_ = oracles.sinkhorn(kernel, epsilon=1.0, rows=rows[mask], columns=columns)
            np.testing.assert_allclose(np.asarray(got)[mask], plan, rtol=1e-5, atol=1e-30)
            assert not np.asarray(got)[~mask].any()
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def test_many_rows_add_up_as_well_as_few(rng):
    scores, *_ = problem(rng, 200_000, 2, scale=0.001)
    plan, *_ = oracles.sinkhorn(scores)
    np.testing.assert_allclose(ot.sinkhorn(scores).plan, plan, rtol=3e-6)


def test_many_iterations_do_not_add_up_their_errors(rng):
    scores, *_ = problem(rng, 200, 16, scale=0.05 * 1e3)
    got = ot.sinkhorn(scores, num_iters=500)
    np.testing.assert_allclose(got.plan, oracles.sinkhorn(scores, num_iters=500)[0], rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("reach", [0.0, 1.0, 1e2, 1e4])
def test_any_scale_of_scores_is_finite_and_right(rng, reach):
    epsilon = 0.05
    scores, *_ = problem(rng, scale=reach * epsilon)
    gradients, got = gradients_and_output(scores, FLAT, EQUAL, ALL, epsilon)
    plan, *_ = oracles.sinkhorn(scores, epsilon=epsilon)
    assert all(np.isfinite(leaf).all() for leaf in (*got, *gradients))
    np.testing.assert_allclose(got.plan, plan, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("n", "k"), [(1, 4), (5, 1), (1, 1)])
def test_one_row_or_one_column(rng, n, k):
    scores, *_ = problem(rng, n, k)
    got = ot.sinkhorn(scores)
    np.testing.assert_allclose(got.plan, oracles.sinkhorn(scores)[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(got.plan).sum(axis=1), 1, rtol=1e-6)


def test_a_column_without_mass_is_as_if_it_were_not_there(rng):
    scores, _, _, columns = problem(rng)
    columns[2] = 0
    rest = [0, 1, 3, 4, 5]
    want, *_ = oracles.sinkhorn(scores[:, rest], columns=columns[rest])
    (gradient, _), got = jax.device_get(gradients_and_output(scores, FLAT, columns, ALL, 0.05))
    np.testing.assert_allclose(got.plan[:, rest], want, rtol=3e-6)
    assert not got.plan[:, 2].any()
    assert got.column_potential[2] == -np.inf
    assert np.isfinite(gradient).all()


def test_masked_rows_are_inert_whatever_they_hold(rng):
    scores, prior, _, _ = problem(rng)
    mask = rng.random(40) < 0.7
    spoiled = np.where(mask[:, None], scores, np.nan).astype(np.float32)
    (gradient, of_epsilon), got = jax.device_get(gradients_and_output(spoiled, np.log(prior), EQUAL, mask, 0.05))
    want, *_ = oracles.sinkhorn(scores[mask], prior=prior[mask])
    np.testing.assert_allclose(got.plan[mask], want, rtol=1e-5)
    assert not got.plan[~mask].any()
    error = np.abs(want.sum(axis=0) - mask.sum() / 6).sum() / mask.sum()
    np.testing.assert_allclose(got.column_error, error, rtol=1e-4)
    assert np.isfinite(of_epsilon)
    assert not gradient[~mask].any()
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[mask]).max() > 0


def test_nothing_left_to_transport_is_flagged(rng):
    scores, *_ = problem(rng)
    got = ot.sinkhorn(scores, log_prior=FLAT, mask=~ALL)
    assert not np.asarray(got.plan).any()
    assert not bool(got.converged)
    forbidden = np.zeros((40, 6), np.float32)
    forbidden[3] = -np.inf
    got = ot.sinkhorn(scores, log_prior=forbidden, mask=ALL)
    np.testing.assert_allclose(got.row_error, 1 / 40, rtol=1e-6)
    assert not bool(got.converged)


def test_tolerance_stops_as_soon_as_both_marginals_hold(rng):
    scores, *_ = problem(rng)
    got = ot.sinkhorn(scores, epsilon=0.2, num_iters=1000, tolerance=1e-4)
    done = int(got.iterations)
    assert 1 < done < 1000
    assert bool(got.converged)
    assert float(got.column_error) <= 1e-4
    plan = np.asarray(got.plan)
    np.testing.assert_allclose(np.abs(plan.sum(axis=0) - 40 / 6).sum() / 40, got.column_error, atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=1), 1, rtol=1e-5)
    less = ot.sinkhorn(scores, epsilon=0.2, num_iters=done - 1, tolerance=1e-4)
    assert not bool(less.converged)
    assert float(less.column_error) > 1e-4
    assert int(less.iterations) == done - 1


def test_a_constant_added_to_a_row_matters_only_before_convergence(rng):
    """Truncated iterations scale columns first, so they are not invariant to shifts of single rows."""
    scores, *_ = problem(rng)
    shifted = scores + rng.uniform(-0.2, 0.2, (40, 1)).astype(np.float32)
    three = [np.asarray(ot.sinkhorn(s, epsilon=0.1).plan) for s in (scores, shifted)]
    many = [ot.sinkhorn(s, epsilon=0.1, num_iters=2000).plan for s in (scores, shifted)]
    assert np.abs(three[0] - three[1]).max() > 1e-3
    np.testing.assert_allclose(many[0], many[1], atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_gradient_is_that_of_finite_differences(rng):
    scores, prior, _, _ = (x.astype(np.float64) for x in problem(rng, 7, 4))
    weights = rng.normal(size=(7, 4))
    mask = np.array([True] * 5 + [False, True])

    def value(s, p):
        return (weights * ot.sinkhorn(s, log_prior=jnp.log(p), mask=mask, epsilon=0.3).plan).sum()

    @jax.jit
    def forward_and_reverse(at, along):
        """Value, its derivative along a direction, and its gradient."""
        return *jax.jvp(value, at, along), jax.grad(value, argnums=(0, 1))(*at)

    at, step = (scores, prior), 1e-6
    for _ in range(2):
        along = tuple(rng.normal(size=x.shape) for x in at)
        _, forward, gradient = forward_and_reverse(at, along)
        above, below = (
            forward_and_reverse(tuple(x + e * d for x, d in zip(at, along, strict=True)), along)[0]
            for e in (step, -step)
        )
        np.testing.assert_allclose(forward, (above - below) / (2 * step), rtol=1e-6)
        reverse = sum((np.asarray(g) * d).sum() for g, d in zip(gradient, along, strict=True))
        np.testing.assert_allclose(reverse, forward, rtol=1e-9)


def test_jit_vmap_and_permutations(rng):
    scores = rng.normal(size=(3, 40, 6)).astype(np.float32)
    one_by_one = [np.asarray(ot.sinkhorn(s).plan) for s in scores]
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda s: ot.sinkhorn(s).plan))(scores), one_by_one, atol=1e-6)
    at_tolerance = jax.vmap(lambda s: ot.sinkhorn(s, epsilon=1.0, num_iters=99, tolerance=1e-3))(scores)
    assert np.asarray(at_tolerance.converged).all()
    rows, columns = rng.permutation(40), rng.permutation(6)
    permuted = ot.sinkhorn(scores[0][rows][:, columns]).plan
    np.testing.assert_allclose(permuted, one_by_one[0][rows][:, columns], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_other_types_are_computed_in_float32(rng, dtype):
    scores = jnp.asarray(rng.integers(-3, 4, (8, 3)), dtype)
    got = ot.sinkhorn(scores, epsilon=2.0)
    assert got.plan.dtype == jnp.float32
    np.testing.assert_allclose(got.plan, oracles.sinkhorn(np.asarray(scores, np.float64), epsilon=2.0)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"num_iters": 0}, "num_iters must be an integer of at least 1, got 0"),
        ({"tolerance": -1.0}, "tolerance must be positive and finite, got -1.0"),
    ],
)
def test_unusable_options_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        ot.sinkhorn(jnp.zeros((4, 3)), **keywords)


def test_unusable_shapes_are_refused():
    with pytest.raises(ValueError, match=r"N, K >= 1, got shape \(0, 3\)"):
        ot.sinkhorn(jnp.zeros((0, 3)))


# The prior and the marginals


def test_ascending_rank_is_the_order_of_each_snippet():
    attention = jnp.asarray([0.3, 0.9, 0.1, 0.5])
    np.testing.assert_allclose(ot.ascending_rank(attention), [0.5, 1.0, 0.25, 0.75])
    np.testing.assert_allclose(ot.ascending_rank(jnp.asarray([0.2, 0.2, 0.1])), np.array([2, 3, 1]) / 3, rtol=1e-6)


def test_published_rank_is_the_sorting_permutation():
    attention = jnp.asarray([0.3, 0.9, 0.1, 0.5])  # from most to least attended: snippets 1, 3, 0, 2
    np.testing.assert_allclose(1 - ot.published_rank(attention), np.array([2, 4, 1, 3]) / 4, rtol=1e-6)


@pytest.mark.parametrize("rank", [ot.ascending_rank, ot.published_rank])
def test_masked_snippets_are_not_ranked(rng, rank):
    attention = rng.random(30).astype(np.float32)
    attention[20:] = np.nan
    mask = np.arange(30) < 20
    masked, alone = jax.jit(lambda x: (rank(x, mask=mask), rank(x[:20])))(attention)
    np.testing.assert_allclose(np.asarray(masked)[:20], alone, rtol=1e-6)


def test_prior_is_the_printed_density(rng):
    attention, foreground = rng.random(9).astype(np.float32), rng.random(4).astype(np.float32)
    got = np.asarray(jax.jit(partial(ot.gaussian_rank_prior, std=0.3))(attention, foreground))
    for n in range(9):
        rank = 1 + sum(attention < attention[n])
        for k in range(4):
            want = np.exp(-(abs(rank / 9 - foreground[k]) ** 2) / (2 * 0.3**2)) / (0.3 * np.sqrt(2 * np.pi))
            np.testing.assert_allclose(np.exp(got[n, k]), want, rtol=1e-5)


def test_descending_and_ascending_priors_give_one_plan(rng):
    """Descending ranks against 1 - Q^C are the ascending prior of Eq. 11 up to a shift of 1/N."""
    n, std = 400, 0.3
    attention, foreground = rng.random(n).astype(np.float32), rng.random(5).astype(np.float32)
    scores = rng.normal(size=(n, 5)).astype(np.float32)

    def descending_rank(attention, mask):
        return 1 - (n + 1 - n * ot.ascending_rank(attention, mask=mask)) / n

    @jax.jit
    def plans(attention, foreground, scores):
        priors = [
            ot.gaussian_rank_prior(attention, foreground, std=std, rank=rank)
            for rank in (ot.ascending_rank, descending_rank)
        ]
        solve = jax.vmap(lambda prior: ot.sinkhorn(scores, log_prior=prior, epsilon=1.0).plan)
        return solve(jnp.stack([*priors, jnp.zeros_like(scores)]))

    ascending, descending, flat = np.asarray(plans(attention, foreground, scores))
    np.testing.assert_allclose(ascending, descending, atol=2 / n)
    assert np.abs(ascending - flat).max() > 0.1


def test_the_prior_pulls_attended_snippets_to_foreground_clusters(rng):
    attention = rng.random(200).astype(np.float32)
    foreground = np.float32([0.9, 0.1])

    @jax.jit
    def plans(attention):
        priors = [
            ot.gaussian_rank_prior(attention, foreground, std=0.2, rank=rank)
            for rank in (ot.ascending_rank, ot.published_rank)
        ]
        scores = np.zeros((200, 2), np.float32)
        solve = jax.vmap(lambda prior: ot.sinkhorn(scores, log_prior=prior, epsilon=1.0, num_iters=50).plan)
        return solve(jnp.stack(priors))

    plan, published = np.asarray(plans(attention))
    top = attention > np.median(attention)
    assert plan[top, 0].mean() > 0.85
    assert plan[~top, 0].mean() < 0.15
    assert abs(published[top, 0].mean() - published[~top, 0].mean()) < 0.25


def test_prior_refuses_a_std_of_zero():
    with pytest.raises(ValueError, match="std must be positive and finite, got 0"):
        ot.gaussian_rank_prior(jnp.ones(3), jnp.ones(2), std=0)


def test_marginals(rng):
    np.testing.assert_allclose(ot.equipartition(4, 10.0), [2.5] * 4)
    labels = (rng.random((3, 8)) < 0.3).astype(np.float32)
    mask = rng.random((3, 8)) < 0.8
    np.testing.assert_allclose(ot.foreground_marginal(labels), [labels.mean(), 1 - labels.mean()], rtol=1e-6)
    share = labels[mask].mean()
    np.testing.assert_allclose(ot.foreground_marginal(labels, mask=mask), [share, 1 - share], rtol=1e-6)
    np.testing.assert_allclose(ot.foreground_marginal(jnp.ones(5), floor=0.05), [0.95, 0.05], rtol=1e-6)
    np.testing.assert_allclose(ot.foreground_marginal(jnp.ones(5), mask=jnp.zeros(5, bool)), [0.5, 0.5])
