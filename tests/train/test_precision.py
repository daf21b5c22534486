"""bfloat16 encoders: how far they are from float32, and that nothing else becomes bfloat16."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.data.synthetic import make_world
from casejax.methods import Step
from casejax.methods.case import CaseNet, CaseSettings
from casejax.run import state
from casejax.run.config import Config
from casejax.runtime import mesh
from casejax.train import feed, step

UNIT = 2.0**-8  # unit roundoff of bfloat16, whose significand has 8 bits
CONFIG = Config.of("case").changed(num_clusters=4, hidden=16, num_snippets=32, batch_size=8, learning_rate=1e-3)
CONFIG = CONFIG.changed(rank="true", prior_std=0.3)
HALF = CONFIG.changed(encoder_dtype="bfloat16")


def one_stream(world):
    """A step with one stream compiles in half the time of one with two."""
    first = {
        name: replace(split, features=replace(split.features, streams=split.features.streams[:1]))
        for name, split in (("train", world.train), ("test", world.test))
    }
    return replace(world, streams=world.streams[:1], **first)


@pytest.fixture(scope="module")
def world():
    return one_stream(make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400))


def network(dtype, *, dim, hidden=64):
    return CaseNet((dim,), 3, settings=CaseSettings(hidden=hidden, encoder_dtype=dtype), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("dim", [16, 1024])
def test_encoder_outputs_keep_the_documented_tolerance(rng, dim):
    # Features as they come: not negative. The tolerance does not grow with their dimension.
    x = np.maximum(rng.normal(size=(2, 100, dim)), 0).astype(np.float32)
    full, half = (network(dtype, dim=dim) for dtype in ("float32", "bfloat16"))
    encoder = full.streams[0].embedding_encoder
    kernel, bias = (np.float64(p[...]) for p in (encoder.kernel, encoder.bias))
    exact = np.maximum(x.astype(np.float64) @ kernel + bias, 0)
    got = np.float64(half([jnp.asarray(x)]).embedding[0])

    error = got - exact
    relative = np.sqrt((error**2).mean() / (exact**2).mean())
    assert UNIT / 10 < relative < UNIT
    # Each factor, the product's sum, the bias and the result are rounded once; float32 adds up the products.
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(kernel) + np.abs(bias)
    assert (np.abs(error) <= 2.1 * UNIT * magnitude + 2.1 * UNIT * np.abs(exact)).all()
    np.testing.assert_allclose(full([jnp.asarray(x)]).embedding[0], exact, atol=1e-5)


def products(function, *arguments):
    """Matrix products of a function's program: those with a bfloat16 operand, and all."""
    program = jax.jit(function).lower(*arguments).as_text()
    operands = re.findall(r"stablehlo\.dot_general .* : \((.*)\) ->", program)
    return sum("bf16" in types for types in operands), len(operands)


def loss_and_gradient(config, dims, num_classes):
    graphdef, start = state.initial_state(config, dims, num_classes)
    features = [jnp.ones((8, config.schedule.num_snippets, dim)) for dim in dims]
    labels = jnp.eye(num_classes)[jnp.arange(8) % num_classes]

    def loss_of(params):
        outputs = nnx.merge(graphdef, params)(features)
        now = Step(cluster_labels=start.cluster_labels)
        loss = config.method.loss(outputs, labels, now, settings=config.settings)
        return loss.value, loss.terms

    return jax.value_and_grad(loss_of, has_aux=True), start.params


def test_only_the_products_of_the_encoders_are_bfloat16():
    (none, all_products), (narrow, same) = (
        products(*loss_and_gradient(config, (24, 24), 4)) for config in (CONFIG, HALF)
    )
    assert none == 0
    assert narrow == 8  # two streams of two encoders, each forward and for the gradient of its kernel
    assert same == all_products > narrow


def test_labels_losses_and_gradients_are_float32():
    program, params = loss_and_gradient(HALF, (24, 24), 4)
    (loss, aux), gradient = jax.eval_shape(program, params)
    for leaf in jax.tree.leaves((loss, aux, gradient)):
        assert leaf.dtype == jnp.float32


def test_the_state_stays_float32(world):
    one = mesh.make_mesh(1)
    graphdef, start = state.initial_state(HALF, world.dims, len(world.classes))
    split = feed.pack(world.train, world.classes, one)
    new, metrics = jax.eval_shape(step.make_train_steps(graphdef, HALF, one), start, split, jnp.int32(2))
    before = jax.tree.map(lambda leaf: leaf.dtype, start)
    assert jax.tree.map(lambda leaf: leaf.dtype, new) == before
    floats = [leaf.dtype for leaf in jax.tree.leaves((new, metrics)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert set(floats) == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_losses_of_the_first_steps_stay_close(world):
    one = mesh.make_mesh(1)
    terms = ("loss", "loss_video", "loss_attention", "loss_snippet", "loss_cluster")
    curves = []
    for config in (CONFIG, HALF):
        graphdef, now = state.initial_state(config, world.dims, len(world.classes))
        now = mesh.place(now, mesh.state_shardings(now, one, config.method.split))
        split = feed.pack(world.train, world.classes, one)
        train_steps = step.make_train_steps(graphdef, config, one, compact=False)
        for _ in range(6):
            now, metrics = train_steps(now, split, jnp.int32(1))
            curves.append([float(metrics[name]) for name in terms])
    full, half = np.array(curves).reshape(2, 6, len(terms))
    assert (full != half).any()
    np.testing.assert_allclose(half[:, 0], full[:, 0], rtol=UNIT)
    # A snippet at the edge of the top k may be another one, which a single term feels more than their sum.
    np.testing.assert_allclose(half, full, rtol=4 * UNIT)
