import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import lambertw, logsumexp

from casejax.alignment.soft_min import hard_min, min_gamma, smooth_min, smooth_min_by_shares

MINIMUMS = [smooth_min, min_gamma, hard_min]


def mean_under_softmin(values: np.ndarray, gamma: float, axis: int) -> np.ndarray:
    shares = np.exp(-values / gamma - logsumexp(-values / gamma, axis=axis, keepdims=True))
    return (shares * values).sum(axis)


def log_sum(values: np.ndarray, gamma: float, axis: int) -> np.ndarray:
    return -gamma * logsumexp(-values / gamma, axis=axis)


def minimum_of(values: np.ndarray, gamma: float, axis: int) -> np.ndarray:
    return values.min(axis)


ORACLES = dict(zip(MINIMUMS, [mean_under_softmin, log_sum, minimum_of], strict=True))


def highest(n: int) -> float:
    """x of Eq. 5, x - 1 = (n - 1) exp(-x)."""
    return 1 + lambertw((n - 1) / np.e).real


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("minimum", MINIMUMS)
def test_agrees_with_the_definition(rng, minimum):
    values = rng.normal(0, 2, (3, 7, 2))  # axes long and short
    axes = (1, -1)
    run = jax.jit(lambda v, g: [minimum(v, g, axis=axis) for axis in axes])
    for gamma in (0.05, 0.3, 5.0):
        for axis, got in zip(axes, run(values, gamma), strict=True):
            np.testing.assert_allclose(got, ORACLES[minimum](values, gamma, axis), rtol=1e-12)
    for axis, got in zip(axes, run(values, 0.0), strict=True):
        np.testing.assert_array_equal(got, values.min(axis))


@pytest.mark.usefixtures("x64")
def test_penalty_of_smooth_min_is_bounded_and_the_bound_attained(rng):
    np.testing.assert_allclose([highest(n) for n in (2, 3)], [1.2785, 1.4631], atol=5e-5)  # printed below Eq. 6
    gamma, least = 0.7, -3.0

    @jax.jit
    def penalty_and_gradient(values):
        def total(v):
            penalty = smooth_min(v, gamma) - v.min(-1)
            return penalty.sum(), penalty

        gradient, penalty = jax.grad(total, has_aux=True)(values)
        return penalty, gradient

    for n in (2, 3, 12):
        x = highest(n)
        np.testing.assert_allclose(x - 1, (n - 1) * np.exp(-x))
        assert x < np.log(n + 1) or n < 4
        attaining = least + gamma * x * (np.arange(n) > 0)
        values = np.stack([attaining, np.full(n, least), *rng.exponential(2 * gamma, (500, n))])
        found, gradient = map(np.asarray, penalty_and_gradient(values))
        np.testing.assert_allclose(found[0], gamma * (x - 1), rtol=1e-12)
        np.testing.assert_allclose(found[1], 0, atol=1e-15)  # a tie of all costs nothing
        assert found.min() >= -1e-14
        assert found[1:].max() < found[0]
        np.testing.assert_allclose(gradient[0], 0, atol=1e-12)  # stationary, Eq. 4
        r = (attaining - least) / gamma
        np.testing.assert_allclose(1 - r[1:] + found[0] / gamma, 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_penalty_of_min_gamma_rewards_ties(rng):
    gamma = 0.7
    penalty = jax.jit(lambda v: min_gamma(v, gamma) - v.min(-1))
    for n in (3, 12):
        values = np.stack([np.full(n, 4.0), *rng.exponential(2 * gamma, (500, n))])
        found = np.asarray(penalty(values))
        np.testing.assert_allclose(found[0], -gamma * np.log(n), rtol=1e-12)  # Eq. 10
        assert found[1:].min() > found[0]
        assert found.max() <= 0


@pytest.mark.usefixtures("x64")
def test_identities(rng):
    values = rng.normal(size=(20, 3))
    for minimum in (smooth_min, min_gamma):
        run = jax.jit(minimum)
        for gamma in (0.2, 2.0):
            want = run(values, gamma)
            np.testing.assert_allclose(run(values + 5, gamma), want + 5, rtol=1e-12)
            np.testing.assert_allclose(run(7 * values, 7 * gamma), 7 * want, rtol=1e-12)
            least = values.min(-1, keepdims=True)
            from_one = run((values - least) / gamma, 1.0)  # Eqs. 2 and 8
            np.testing.assert_allclose(least[:, 0] + gamma * from_one, want, rtol=1e-12)
    gamma = 0.6
    shares = np.exp(-values / gamma) / np.exp(-values / gamma).sum(-1, keepdims=True)
    entropy = -(shares * np.log(shares)).sum(-1)
    smooth, lower = (jax.jit(minimum)(values, gamma) for minimum in (smooth_min, min_gamma))
    np.testing.assert_allclose(smooth - lower, gamma * entropy, rtol=1e-9)
    by_shares = jax.jit(jax.vmap(jax.value_and_grad(lambda v: smooth_min_by_shares(v, gamma))))
    for got, want in zip(by_shares(values), (smooth, shares), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("minimum", [smooth_min, min_gamma])
@pytest.mark.parametrize("n", [3, 6])
def test_derivatives_are_those_of_finite_differences(rng, minimum, n):
    values, gamma = rng.normal(size=(4, n)), 0.6
    along, step = (rng.normal(size=(4, n)), rng.normal()), 1e-5

    @jax.jit
    def derivatives(v, g):
        of_value = jax.value_and_grad(lambda v, g: minimum(v, g).sum(), argnums=(0, 1))
        (value, first), (_, second) = jax.jvp(of_value, (v, g), along)
        return value, first, second

    at, up, down = (
        jax.tree.map(np.asarray, derivatives(values + e * along[0], gamma + e * along[1])) for e in (0, step, -step)
    )
    value, gradients = jax.tree.map(lambda a, b: (a - b) / (2 * step), up[:2], down[:2])
    gradient, slope = at[1]
    np.testing.assert_allclose((gradient * along[0]).sum() + slope * along[1], value, rtol=1e-8)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), at[2], gradients)
    np.testing.assert_allclose(gradient.sum(-1), 1, rtol=1e-12)
    if minimum is smooth_min:
        smooth = mean_under_softmin(values, gamma, -1)[:, None]
        np.testing.assert_array_equal(gradient < 0, values > smooth + gamma)
    else:
        assert gradient.min() >= 0


