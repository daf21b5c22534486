"""All public functions of alignment, wherever JAX runs them."""

import everywhere
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax import alignment
from casejax.alignment import tcc

draw = np.random.default_rng(0)
E = jnp.float32(draw.normal(size=(2, 4, 3)))
E = E / jnp.linalg.norm(E, axis=-1, keepdims=True)
COST = jnp.float32(draw.random((2, 4, 3)))
MASK = jnp.array([[True] * 4, [True, True, False, False]])
COLUMNS = jnp.array([[True] * 3, [True, True, False]])
LOG = jax.nn.log_softmax(COST)
START, TIMES = jnp.array([[[True, False, False]]]), jnp.float32([[[0.0, 0.5, 1.0]]])
INDEX = jnp.array([[0, 1, 0], [1, 0, 1]], jnp.int32)
LABELS = jnp.array([0, 1], jnp.int32)
LENGTH = jnp.int32(9)
SHARES = jnp.float32(draw.dirichlet(np.ones(4), (2, 4)))


def key():
    return jax.random.key(3)


JOBS = {
    "dtw": (lambda c, x, y: alignment.dtw(c, x_mask=x, y_mask=y), (COST, MASK, COLUMNS)),
    "dtw_table": (lambda c, x: alignment.dtw_table(c, x_mask=x, minimum=alignment.smooth_min), (COST, MASK)),
    "alignment_matrix": (lambda c: alignment.alignment_matrix(c), (COST,)),
    "visitation_matrix": (lambda c, y: alignment.visitation_matrix(c, y_mask=y), (COST, COLUMNS)),
    "dtw_path": (lambda c, x: alignment.dtw_path(c, x_mask=x), (COST, MASK)),
    "dtw in a band": (lambda c, x, y: alignment.dtw(c, x_mask=x, y_mask=y, band=2), (COST, MASK, COLUMNS)),
    "dtw_table in a band": (lambda c: alignment.dtw_table(c, band=1), (COST,)),
    "dtw with open ends": (
        lambda c, x, y: alignment.dtw(c, x_mask=x, y_mask=y, open_begin=True, open_end=True),
        (COST, MASK, COLUMNS),
    ),
    "dtw_path with open ends": (lambda c, y: alignment.dtw_path(c, y_mask=y, open_begin=True), (COST, COLUMNS)),
    "soft_dtw_divergence": (lambda x, m: alignment.soft_dtw_divergence(x, x[:, :3] + 1, x_mask=m), (E, MASK)),
    "soft_dtw_barycenter": (lambda x, m: alignment.soft_dtw_barycenter(x, mask=m, num_steps=2), (E, MASK)),
    "smooth_min": (lambda c: alignment.smooth_min(c, 0.1), (COST,)),
    "min_gamma": (lambda c: alignment.min_gamma(c, 0.1), (COST,)),
    "hard_min": (lambda c: alignment.hard_min(c), (COST,)),
    "contrastive_cost": (lambda x, m: alignment.contrastive_cost(x, x, x_mask=m), (E, MASK)),
    "squared_distance": (lambda x, m: alignment.squared_distance(x, x + 1, x_mask=m), (E, MASK)),
    "inner_product": (lambda x: alignment.inner_product(x, x), (E,)),
    "gta_loss": (lambda x, m: alignment.gta_loss(x, mask=m), (E, MASK)),
    "pair_losses": (lambda x, m: alignment.pair_losses(x, x[:, ::-1], y_mask=m, both_ways=True), (E, MASK)),
    "cycle_cross_entropy": (
        lambda x, p, m: alignment.cycle_cross_entropy(x, p, mask=m),
        (jnp.log(SHARES), SHARES, MASK),
    ),
    "cycle_cross_entropy_published": (
        lambda x, p, m: alignment.cycle_cross_entropy_published(x, p, mask=m),
        (jnp.log(SHARES), SHARES, MASK),
    ),
    "tcc_loss": (lambda x, m: alignment.tcc_loss(x, mask=m), (E, MASK)),
    "stochastic_tcc_loss": (
        lambda x, c, s, m: alignment.stochastic_tcc_loss(x, c, s, mask=m),
        (E, INDEX, LABELS, MASK),
    ),
    "negative_squared_distance": (lambda x: alignment.negative_squared_distance(x, x + 1), (E,)),
    **{
        name: (
            lambda p, s, t, name=name: getattr(tcc, name)(p, s, t, mask=jnp.ones((1, 1, 3), bool)),
            (LOG, START, TIMES),
        )
        for name in ("classification", "regression_mse", "regression_mse_var", "regression_huber")
    },
    "tcn_npairs_loss": (lambda x, m: alignment.tcn_npairs_loss(x, x + 0.1, mask=m), (E, MASK)),
    "tcn_triplet_loss": (lambda x: alignment.tcn_triplet_loss(x, x + 0.1, -x), (E,)),
    "d3tw_loss": (lambda x, m: alignment.d3tw_loss(x, x, -x, positive_mask=m, negative_mask=m), (E, MASK)),
    "shuffle_and_learn_loss": (lambda x, y: alignment.shuffle_and_learn_loss(x[:, 0, :2], y), (E, LABELS)),
    "triplet_features": (lambda x, v, f: alignment.triplet_features(x, v, f), (E, LABELS, INDEX)),
    "speednet_loss": (lambda x, y: alignment.speednet_loss(x[:, 0, 0], y), (E, LABELS)),
    "clip_features": (lambda x, m: alignment.clip_features(x, mask=m), (E, MASK)),
    "sample_frames": (lambda n: alignment.sample_frames(n, 3, key()), (LENGTH,)),
    "context_indices": (lambda f: alignment.context_indices(f), (INDEX,)),
    "tcn_pairs": (lambda n: alignment.tcn_pairs(n, 3, key()), (LENGTH,)),
    "random_cycles": (lambda n: alignment.random_cycles(n + 5, key(), num_cycles=2), (LABELS,)),
    "random_triplets": (lambda n: alignment.random_triplets(n + 5, key(), per_video=2), (LABELS,)),
    "speed_clips": (lambda n: alignment.speed_clips(n, 3, key()), (LENGTH,)),
    "regular_speed_clips": (lambda n: alignment.regular_speed_clips(n, 3, key()), (LENGTH,)),
    "frames_without_portions": (lambda n: alignment.frames_without_portions(n, 3, key()), (LENGTH,)),
}
NO_ARRAYS = {"anchor_pairs", "all_pairs"}
FIRST = ("dtw", "dtw_path", "gta_loss", "tcc_loss")


