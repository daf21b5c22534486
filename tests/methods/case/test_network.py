from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.methods.case import CaseNet, CaseSettings, HeadSettings
from casejax.methods.case.head import make_head, project_prototypes


def build(dims, num_classes=3, num_clusters=4, *, hidden=8, encoder_dtype="float32", projected=True):
    """CASE with its head; without clusters if there are 0."""
    head = make_head(HeadSettings(num_clusters=num_clusters, projected=projected)) if num_clusters else None
    settings = CaseSettings(hidden=hidden, encoder_dtype=encoder_dtype)
    return CaseNet(dims, num_classes, settings=settings, head=head, rngs=nnx.Rngs(0))


def network(*args, seed=0, **keywords):
    """The network with weights drawn by NumPy, for which nothing is compiled."""
    rng = np.random.default_rng(seed)
    graphdef, params = nnx.split(nnx.eval_shape(partial(build, *args, **keywords)), nnx.Param)
    return nnx.merge(
        graphdef, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / x.shape[0] ** 0.5, x.dtype), params)
    )


def count(model):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_parameter_count_is_that_of_table_1():
    for num_clusters, want in ((16, 2_137_130), (0, 2_120_746)):
        assert count(nnx.eval_shape(partial(build, (1024, 1024), 20, num_clusters, hidden=512))) == want


def test_without_a_head_there_are_no_clusters():
    model, bare = nnx.eval_shape(lambda: build((6, 4))), nnx.eval_shape(lambda: build((6, 4), num_clusters=0))
    assert nnx.eval_shape(lambda m: m([jnp.zeros((2, 5, d)) for d in (6, 4)]), bare).cluster_logits == ()
    assert bare.embedding_dims == model.embedding_dims == (8, 8)
    assert not hasattr(bare.streams[0], "clusters")


@pytest.mark.parametrize("dims", [(6,), (6, 4), (3, 3, 5)])
def test_any_number_of_streams_of_any_width(dims):
    out = nnx.eval_shape(lambda: build(dims)([jnp.zeros((2, 5, d)) for d in dims]))
    shapes = jax.tree.map(jnp.shape, out)
    assert shapes.cas == ((2, 5, 3),) * len(dims)
    assert shapes.attention == ((2, 5),) * len(dims)
    assert shapes.embedding == ((2, 5, 8),) * len(dims)
    assert shapes.cluster_logits == ((2, 5, 4),) * len(dims)


def test_forward_is_the_written_out_network(rng):
    model = network((6,), seed=1)
    x = rng.normal(size=(2, 5, 6)).astype(np.float32)
    out, stream = model([jnp.asarray(x)]), model.streams[0]

    def dense(layer, x):
        return x @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    embedding = np.maximum(dense(stream.embedding_encoder, x), 0)
    cas = dense(stream.classifier, np.maximum(dense(stream.class_encoder, x), 0))
    attention = 1 / (1 + np.exp(-dense(stream.attention, embedding)[..., 0]))
    directions = np.asarray(stream.clusters.directions[...])
    cosine = (
        embedding @ directions.T / np.linalg.norm(embedding, axis=2, keepdims=True) / np.linalg.norm(directions, axis=1)
    )
    for got, want in zip(
        (out.cas, out.attention, out.embedding, out.cluster_logits),
        (cas, attention, embedding, 10 * cosine),
        strict=True,
    ):
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


def test_padding_is_inert(rng):
    model = network((6,))
    x = rng.normal(size=(1, 7, 6)).astype(np.float32)
    mask = np.arange(7)[None] < 5
    spoiled = np.where(mask[:, :, None], x, np.nan)

    @nnx.jit
    def both(model, x, spoiled, mask):
        return model([x[:, :5]]), model([spoiled], mask=mask)

    cropped, padded = jax.device_get(both(model, x, spoiled, mask))
    for got, want in zip(jax.tree.leaves(padded), jax.tree.leaves(cropped), strict=True):
        np.testing.assert_allclose(got[:, :5], want, rtol=1e-5, atol=1e-6)
        assert np.isfinite(got).all()


def test_repeated_snippets_may_be_given_once(rng):
    model = network((6, 4))
    distinct = [rng.normal(size=(7, d)).astype(np.float32) for d in (6, 4)]
    rows = np.asarray([[0, 0, 1, 2, 2], [3, 4, 4, 4, 6]], np.int32)  # row 5 stands nowhere

    @nnx.jit
    def both(model, distinct, rows):
        return model(distinct, rows=rows), model([x[rows] for x in distinct])

    got, want = jax.device_get(both(model, distinct, rows))
    assert got.embedding[0].shape == (7, 8)
    got = got._replace(embedding=tuple(e[rows] for e in got.embedding), rows=None)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_does_not_go_with_rows_is_refused():
    model = network((6,))
    rows = jnp.zeros((2, 5), jnp.int32)
    with pytest.raises(ValueError, match=r"\(2, 5, 6\)"):
        model([jnp.ones((2, 5, 6))], rows=rows)
    with pytest.raises(ValueError, match=r"\(7, 6\)"):
        model([jnp.ones((7, 6))])
    with pytest.raises(ValueError, match="exclude each other"):
        model([jnp.ones((7, 6))], mask=jnp.ones((2, 5), bool), rows=rows)


def test_projection_touches_only_cluster_directions():
    _, params = nnx.split(network((6, 4)), nnx.Param)
    projected = project_prototypes(params)
    for (path, before), after in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(projected), strict=True
    ):
        if "directions" in jax.tree_util.keystr(path):
            np.testing.assert_allclose(jnp.linalg.norm(after, axis=1), 1, rtol=1e-6)
            assert float(jnp.abs(before - after).max()) > 0.1
        else:
            np.testing.assert_array_equal(before, after)


def test_gradient_of_the_norm(rng):
    """Differentiated, directions get no radial gradient; projected, they do, as in the published program."""
    splits = [nnx.split(network((6,), projected=projected), nnx.Param) for projected in (True, False)]
    x = [jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32)]

    @jax.jit
    def gradients(params):
        def squares(p, graphdef):
            return (nnx.merge(graphdef, p)(x).cluster_logits[0] ** 2).sum()

        return [jax.grad(squares)(params, graphdef) for graphdef, _ in splits]

    params = splits[0][1]
    directions = np.asarray(params["streams"][0]["clusters"]["directions"][...])
    for gradient, projected in zip(gradients(params), (True, False), strict=True):
        radial = (np.asarray(gradient["streams"][0]["clusters"]["directions"][...]) * directions).sum(axis=1)
        assert (np.abs(radial).max() > 1e-2) == projected


def test_bfloat16_encoders_stay_close_to_float32(rng):
    x = [jnp.asarray(rng.random((2, 50, 64)), jnp.float32)]
    models = [network((64,), hidden=32, encoder_dtype=dtype) for dtype in ("float32", "bfloat16")]
    full, half = jax.device_get(nnx.jit(lambda models: [m(x) for m in models])(models))
    for a, b in zip(jax.tree.leaves(full), jax.tree.leaves(half), strict=True):
        assert b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.15)
    assert np.abs(full.embedding[0] - half.embedding[0]).max() > 0


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="counts of at least 1, got dims=\\(6,\\), num_classes=0"):
        network((6,), 0)
    with pytest.raises(ValueError, match="at least one stream"):
        network(())
    with pytest.raises(ValueError, match="has 1 streams, got 2 feature arrays"):
        network((6,))([jnp.zeros((1, 2, 6))] * 2)
    with pytest.raises(ValueError, match="num_clusters must be at least 1, got 0"):
        make_head(HeadSettings(num_clusters=0))(8, nnx.Rngs(0))
