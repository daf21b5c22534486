"""Public functions of losses, wherever JAX runs them and whatever they are given."""

import everywhere
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import losses

draw = np.random.default_rng(0)
X = jnp.float32(draw.normal(size=(2, 6, 3)))
P = jnp.float32(draw.random((2, 6)))
Y = jnp.float32([[1, 0, 1], [0, 1, 0]])
MASK = jnp.array([[True] * 6, [True] * 4 + [False] * 2])

JOBS = {
    "video_cross_entropy": (lambda x, y: losses.video_cross_entropy(x[:, 0], y), (X, Y)),
    "generalized_bce": (lambda p, m: losses.generalized_bce(p, p[:, ::-1], mask=m), (P, MASK)),
    "soft_cross_entropy": (lambda x, y: losses.soft_cross_entropy(x[:, 0], y), (X, Y)),
    "softmax_bce": (lambda x, y: losses.softmax_bce(x[:, 0], y), (X, Y)),
    "entropy": (losses.entropy, (P,)),
    "mil_loss": (lambda x, y, m: losses.mil_loss(x, y, mask=m, divisor=2), (X, Y, MASK)),
    "shared_out": (losses.shared_out, (Y,)),
    "with_background": (lambda y: losses.with_background(y, 1), (Y,)),
    "center_loss": (lambda x, y, k: losses.center_loss(x[:, 0], x[:, 1], k, y), (X, Y, jnp.array([0, 1]))),
    "select_top_k": (lambda x, m: losses.select_top_k(x, divisor=2, mask=m), (X, MASK)),
    "top_k_mean": (lambda x, m: losses.top_k_mean(x, divisor=2, mask=m), (X, MASK)),
    "time_mean": (lambda x, m: losses.time_mean(x, mask=m), (X, MASK)),
    "time_softmax": (lambda x, m: losses.time_softmax(x, mask=m), (X, MASK)),
    "masked_mean": (lambda p, m: losses.masked_mean(p, mask=m), (P, MASK)),
    "moving_average": (lambda x, m: losses.moving_average(x, 3, mask=m), (X, MASK)),
    "calibrate": (lambda x, p: losses.calibrate([x, 2 * x], p, cas_weight=0.25), (X, P)),
    "mined_contrast": (lambda x, m: losses.mined_contrast(x, m, m, ~m, temperature=0.1), (X, MASK)),
    "best_of_kinds": (lambda x, m: losses.best_of_kinds(x > 0, jnp.abs(x), divisor=3, mask=m), (X, MASK)),
    "unit": (losses.unit, (X,)),
    "norm": (losses.norm, (X,)),
    "angular_distance": (losses.angular_distance, (X, Y)),
}


def run(name, way):
    function, arrays = JOBS[name]
    if way == "under_equinox":
        pytest.importorskip("equinox")
    everywhere.assert_same(everywhere.WAYS[way](function, arrays), function(*arrays))


@pytest.mark.parametrize("way", ["in_shard_map", "on_an_explicit_mesh", "strict_types"])
@pytest.mark.parametrize("name", ["top_k_mean", "generalized_bce"])
def test_central_functions_run_everywhere(name, way):
    run(name, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", everywhere.WAYS)
@pytest.mark.parametrize("name", JOBS)
def test_runs_everywhere(name, way):
    run(name, way)


def test_lists_half_precision_and_masks_of_numbers():
    want = losses.top_k_mean(X, divisor=2, mask=MASK)
    for mask in (np.array(MASK, int), np.array(MASK, np.float32), MASK.tolist()):
        np.testing.assert_array_equal(losses.top_k_mean(X.tolist(), divisor=np.int64(2), mask=mask), want)
    with pytest.raises(ValueError, match=r"mask must be boolean.*got 2"):
        losses.top_k_mean(X, mask=2 * np.ones((2, 6)))
    big = (X * 1000).astype(jnp.float16)  # its squares leave the range
    everywhere.assert_same(losses.norm(big), losses.norm(big.astype(jnp.float32)))
    assert losses.unit(big).dtype == jnp.float32


def test_nan_is_refused_or_seen():
    broken = X.at[1, 1, 0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"values\[1, 1, 0\] is NaN"):
        losses.top_k_mean(broken, mask=MASK)
    assert jnp.isnan(jax.jit(losses.time_mean)(broken)).any()
    np.testing.assert_array_equal(
        losses.top_k_mean(X.at[1, 5].set(jnp.nan), mask=MASK), losses.top_k_mean(X, mask=MASK)
    )


@pytest.mark.parametrize("name", ["generalized_bce", "mil_loss", "top_k_mean", "time_mean", "time_softmax"])
def test_empty_items_of_a_batch_are_inert(name):
    function, (x, *rest) = JOBS[name]
    rest[-1] = MASK.at[1].set(False)
    gradient = jax.grad(lambda x: function(x, *rest).sum())(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1], jnp.zeros_like(gradient[1]))
    filled = x.at[1].set(jnp.nan)
    np.testing.assert_array_equal(function(filled, *rest), function(x, *rest))
    np.testing.assert_array_equal(jax.grad(lambda x: function(x, *rest).sum())(filled), gradient)
