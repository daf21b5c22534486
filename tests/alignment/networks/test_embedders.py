import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from keras_resnet import batch_norm, by_keras_names, fill, relu, resnet_v2

from casejax.alignment.networks.embedders import ConvEmbedder, Head, SequenceEmbedder, VideoEmbedder, l2_penalty
from casejax.alignment.networks.resnet import ResNetV2

MASK = np.array([[True, True, False, True], [True, False, False, True]])
SMALL = {"conv_widths": (5, 6), "fc_widths": (8, 7), "embedding": 3}


def abstract(network, *args, **options):
    return nnx.eval_shape(lambda: network(*args, **options, rngs=nnx.Rngs(0)))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def spoil(x, value):
    return jnp.asarray(np.where(MASK.reshape(*MASK.shape, *(1 for _ in x.shape[2:])), x, value))


def array(variable):
    return np.asarray(variable.get_value(), np.float64)


def conv(x, layer):
    """Convolution over all axes but the first and the last, kernels of 3, zeros around."""
    space = tuple(range(1, x.ndim - 1))
    x = np.pad(x, [(0, 0), *((1, 1) for _ in space), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, [3] * len(space), space)
    windows = np.moveaxis(windows, x.ndim - 1, -1)  # (N, *places, *kernel, C)
    kernel = array(layer.kernel).reshape(*windows.shape[len(space) + 1 :], -1)
    return np.tensordot(windows, kernel, len(space) + 1) + array(layer.bias)


def head(x, layer):
    for hidden in layer.hidden:
        x = relu(x @ array(hidden.kernel) + array(hidden.bias))
    x = x @ array(layer.out.kernel) + array(layer.out.bias)
    return x / np.linalg.norm(x, axis=-1, keepdims=True) if layer.unit_norm else x


def layer_norm(x, layer):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    return x * array(layer.scale) + array(layer.bias)


def oracle_conv_embedder(model, frames, moving=None):
    """Feature maps and embeddings of (N, K, H, W, C)."""
    x = frames.astype(np.float64)
    for layer, norm in zip(model.convs, model.norms, strict=True):
        weights = {"gamma": array(norm.scale), "beta": array(norm.bias), "epsilon": 1e-3}
        weights |= {"moving_mean": array(norm.mean), "moving_variance": array(norm.var)}
        x = relu(batch_norm(conv(x, layer), weights, moving))
    return x, head(x.max((1, 2, 3)), model.head)


def oracle_sequence_embedder(model, frames):
    x = frames.astype(np.float64)
    for i, layer in enumerate(model.convs):
        x = conv(x, layer)
        x = relu(x if model.norms is None else layer_norm(x, model.norms[i]))
    return head(x.max(1) if model.flatten_context is None else x.reshape(len(x), -1), model.head)


# The embedder of the paper


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(1).normal(size=(2, 4, 2, 3, 2, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def conv_embedder():
    return fill(abstract(ConvEmbedder, 4, **SMALL, dropout=0.5), np.random.default_rng(0))


@pytest.fixture(scope="module")
def step(conv_embedder):
    """Embeddings, new statistics and gradients with respect to parameters and maps; no dropout without a key."""
    graphdef, params, statistics = nnx.split(conv_embedder, nnx.Param, nnx.BatchStat)

    def loss(params, maps, mask, weights):
        model = nnx.merge(graphdef, params, statistics, copy=True)
        out = model(maps, mask=mask, batch_statistics=True)
        return (out * weights).sum(), (out, nnx.state(model, nnx.BatchStat))

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, 3)), jnp.float32)
    return lambda maps, mask=MASK: compiled(params, maps, jnp.asarray(mask), weights)


def test_the_default_is_the_published_embedder():
    model = abstract(ConvEmbedder, 1024)
    params = nnx.state(model, nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 21_827_712
    maps = jax.ShapeDtypeStruct((1, 2, 2, 14, 14, 1024), jnp.float32)
    out = nnx.eval_shape(lambda model, x: model(x), model, maps)
    assert out.shape == (1, 2, 128)
    assert model.head.dropout.rate == 0.1


def test_conv_embedder_is_the_written_out_network(conv_embedder, maps):
    got = nnx.jit(lambda model, x: (model.feature_map(x), model(x)))(conv_embedder, jnp.asarray(maps))
    want_map, want = oracle_conv_embedder(conv_embedder, maps.reshape(8, *maps.shape[2:]))
    close(got[0], want_map.reshape(2, 4, *want_map.shape[1:]))
    close(got[1], want.reshape(2, 4, -1))
    close(np.linalg.norm(got[1], axis=-1), np.ones((2, 4)))


def test_masked_frames_count_in_no_statistics(conv_embedder, step, maps):
    (value, (out, statistics)), gradients = step(spoil(maps, np.nan))
    moving = []
    close(out[MASK], oracle_conv_embedder(conv_embedder, maps[MASK], moving)[1])
    assert not np.asarray(out)[~MASK].any()
    assert len(moving) == len(statistics["norms"]) == 2
    for i, (mean, var) in enumerate(moving):
        close(array(statistics["norms"][i]["mean"]), mean)
        close(array(statistics["norms"][i]["var"]), var)
    assert not np.asarray(gradients[1])[~MASK].any()
    assert all(np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))

    (again, (_, again_statistics)), again_gradients = step(spoil(maps, 7))
    for a, b in zip(
        jax.tree.leaves((value, statistics, gradients)),
        jax.tree.leaves((again, again_statistics, again_gradients)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)

    (value, (_, statistics)), gradients = step(jnp.full_like(maps, jnp.nan), np.zeros_like(MASK))
    assert float(value) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((statistics, gradients)))


