"""GTA: the published loss and its gradients, a plain oracle, masks, and the ways around the published traps."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.alignment import gta
from casejax.alignment.soft_min import hard_min, min_gamma, smooth_min

MINIMUMS = {"dtw_prob": smooth_min, "dtw_minGamma": min_gamma, "non-diff": hard_min}


@partial(jax.jit, static_argnames=("minimum", "skip", "with_single"))
def losses_and_gradient(embeddings, *, with_single=False, **options):
    """Mean loss of a batch, that with the paper's consistency if asked for, and the gradient of the first.

    Options that are numbers don't need a compilation each.
    """

    def loss(e):
        if not with_single:
            return gta.gta_loss(e, **options).mean(), 0.0
        more = []

        def consistency(*cycle, mask):
            """The published one, and beside it, on the same tables, what the paper's has more."""
            published = gta.cycle_cross_entropy_published(*cycle, mask=mask)
            more.append(gta.cycle_cross_entropy(*cycle, mask=mask) - published)
            return published

        losses = gta.gta_loss(e, **options, consistency=consistency)
        return losses.mean(), (losses + options["consistency_weight"] * more[0]).mean()

    (published, single), gradient = jax.value_and_grad(loss, has_aux=True)(embeddings)
    return published, single, gradient


def variants(golden):
    """Every golden case: its name, its embeddings, the options of our loss, and its arrays."""
    arrays, notes = golden.arrays("gta/gta_loss"), golden.notes("gta/gta_loss")
    for name in notes["results"]:
        data, variant = name.strip("/").split("/")
        published = notes["variants"][variant]
        only_alignment = published["AL_TYPE"] == "D2TW"
        options = {
            "minimum": MINIMUMS[published["kind"]],
            "gamma": published["gamma_s"],
            "temperature": published["gamma_f"],
            "label_smoothing": published["label_smoothing"],
            "skip": published["skip"],
            "alignment_weight": 1.0 if only_alignment else 0.1,
            "reverse_weight": 0.0 if only_alignment else 0.1,
            "consistency_weight": 1.0 if published["REVCONS"] and not only_alignment else 0.0,
        }
        yield name, arrays[f"{data}/E"], options, {k: arrays[name + k] for k in ("loss", "f64_loss", "f64_grad")}