def test_all_functions_are_walked():
    functions = {name for name in alignment.__all__ if not isinstance(getattr(alignment, name), type)}
    assert functions == {name for name in JOBS if " " not in name} | NO_ARRAYS


def run(name, way):
    function, arrays = JOBS[name]
    if way == "under_equinox":
        pytest.importorskip("equinox")
    everywhere.assert_same(everywhere.WAYS[way](function, arrays), function(*arrays))


@pytest.mark.parametrize("way", ["in_shard_map", "on_an_explicit_mesh", "strict_types"])
@pytest.mark.parametrize("name", FIRST)
def test_central_functions_run_everywhere(name, way):
    run(name, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", everywhere.WAYS)
@pytest.mark.parametrize("name", JOBS)
def test_runs_everywhere(name, way):
    run(name, way)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "dtw",
        "dtw_table",
        "dtw in a band",
        "dtw with open ends",
        "soft_dtw_divergence",
        "gta_loss",
        "tcc_loss",
        "tcn_npairs_loss",
        "d3tw_loss",
    ],
)
@pytest.mark.parametrize("way", [None, "in_shard_map", "strict_types", "under_vmap", "under_scan", "with_nan_checks"])
def test_gradients_run_everywhere(name, way):
    function, arrays = JOBS[name]
    want = forth, back = everywhere.value_and_slopes(function, arrays)
    np.testing.assert_allclose(forth, (back * arrays[0]).sum(), rtol=1e-4, atol=1e-5)
    if way is not None:
        slopes = lambda *arrays: everywhere.value_and_slopes(function, arrays)[1]  # noqa: E731
        everywhere.assert_same(everywhere.WAYS[way](slopes, arrays), want[1])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    big = (E * 300).astype(dtype)  # squared norms beyond the range of float16
    for function in (
        lambda x: alignment.tcc_loss(x, mask=MASK),
        lambda x: alignment.tcn_npairs_loss(x, x),
        lambda x: alignment.squared_distance(x[:, :2], x),
        lambda x: alignment.contrastive_cost(x, x, temperature=1000.0),
    ):
        got, want = function(big), function(big.astype(jnp.float32))
        assert got.dtype == jnp.float32
        assert jnp.isfinite(got).all()
        everywhere.assert_same(got, want)