def test_dropout_is_that_of_its_key(conv_embedder):
    pooled = jnp.asarray(np.random.default_rng(0).normal(size=(500, 6)), jnp.float32)
    drop = jax.jit(lambda key: conv_embedder.head(pooled, key))
    a, same, other = drop(jax.random.key(0)), drop(jax.random.key(0)), drop(jax.random.key(1))
    np.testing.assert_array_equal(a, same)
    # An embedding survives unchanged only where nothing at all was dropped, once in 2^14.
    without = np.abs(np.asarray(a) - conv_embedder.head(pooled, None)).max(1) < 1e-5
    assert without.mean() < 0.05
    assert (np.abs(np.asarray(a) - other).max(1) < 1e-5).mean() < 0.05


# The light embedder


@pytest.fixture(scope="module")
def sequence():
    return np.random.default_rng(1).normal(size=(2, 4, 3, 5)).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"flatten_context": 3, "layer_norm": False, "unit_norm": False}])
def test_sequence_embedder_is_the_written_out_network(sequence, options):
    model = fill(abstract(SequenceEmbedder, 5, **SMALL, **options), np.random.default_rng(0))
    graphdef, params = nnx.split(model)

    def loss(params, x):
        out = nnx.merge(graphdef, params)(x, mask=jnp.asarray(MASK))
        return (out @ jnp.arange(3.0)).sum(), out

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, out), gradients = step(params, spoil(sequence, np.nan))
    close(out[MASK], oracle_sequence_embedder(model, sequence[MASK]))
    assert not np.asarray(out)[~MASK].any()
    assert not np.asarray(gradients[1])[~MASK].any()
    assert all(np.isfinite(leaf).all() and np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(step(params, spoil(sequence, 7))[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sequence_embedder_keeps_state_of_none():
    assert not jax.tree.leaves(nnx.state(abstract(SequenceEmbedder, 5), nnx.BatchStat))


def test_an_embedding_of_zero_has_a_finite_gradient():
    head = fill(abstract(Head, 2, (), 2, dropout=0.0, unit_norm=True), np.random.default_rng(0))
    head.out.bias.set_value(jnp.zeros(2))
    gradient = jax.jit(jax.grad(lambda x: head(x, None).sum()))(jnp.zeros((1, 2)))
    assert bool(jnp.isfinite(gradient).all())


# With a backbone


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_stays_as_it_is(frozen):
    def make():
        backbone = ResNetV2(depths=(1,), width=2, rngs=nnx.Rngs(0))
        embedder = ConvEmbedder(8, conv_widths=(3,), fc_widths=(), embedding=3, rngs=nnx.Rngs(1))
        return VideoEmbedder(backbone, embedder, frozen=frozen)

    model = fill(nnx.eval_shape(make), np.random.default_rng(0))
    graphdef, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 2, 8, 8, 3)).astype(np.float32)

    def loss(params, images):
        model = nnx.merge(graphdef, params, statistics, copy=True)
        out = model(images, mask=jnp.asarray(MASK), batch_statistics=True)
        return (out @ jnp.arange(3.0)).sum(), (out, nnx.state(model, nnx.BatchStat))

    (_, (out, moved)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, spoil(images, np.nan))
    assert bool(jnp.isfinite(out).all())

    def changed(a, b):
        return not all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert changed(statistics["embedder"], moved["embedder"])
    assert changed(statistics["backbone"], moved["backbone"]) == (not frozen)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient["backbone"])) == (not frozen)
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient["embedder"]))

    if frozen:
        maps = resnet_v2(by_keras_names(model.backbone), images[MASK].reshape(-1, 8, 8, 3), (1,))
        want = oracle_conv_embedder(model.embedder, maps.reshape(-1, 2, 2, 2, 8), [])[1]
        close(out[MASK], want)


def test_l2_penalty_is_the_mean_over_tensors(conv_embedder):
    params = nnx.state(conv_embedder, nnx.Param)
    layers = [*conv_embedder.convs, *conv_embedder.head.hidden, conv_embedder.head.out]
    terms = [(array(v) ** 2).sum() for layer in layers for v in (layer.kernel, layer.bias)]
    assert len(terms) == 10
    both = {"backbone": {"kernel": jnp.ones(3)}, "embedder": params}
    np.testing.assert_allclose(jax.jit(l2_penalty)(both), np.mean(terms), rtol=1e-5)
    with pytest.raises(ValueError, match="no weight of an embedder"):
        l2_penalty({"backbone": jnp.ones(3)})


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (ConvEmbedder, {"conv_widths": ()}, "at least one convolution"),
        (ConvEmbedder, {"fc_widths": (0,)}, r"fc_widths=\(0,\)"),
        (SequenceEmbedder, {"embedding": 0}, "embedding=0"),
        (SequenceEmbedder, {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        (SequenceEmbedder, {"flatten_context": 0}, "flatten_context must be"),
    ],
)
def test_networks_that_cannot_be_are_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        abstract(network, 4, **options)


def test_what_does_not_fit_is_refused():
    model = abstract(SequenceEmbedder, 5, flatten_context=3)
    with pytest.raises(ValueError, match="made for 3 context frames"):
        model(jnp.zeros((1, 1, 2, 5)))
    backbone, embedder = abstract(ResNetV2, depths=(1,), width=2), abstract(ConvEmbedder, 9)
    with pytest.raises(ValueError, match="makes 8 channels, the embedder takes 9"):
        VideoEmbedder(backbone, embedder)
