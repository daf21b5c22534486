import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from casejax.alignment import dtw, soft_dtw_barycenter, soft_dtw_divergence, squared_distance


def plain_soft_dtw(x, y, gamma):
    table = np.full((len(x) + 1, len(y) + 1), np.inf)
    table[0, 0] = 0
    for i, j in np.ndindex(len(x), len(y)):
        before = np.array([table[i, j], table[i, j + 1], table[i + 1, j]])
        soft = -gamma * logsumexp(-before / gamma) if gamma else before.min()
        table[i + 1, j + 1] = ((x[i] - y[j]) ** 2).sum() + soft
    return table[-1, -1]


def plain_loss(frames, sequences, weights, gamma):
    shares = np.asarray(weights) / np.sum(weights)
    return sum(w * plain_soft_dtw(frames, y, gamma) / len(y) for w, y in zip(shares, sequences, strict=True))


def padded(sequences):
    size = max(map(len, sequences))
    mask = np.arange(size) < np.array([len(y) for y in sequences])[:, None]
    filled = [np.pad(y, [(0, size - len(y)), (0, 0)], constant_values=np.nan) for y in sequences]
    return np.stack(filled), mask


@pytest.mark.usefixtures("x64")
def test_divergence(rng):
    xs, ys = ([rng.normal(size=(n, 2)) for n in sizes] for sizes in ((5, 3, 1), (4, 6, 2)))
    (x, x_mask), (y, y_mask) = padded(xs), padded(ys)
    got = soft_dtw_divergence(x, y, x_mask=x_mask, y_mask=y_mask, gamma=0.7)
    want = [
        plain_soft_dtw(a, b, 0.7) - (plain_soft_dtw(a, a, 0.7) + plain_soft_dtw(b, b, 0.7)) / 2
        for a, b in zip(xs, ys, strict=True)
    ]
    np.testing.assert_allclose(got, want, rtol=1e-9)
    np.testing.assert_allclose(soft_dtw_divergence(xs[0], xs[0]), 0, atol=1e-12)
    near = soft_dtw_divergence(xs[0], xs[0][[0, 1, 1, 2, 3, 4]], gamma=0)  # as hard DTW, which may dwell on a frame
    np.testing.assert_allclose(near, 0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_divergence_is_least_between_equals(rng):
    x = rng.normal(size=(2000, 6, 2)) * 10 ** rng.uniform(-2, 1, size=(2000, 1, 1))
    y = np.where(rng.random((2000, 1, 1)) < 0.5, x + 0.1 * rng.normal(size=x.shape), rng.normal(size=x.shape))
    value, slope = jax.jit(jax.value_and_grad(lambda a, b: soft_dtw_divergence(a, b, gamma=1.0).min()))(x, y)
    assert value > 0
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(jax.grad(lambda a: soft_dtw_divergence(a, x, gamma=1.0).sum())(x), 0, atol=1e-9)
    assert (dtw(squared_distance(x, x), gamma=1.0) < 0).any()  # of which soft-DTW alone is far


@pytest.mark.usefixtures("x64")
def test_slopes_of_the_divergence(rng):
    x, y, along, step = rng.normal(size=(5, 2)), rng.normal(size=(4, 2)), rng.normal(size=(5, 2)), 1e-6
    run = jax.jit(lambda x, g: soft_dtw_divergence(x, y, gamma=g, band=2))
    of_x, of_gamma = jax.grad(run, argnums=(0, 1))(x, 0.5)
    up, down = (run(x + e * along, 0.5 + e) for e in (step, -step))
    np.testing.assert_allclose((of_x * along).sum() + of_gamma, (up - down) / (2 * step), rtol=1e-7)


def test_an_empty_sequence_has_no_divergence(rng):
    x, mask = rng.normal(size=(2, 4, 3)).astype(np.float32), np.array([[True] * 4, [False] * 4])
    value, slope = jax.jit(jax.value_and_grad(lambda x: soft_dtw_divergence(x, x + 1, x_mask=mask).sum()))(x)
    assert value == pytest.approx(float(soft_dtw_divergence(x[0], x[0] + 1)), rel=1e-5)
    assert not slope[1].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_barycenter_goes_down_to_where_the_slope_is_0(rng, gamma):
    ys = [rng.normal(size=(n, 2)).cumsum(axis=0) for n in (6, 4, 5)]
    y, mask = padded(ys)
    weights = [1.0, 2.0, 0.5]
    found = soft_dtw_barycenter(y, mask=mask, weights=weights, length=5, gamma=gamma, num_steps=400)
    losses = np.asarray(found.losses)
    assert found.frames.shape == (5, 2)
    assert losses.shape == (401,)
    assert np.diff(losses).max() < 1e-12
    np.testing.assert_allclose(losses[-1], plain_loss(found.frames, ys, weights, gamma), rtol=1e-10)
    start = np.asarray(soft_dtw_barycenter(y, mask=mask, weights=weights, length=5, num_steps=0).frames)
    stretched = [
        np.stack([np.interp(np.linspace(0, len(s) - 1, 5), np.arange(len(s)), c) for c in s.T], axis=-1) for s in ys
    ]
    np.testing.assert_allclose(start, np.average(stretched, axis=0, weights=weights), rtol=1e-12)
    assert losses[-1] < losses[0] - 0.01
    if gamma:
        for along in rng.normal(size=(3, 5, 2)):
            up, down = (plain_loss(found.frames + e * along, ys, weights, gamma) for e in (1e-5, -1e-5))
            assert abs(up - down) / 2e-5 < 1e-5


@pytest.mark.usefixtures("x64")
def test_barycenter_of_the_documentation_of_tslearn():
    """Their L-BFGS stops after 5 iterations, near ours."""
    y = np.array([[1, 2, 3, 4], [1, 2, 4, 5]])[..., None]
    theirs = np.array([1.25161574, 2.03821705, 3.5101956, 4.36140605])[:, None]
    ours = soft_dtw_barycenter(y.astype(float), num_steps=300)
    np.testing.assert_allclose(ours.frames, theirs, atol=2e-2)
    loss = plain_loss(theirs, list(y), [1, 1], 1.0)
    assert loss - 1e-3 < float(ours.losses[-1]) <= loss


def test_barycenter_of_equals_and_of_nothing(rng):
    y = rng.normal(size=(6, 2)).astype(np.float32)
    both = np.stack([y, np.full_like(y, np.nan)])
    mask = np.array([[True] * 6, [False] * 6])
    found = jax.jit(lambda y, m: soft_dtw_barycenter(y, mask=m, gamma=1e-3, num_steps=3))(both, mask)
    np.testing.assert_allclose(found.frames, y, atol=1e-4)
    slope = jax.grad(lambda y: soft_dtw_barycenter(y, mask=jnp.asarray(mask), gamma=0.1).losses[-1])(jnp.asarray(both))
    assert np.isfinite(slope).all()


def test_refuses_what_is_wrong(rng):
    y = rng.normal(size=(2, 4, 3)).astype(np.float32)
    for options, said in (
        ({"weights": [1, -1]}, r"weights\[1\] must be 0 or more and finite, got -1"),
        ({"weights": [0, 0]}, "no sequence"),
        ({"length": 0}, "length must be a whole number from 1, got 0"),
        ({"num_steps": -2}, "num_steps must be a whole number from 0, got -2"),
        ({"init": y[0], "length": 4}, "init has its own number of frames"),
        ({"gamma": -1}, "gamma must be 0 or more"),
        ({"mask": np.array([[0, 1, 1, 1], [1, 1, 1, 1]])}, "True after a False"),
    ):
        with pytest.raises(ValueError, match=said):
            soft_dtw_barycenter(y, **options)
    with pytest.raises(ValueError, match=r"sequences\[1, 2, 0\] is NaN"):
        soft_dtw_barycenter(np.where(np.arange(24).reshape(2, 4, 3) == 18, np.nan, y))
