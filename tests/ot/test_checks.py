"""Arrays and options of all types and all broken ones: converted, refused with the value, or NaN under jit."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import labels, ot

N, K = 12, 5
SCORES = np.random.default_rng(0).normal(size=(N, K)).astype(np.float32)
ONES = np.ones(N, np.float32)


def spoiled(shape, at, value):
    array = np.ones(shape, np.float32)
    array[at] = value
    return array


BROKEN = {
    "scores": (spoiled((N, K), (3, 1), np.nan), r"scores must be neither NaN nor \+inf, got nan at \[3, 1\]"),
    "endless": (spoiled((N, K), (3, 1), np.inf), r"got inf at \[3, 1\]"),
    "log_prior": (spoiled((N, K), (2, 0), np.nan), r"log_prior must be .* got nan at \[2, 0\]"),
    "row_marginal": (spoiled(N, 4, -0.5), r"row_marginal must be finite and at least 0, got -0\.5 at \[4\]"),
    "column_marginal": (spoiled(K, 4, np.nan), r"column_marginal must be .* got nan at \[4\]"),
    "epsilon": (np.float32(-0.5), r"epsilon must be positive and finite, got -0\.5"),
    "tolerance": (np.float32(np.nan), "tolerance must be positive and finite, got nan"),
    "row_relaxation": (np.float32(-2), r"row_relaxation must be positive and finite, got -2\.0"),
    "column_relaxation": (jnp.float32(np.inf), "column_relaxation must be positive and finite, got inf"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_numbers_are_refused_or_make_everything_nan(name):
    value, message = BROKEN[name]
    keywords = {"scores": value} if name == "endless" else {name: value}
    with pytest.raises(ValueError, match=message):
        ot.sinkhorn(**{"scores": SCORES, **keywords})
    got = jax.jit(partial(ot.sinkhorn, num_iters=20))(**{"scores": SCORES, **keywords})
    assert np.isnan(got.plan).all()
    assert not bool(got.converged)
    assert np.isnan(got.column_error) or float(got.column_error) > 0


def test_what_takes_no_part_may_hold_anything():
    mask = np.arange(N) < 9
    scores, rows = np.where(mask[:, None], SCORES, np.nan).astype(np.float32), np.where(mask, ONES, np.nan)
    got = ot.sinkhorn(scores, row_marginal=rows.astype(np.float32), mask=mask)
    np.testing.assert_allclose(got.plan[:9], ot.sinkhorn(SCORES[:9]).plan, rtol=1e-5)
    assert not np.asarray(got.plan[9:]).any()


def test_harmless_types_are_converted():
    mask = np.arange(N) < 9
    want = np.asarray(ot.sinkhorn(SCORES, mask=mask, epsilon=0.5, num_iters=4, row_marginal=2 * ONES).plan)
    for options in (
        {"epsilon": np.float32(0.5), "num_iters": np.int64(4)},
        {"epsilon": np.asarray(0.5), "num_iters": jnp.asarray(4)},
        {"mask": mask.astype(int), "row_marginal": [2] * N},
        {"mask": mask.tolist(), "scores": SCORES.tolist()},
        {"mask": mask.astype(np.float32), "row_marginal": np.full(N, 2)},
    ):
        keywords = {"mask": mask, "epsilon": 0.5, "num_iters": 4, "row_marginal": 2 * ONES, "scores": SCORES} | options
        np.testing.assert_array_equal(ot.sinkhorn(**keywords).plan, want)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mask": [0, 1] * 5 + [0, 2]}, "mask must be boolean, got 2"),
        ({"mask": [True] * 3}, r"mask must have shape \(12,\), got \(3,\)"),
        ({"num_iters": 2.0}, r"num_iters must be an integer of at least 1, got 2\.0"),
        ({"num_iters": True}, "num_iters must be an integer of at least 1, got True"),
        ({"epsilon": "0.5"}, "epsilon must be a single number, got '0.5'"),
        ({"epsilon": [0.5, 0.1]}, "epsilon must be a single number"),
        ({"epsilon": True}, "epsilon must be positive and finite, got True"),
        ({"scores": [[1.0, 2.0], [3.0]]}, "scores must be an array of numbers"),
        ({"scores": SCORES * 1j}, "scores must be real, got complex64"),
    ],
)
def test_what_cannot_be_converted_is_refused(keywords, message):
    unchecked = ot.sinkhorn.__wrapped__ if hasattr(ot.sinkhorn, "__wrapped__") else ot.sinkhorn
    with pytest.raises(ValueError, match=message):
        unchecked(**{"scores": SCORES, **keywords})


def test_a_mask_of_numbers_is_refused_under_jit():
    with pytest.raises(ValueError, match="mask must be boolean, got float32; compare it"):
        jax.jit(lambda m: ot.sinkhorn(SCORES, mask=m))(ONES)


def test_half_precision_does_not_leave_its_range():
    """70,000 labels overflow a float16, and 3,000 ranks are not whole numbers of it."""
    many = np.ones(70_000, np.float16)
    np.testing.assert_allclose(ot.foreground_marginal(many, mask=many > 0), [1, 0])
    attention = np.linspace(0, 1, 3000).astype(np.float16)
    assert ot.ascending_rank(attention).dtype == jnp.float32
    np.testing.assert_allclose(ot.ascending_rank(attention), np.arange(1, 3001) / 3000, rtol=1e-6)
    means = labels.prototypes(many[:, None], np.full((70_000, 1), 3, np.float16))
    np.testing.assert_allclose(means, 3, rtol=1e-4)
    np.testing.assert_allclose(ot.ascending_rank([3, 1, 2]), np.float32([3, 1, 2]) / 3)


def test_priors_and_marginals_see_broken_numbers():
    with pytest.raises(ValueError, match=r"attention must be .* got nan at \[1\]"):
        ot.ascending_rank(np.float32([0.5, np.nan]))
    assert np.isnan(jax.jit(ot.ascending_rank)(np.float32([0.5, np.nan]))[1])
    assert np.isnan(jax.jit(ot.published_rank)(np.float32([0.5, np.nan]))).all()
    with pytest.raises(ValueError, match="std must be positive and finite, got -1"):
        ot.gaussian_rank_prior(ONES, ONES[:2], std=np.float32(-1))
    assert np.isnan(jax.jit(lambda s: ot.gaussian_rank_prior(ONES, ONES[:2], std=s))(-1.0)).all()
    with pytest.raises(ValueError, match=r"labels must be .* got -1\.0 at \[0\]"):
        ot.foreground_marginal(np.float32([-1, 1]))
    with pytest.raises(ValueError, match=r"num_columns must be an integer of at least 1, got 0"):
        ot.equipartition(0)
    np.testing.assert_allclose(ot.equipartition(np.int64(4), np.float32(2)), 0.5)
    with pytest.raises(ValueError, match=r"weights must be .* got -1\.0 at \[1, 0\]"):
        labels.prototypes(np.float32([[1], [-1]]), np.ones((2, 3), np.float32))
    assert np.isnan(jax.jit(labels.prototypes)(np.float32([[1], [-1]]), np.ones((2, 3), np.float32))).all()