def test_lists_integers_and_masks_of_numbers():
    cost = [[0, 1, 4], [1, 0, 1], [4, 1, 0]]
    want = jnp.float32(cost)
    for function in (alignment.dtw, alignment.dtw_table, alignment.alignment_matrix, alignment.visitation_matrix):
        for given in (cost, np.array(cost), np.array(cost, np.float16)):
            got = function(given, gamma=np.float64(0.1))
            assert got.dtype == jnp.float32
            everywhere.assert_same(got, function(want))
    everywhere.assert_same(alignment.dtw(cost, x_mask=[1, 1, 0]), alignment.dtw(want[:2]))
    everywhere.assert_same(alignment.dtw(cost, x_mask=np.array([1.0, 1.0, 0.0])), alignment.dtw(want[:2]))
    for wrong in (np.array([1.0, 0.5, 0.0]), np.array([1.0, np.nan, 0.0])):
        with pytest.raises(ValueError, match=f"x_mask must be boolean.*got {wrong[1]}"):
            alignment.dtw(cost, x_mask=wrong)
    with pytest.raises(ValueError, match="cost is no array of numbers"):
        alignment.dtw([[0, 1], [2]])
    with pytest.raises(ValueError, match="cost must hold real numbers"):
        alignment.dtw(want * 1j)
    for gamma in (np.float32(-1), jnp.float32(jnp.nan), np.inf):
        with pytest.raises(ValueError, match="gamma must be 0 or more"):
            alignment.dtw(cost, gamma=gamma)


def test_nan_in_a_real_frame_is_refused_or_seen():
    broken = E.at[1, 1, 0].set(jnp.nan)
    for name in ("gta_loss", "tcc_loss", "tcn_npairs_loss", "clip_features"):
        function, (_, mask) = JOBS[name]
        with pytest.raises(ValueError, match=r"\[1, 1, 0\] is NaN"):
            function(broken, mask)
        assert jnp.isnan(jax.jit(function)(broken, mask)).any()
        everywhere.assert_same(function(E.at[1, 3].set(jnp.nan), mask), function(E, mask))


def test_empty_items_of_a_batch_are_inert():
    mask = jnp.array([[True] * 4, [False] * 4, [True, True, True, False]])
    three = jnp.concatenate([E, E[:1] + 0.3])
    jobs = {
        "gta_loss": lambda x: alignment.gta_loss(x, mask=mask, pairs=alignment.all_pairs, both_ways=True),
        "tcn_npairs_loss": lambda x: alignment.tcn_npairs_loss(x, 2 * x, mask=mask),
        "d3tw_loss": lambda x: alignment.d3tw_loss(x, x + 1, -x, x_mask=mask, positive_mask=mask, negative_mask=mask),
        "clip_features": lambda x: alignment.clip_features(x, mask=mask),
    }
    for name, function in jobs.items():
        function = jax.jit(function)
        gradient = jax.jit(jax.grad(lambda x, function=function: function(x).sum()))
        assert jnp.isfinite(gradient(three)).all(), name
        for filled in (three, three.at[1].set(jnp.nan)):
            everywhere.assert_same(function(filled), function(three))
            everywhere.assert_same(gradient(filled)[1], jnp.zeros_like(E[0]))
            everywhere.assert_same(gradient(filled), gradient(three))
    losses = jobs["gta_loss"](three)
    np.testing.assert_array_equal(losses != 0, [False, True, False])
    alone = alignment.gta_loss(three[::2], mask=mask[::2], both_ways=True)
    everywhere.assert_same(losses[1:2], alone)


def test_export_with_symbolic_sizes():
    shapes = jax.export.symbolic_shape("b, n, m")
    mask = jax.ShapeDtypeStruct(shapes[:2], jnp.bool_)
    run = jax.export.export(jax.jit(lambda c, x: alignment.dtw(c, x_mask=x)))(
        jax.ShapeDtypeStruct(shapes, jnp.float32), mask
    )
    everywhere.assert_same(run.call(COST, MASK), alignment.dtw(COST, x_mask=MASK))
