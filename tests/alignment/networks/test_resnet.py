import jax
import jax.numpy as jnp
import keras_resnet
import numpy as np
import optax
import pytest
from flax import nnx

from casejax.alignment.networks.embedders import ConvEmbedder, VideoEmbedder
from casejax.alignment.networks.resnet import ResNetV2, frozen, only_bn, train_all

DEPTHS = (3, 2)


def abstract(**options):
    return nnx.eval_shape(lambda: ResNetV2(**options, rngs=nnx.Rngs(0)))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(-1, 1, (3, 40, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    return keras_resnet.fill(abstract(depths=DEPTHS, width=4), np.random.default_rng(0))


@pytest.fixture(scope="module")
def step(network):
    """Outputs, new statistics and the gradient with respect to parameters and images, by statistics of the batch."""
    graphdef, params, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)

    def loss(params, images, mask):
        model = nnx.merge(graphdef, params, statistics, copy=True)
        maps = model(images, mask=mask, batch_statistics=True)
        kept = jnp.where(mask[:, None, None, None], maps, 0)
        return (kept**2).sum(), (kept, nnx.state(model, nnx.BatchStat))

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return lambda images, mask: compiled(params, jnp.asarray(images), jnp.asarray(mask))


def in_order(state):
    """Mean and variance of the normalisations in the order of the forward pass."""
    for s in sorted(state["stacks"]):
        for b in sorted(state["stacks"][s]):
            for name in ("preact_bn", "bn1", "bn2"):
                norm = state["stacks"][s][b][name]
                yield norm["mean"].get_value(), norm["var"].get_value()


def test_the_default_is_the_published_network():
    network = abstract()
    params, statistics = nnx.state(network, nnx.Param), nnx.state(network, nnx.BatchStat)
    norms = [layer for name, layer in network.keras_layers().items() if name.endswith("bn")]
    assert len(norms) == 30
    assert sum(count((norm.scale, norm.bias)) for norm in norms) == count(statistics) == 15_744
    assert count(params) + count(statistics) == 5_209_600  # as Keras counts
    assert sum(layer.epsilon == 1.001e-5 and layer.momentum == 0.99 for layer in norms) == 30
    maps = nnx.eval_shape(lambda m, x: m(x), network, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert maps.shape == (1, 14, 14, 1024)
    assert "conv4_block3_3_conv" in network.keras_layers()


def test_features_are_those_of_keras(network, images):
    got = nnx.jit(lambda model, x: model(x))(network, jnp.asarray(images))
    want = keras_resnet.resnet_v2(keras_resnet.by_keras_names(network), images, DEPTHS)
    assert got.shape == want.shape == (3, 5, 4, 32)
    close(got, want)


def test_masked_images_count_in_no_statistics(network, step, images):
    mask = np.array([True, False, True])
    spoiled = np.where(mask[:, None, None, None], images, np.nan)
    (value, (maps, statistics)), gradients = step(spoiled, mask)
    weights, moving = keras_resnet.by_keras_names(network), []
    close(maps[mask], keras_resnet.resnet_v2(weights, images[mask], DEPTHS, moving))
    norms = list(in_order(statistics))
    assert len(norms) == len(moving) == 3 * sum(DEPTHS)
    for (mean, var), (want_mean, want_var) in zip(norms, moving, strict=True):
        close(mean, want_mean)
        close(var, want_var)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[1])[~mask].any()
    assert np.asarray(gradients[1])[mask].any()

    (again, (_, again_statistics)), again_gradients = step(np.where(mask[:, None, None, None], images, 7), mask)
    for a, b in zip(
        jax.tree.leaves((value, statistics, gradients)),
        jax.tree.leaves((again, again_statistics, again_gradients)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_batch_without_a_real_image_spoils_nothing(step, images):
    (value, (_, statistics)), gradients = step(np.full_like(images, np.nan), np.zeros(3, bool))
    assert float(value) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(statistics))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_the_whole_network_agrees_with_keras():
    rng = np.random.default_rng(2)
    network = keras_resnet.fill(abstract(), rng)
    images = rng.uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    got = nnx.jit(lambda model, x: model(x))(network, jnp.asarray(images))
    close(got, keras_resnet.resnet_v2(keras_resnet.by_keras_names(network), images, (3, 4, 3)))


def test_masks_choose_what_is_trained():
    def make():
        backbone = ResNetV2(rngs=nnx.Rngs(0))
        return VideoEmbedder(backbone, ConvEmbedder(1024, rngs=nnx.Rngs(1)))

    params = nnx.state(nnx.eval_shape(make), nnx.Param)

    def trained(mask):
        return sum(p.size for p, m in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True) if m)

    embedder = 21_827_712
    assert trained(frozen(params)) == embedder
    assert trained(only_bn(params)) == embedder + 15_744
    assert trained(train_all(params)) == embedder + 5_209_600 - 15_744
    with pytest.raises(ValueError, match="under the name `backbone`"):
        only_bn({"embedder": jnp.ones(2)})


def test_masks_are_what_optax_wants():
    params = {"backbone": {"preact_bn": {"scale": jnp.ones(2)}, "conv1": {"kernel": jnp.ones(2)}}, "head": jnp.ones(2)}
    optimizer = optax.partition({True: optax.sgd(1.0), False: optax.set_to_zero()}, only_bn)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert float(updates["backbone"]["preact_bn"]["scale"][0]) == float(updates["head"][0]) == -1
    assert float(updates["backbone"]["conv1"]["kernel"][0]) == 0


@pytest.mark.parametrize("options", [{"depths": ()}, {"depths": (1, 2)}, {"depths": (2, 0)}, {"width": 0}])
def test_networks_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match="a ResNet needs at least 1 block"):
        abstract(**options)