@pytest.mark.parametrize("minimum", MINIMUMS)
def test_ties_share_the_gradient_where_gamma_is_zero(minimum):
    values = jnp.asarray([[1.0, 2.0, 1.0], [3.0, 3.0, 3.0], [-1.0, 5.0, 1e30]])
    gradient = jax.jit(jax.grad(lambda v, g: minimum(v, g).sum()))(values, 0.0)
    np.testing.assert_allclose(gradient, [[0.5, 0, 0.5], [1 / 3] * 3, [1, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("minimum", MINIMUMS)
def test_any_scale_is_finite(rng, minimum):
    run = jax.jit(jax.value_and_grad(lambda v, g: minimum(v, g).sum(), argnums=(0, 1)))
    values = rng.uniform(-1, 1, 3).astype(np.float32)
    for scale in (1e-37, 1e-3, 1.0, 1e6, 1.6e38):
        for gamma in (0.0, 1e-38, 1e-3, 1.0, 1e10):
            value, (gradient, slope) = run(values * np.float32(scale), gamma)
            assert np.isfinite([value, *gradient, slope]).all(), (scale, gamma)
            np.testing.assert_allclose(gradient.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("minimum", MINIMUMS)
@pytest.mark.parametrize("n", [4, 6])
def test_what_takes_no_part_is_inert(rng, minimum, n):
    values = rng.normal(size=(5, n)).astype(np.float32)
    where = np.arange(n) < np.array([n, n - 1, 2, 1, 0])[:, None]
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda v, w: minimum(v, 0.3, where=w))))
    value, gradient = run(values, where)
    for fill in (np.nan, -np.inf, 1e38):
        spoiled, of_spoiled = run(np.where(where, values, np.float32(fill)), where)
        np.testing.assert_array_equal(spoiled, value)
        np.testing.assert_array_equal(of_spoiled, gradient)
    for row in range(4):
        cropped = ORACLES[minimum](values[row, where[row]].astype(np.float64), 0.3, 0)
        np.testing.assert_allclose(value[row], cropped, rtol=1e-5)
    assert value[4] == np.inf
    assert np.all(np.where(where, 0, gradient) == 0)
    forbidden = run(np.where(where, values, np.float32(np.inf)), np.ones_like(where))
    np.testing.assert_array_equal(forbidden[0], value)
    np.testing.assert_array_equal(forbidden[1], gradient)


@pytest.mark.parametrize("minimum", MINIMUMS)
def test_refuses_or_shows_what_is_wrong(minimum):
    values = jnp.asarray([1.0, 2.0, 3.0])
    for gamma in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"gamma must be .*, got {gamma}"):
            minimum(values, gamma)
    for shape, axis in (((), -1), ((2, 0), 1), ((2, 3), 2)):
        with pytest.raises(ValueError, match="nothing to take the minimum of"):
            minimum(jnp.zeros(shape), 0.1, axis=axis)
    run = jax.jit(minimum)
    assert np.isnan(run(values.at[2].set(jnp.nan), 0.1))
    if minimum is not hard_min:
        assert np.isnan(run(values, -0.1))


def test_types():
    assert smooth_min(jnp.asarray([1.0, 2.0], jnp.bfloat16), 0.1).dtype == jnp.float32
    assert min_gamma(jnp.asarray([1.0, 2.0]), jnp.asarray(0.1)).dtype == jnp.float32