def test_published_loss_and_gradient(golden):
    for name, embeddings, options, want in variants(golden):
        loss, _, gradient = losses_and_gradient(jnp.float32(embeddings), **options)
        np.testing.assert_allclose(loss, want["loss"], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(gradient, want["f64_grad"], atol=2e-5 * abs(want["f64_grad"]).max(), err_msg=name)


def test_both_consistencies_in_float64(golden, x64):
    """On the shortest sequences alone: what takes time is to compile each length."""
    cases = list(variants(golden))
    shortest = min(embeddings.shape[1] for _, embeddings, _, _ in cases)
    arrays, checked = golden.arrays("gta/gta_loss"), 0
    for name, embeddings, options, want in cases:
        if embeddings.shape[1] > shortest:
            continue
        loss, single, gradient = losses_and_gradient(jnp.float64(embeddings), with_single=True, **options)
        np.testing.assert_allclose(loss, want["f64_loss"], rtol=1e-10, err_msg=name)
        # the golden gradient was stored in float32
        np.testing.assert_allclose(gradient, want["f64_grad"], atol=2e-6 * abs(want["f64_grad"]).max(), err_msg=name)
        if name + "single_softmax_loss_f64" in arrays:
            np.testing.assert_allclose(single, arrays[name + "single_softmax_loss_f64"], rtol=1e-10, err_msg=name)
            checked += 1
    assert checked


def unit(rng, *shape):
    values = rng.standard_normal(shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def plain_parts(x, y, *, gamma, temperature, smoothing):
    """The three losses of a pair, cell by cell in float64, with the paper's cross-entropy."""

    def cost(a, b):
        scores = a @ b.T / temperature
        return np.log(np.exp(scores).sum(0)) - scores

    def table(c):
        r = np.full((c.shape[0] + 1, c.shape[1] + 1), np.inf)
        r[0, 0] = 0
        for i in range(c.shape[0]):
            for j in range(c.shape[1]):
                before = np.array([v for v in (r[i + 1, j], r[i, j], r[i, j + 1]) if np.isfinite(v)])
                p = np.exp(-(before - before.min()) / gamma)
                r[i + 1, j + 1] = c[i, j] + (p / p.sum()) @ before
        return r[1:, 1:]

    def softmax(r):
        return np.exp(-r) / np.exp(-r).sum(0)

    forth, back = table(cost(x, y)), table(cost(y, x))
    cycle = (softmax(forth) @ softmax(back)).T
    targets = (1 - smoothing) * np.eye(len(x)) + smoothing / len(x)
    return forth[-1, -1], back[-1, -1], -(targets * np.log(cycle)).sum(1).mean()


def test_pair_losses_match_a_plain_program(rng, x64):
    x, y = jnp.float64(unit(rng, 6, 5)), jnp.float64(unit(rng, 8, 5))
    loss = jax.jit(partial(gta.pair_losses, consistency=gta.cycle_cross_entropy))
    got = loss(x, y, gamma=0.3, temperature=0.4, label_smoothing=0.2)
    want = plain_parts(np.asarray(x), np.asarray(y), gamma=0.3, temperature=0.4, smoothing=0.2)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_columns_of_the_cost_are_distributions(rng):
    x, y = jnp.float32(unit(rng, 6, 5)), jnp.float32(unit(rng, 8, 5))
    cost = gta.contrastive_cost(x, y, temperature=0.01)
    assert (cost >= 0).all()
    np.testing.assert_allclose(jnp.exp(-cost).sum(axis=0), np.ones(8), rtol=1e-5)


def test_padding_is_inert_and_equals_cropping(rng):
    loss = partial(gta.pair_losses, both_ways=True)  # its consistency goes through both of ours
    x, y = jnp.float32(unit(rng, 6, 5)), jnp.float32(unit(rng, 8, 5))
    x_mask, y_mask = jnp.arange(6) < 4, jnp.arange(8) < 7

    @jax.jit
    def padded(x, y):
        def total(x, y):
            parts = loss(x, y, x_mask=x_mask, y_mask=y_mask)
            return sum(part.sum() for part in parts), parts

        (_, parts), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(x, y)
        return parts, grads

    parts, grads = padded(x, y)
    np.testing.assert_allclose(parts, jax.jit(loss)(x[:4], y[:7]), rtol=2e-6)
    assert not grads[0][4:].any()
    assert not grads[1][7:].any()
    assert all(np.isfinite(grad).all() and grad.any() for grad in grads)
    other_parts, other_grads = padded(x.at[4:].set(1e4), y.at[7:].set(jnp.nan))
    np.testing.assert_array_equal(parts, other_parts)
    np.testing.assert_array_equal(grads[0], other_grads[0])
    np.testing.assert_array_equal(grads[1], other_grads[1])


def test_finite_where_the_published_program_is_not(rng):
    """Aligned sequences at a small temperature give it infinite costs, hence a table and gradients of NaN."""
    x = jnp.float32(unit(rng, 20, 16))
    embeddings = jnp.stack([x, x, -x])

    @jax.jit
    @jax.value_and_grad
    def loss(e):
        return gta.gta_loss(e, temperature=0.005, gamma=0.01, consistency=gta.cycle_cross_entropy).mean()

    value, grad = loss(embeddings)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_the_published_consistency_has_a_floor():
    """Even a perfect cycle costs log(e + N - 1) - (1 - s + s / N)."""
    n, smoothing = 10, 0.1
    targets = (1 - smoothing) * jnp.eye(n) + smoothing / n
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    perfect = jnp.where(jnp.eye(n, dtype=bool), 0.0, -1e9)
    floor = np.log(np.e + n - 1) - (1 - smoothing + smoothing / n)
    np.testing.assert_allclose(gta.cycle_cross_entropy_published(perfect, targets), floor, rtol=1e-6)


def test_pairs_of_a_batch(rng):
    np.testing.assert_array_equal(gta.anchor_pairs(4), [[0, 1], [0, 2], [0, 3]])
    np.testing.assert_array_equal(gta.all_pairs(3), [[0, 1], [0, 2], [1, 2]])
    embeddings = jnp.float32(unit(rng, 3, 6, 5))
    anchored = jax.jit(gta.gta_loss)
    losses = anchored(embeddings)
    np.testing.assert_allclose(anchored(embeddings[jnp.array([0, 2, 1])])[::-1], losses, rtol=1e-6)
    every = jax.jit(partial(gta.gta_loss, pairs=gta.all_pairs))(embeddings)
    np.testing.assert_allclose(every[:2], losses, rtol=1e-6)
    np.testing.assert_allclose(every[2], anchored(embeddings[jnp.array([1, 2, 0])])[0], rtol=1e-6)


def test_bad_options_are_refused(rng):
    embeddings = jnp.float32(unit(rng, 2, 4, 3))
    with pytest.raises(ValueError, match="two videos or more, got a batch of 1"):
        gta.gta_loss(embeddings[:1])
    with pytest.raises(ValueError, match="skip must be 1 or more, got 0"):
        gta.gta_loss(embeddings, skip=0)
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\], got 1.5"):
        gta.gta_loss(embeddings, label_smoothing=1.5)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        gta.contrastive_cost(embeddings, embeddings, temperature=0)
    with pytest.raises(ValueError, match="N, M >= 1, got shape"):
        gta.gta_loss(embeddings[:, :0])
    with pytest.raises(ValueError, match="x_mask has a True after a False; move the real frames to the front"):
        gta.gta_loss(embeddings, mask=jnp.array([[True, False, True, True], [True, True, True, True]]))
    with pytest.raises(ValueError, match="gamma"):
        gta.gta_loss(embeddings, gamma=-0.1)


def test_a_single_frame_is_aligned_with_all(rng):
    """Every frame of the other video matches the only one there is, at no cost of choice."""
    x, y = jnp.float32(unit(rng, 1, 3)), jnp.float32(unit(rng, 4, 3))
    parts = jax.jit(gta.pair_losses)(x, y)
    np.testing.assert_allclose(parts.alignment, 0, atol=1e-6)
    np.testing.assert_allclose(parts.consistency, 0, atol=1e-6)
    assert parts.reverse > 0


@pytest.mark.parametrize("form", [gta.cycle_cross_entropy, gta.cycle_cross_entropy_published])
def test_what_stands_in_padded_columns_of_targets_changes_nothing(form):
    rng = np.random.default_rng(0)
    log_cycle, targets = np.log(rng.random((2, 4, 4))).astype(np.float32), rng.random((2, 4, 4)).astype(np.float32)
    mask = np.array([[True] * 4, [True, True, False, False]])
    cut = np.where(mask[:, None], targets, 0).astype(np.float32)
    got, want = form(log_cycle, targets, mask=mask), form(log_cycle, cut, mask=mask)
    np.testing.assert_array_equal(got, want)
    assert np.isfinite(got).all()
