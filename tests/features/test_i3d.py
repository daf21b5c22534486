"""I3D against PyTorch and against its own operations; sizes, types, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.features import FLOW_LIMIT, I3D, KINETICS_400, convolutions, i3d_features
from casejax.features.i3d import BRANCHES, LOGITS, MIXED, layer_shapes
from casejax.features.weights import Weights

SHARE = 8  # of the published widths, so that the networks are small


@pytest.fixture(scope="module")
def peer():
    """Makes a PyTorch model of random weights and ours of the same, folded here on its own."""
    pytest.importorskip("torch")
    import torch
    from torch_i3d import random_model

    torch.set_num_threads(1)

    def make(channels, dtype=None):
        model = random_model(channels=channels, num_classes=11, share=SHARE)
        weights = {}
        for layer in layer_shapes(channels):
            if layer == LOGITS:
                conv = model.logits.conv3d
                weights[layer] = Weights(
                    np.array(conv.weight.detach().permute(2, 3, 4, 1, 0)), np.array(conv.bias.detach())
                )
                continue
            module, _, branch = layer.partition("/")
            unit = getattr(model, module)
            if branch:
                unit = getattr(unit, ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")[BRANCHES.index(branch)])
            with torch.no_grad():
                factor = unit.bn.weight / (unit.bn.running_var + 1e-3).sqrt()
                kernel = unit.conv3d.weight * factor[:, None, None, None, None]
                bias = unit.bn.bias - unit.bn.running_mean * factor
            weights[layer] = Weights(np.array(kernel.permute(2, 3, 4, 1, 0)), np.array(bias))

        def theirs(x):
            with torch.inference_mode():
                x = torch.from_numpy(np.array(x, np.float32)).permute(0, 4, 1, 2, 3)
                return [np.array(each) for each in model(x)] + [np.array(model.map(x).permute(0, 2, 3, 4, 1))]

        return nnx.split(I3D(weights, dtype=dtype)), theirs

    return make


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("output", "shape"), [("features", (2, 17, 75, 90)), ("logits", (1, 5, 33, 47)), ("map", (1, 10, 64, 64))]
)
def test_equals_pytorch(peer, output, shape):
    """Sizes that are even, odd, and so short that one frame is left of the map."""
    (graphdef, params), theirs = peer(3)
    clips = pixels(*shape)
    want = theirs(clips / 127.5 - 1)[("features", "logits", "map").index(output)]
    got = i3d_features(graphdef, params, clips, output=output)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-4 * max(1, np.abs(want).max()), rtol=0)
    if output == "map":
        assert got.shape[1:4] == tuple(-(-n // d) for n, d in zip(shape[1:], (8, 32, 32), strict=True))


def test_flow_is_cut_off(peer):
    (graphdef, params), theirs = peer(2)
    flow = np.random.default_rng(1).normal(0, 15, size=(1, 9, 40, 40, 2)).astype(np.float32)
    assert np.abs(flow).max() > FLOW_LIMIT == 20
    got = i3d_features(graphdef, params, flow)
    want = theirs(np.clip(flow, -20, 20) / 20)[0]
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max(), rtol=0)
    np.testing.assert_array_equal(i3d_features(graphdef, params, np.clip(flow, -20, 20)), got)


def test_bfloat16_is_close(peer):
    (graphdef, params), theirs = peer(3, jnp.bfloat16)
    clips = pixels(1, 10, 64, 64)
    got = i3d_features(graphdef, params, clips)
    want = theirs(clips / 127.5 - 1)[0]
    assert got.dtype == jnp.float32
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 1e-5 < error < 0.03


def test_the_average_is_the_published_one():
    """Windows of 2 x 7 x 7, stride 1, then the mean over time: of 224 x 224, and of three frames of the map."""
    network = tiny()
    features, maps = jax.jit(lambda x: (network(x), network(x, output="map")))(pixels(1, 17, 224, 224))
    assert maps.shape[:4] == (1, 3, 7, 7)
    windows = np.lib.stride_tricks.sliding_window_view(maps, (2, 7, 7), (1, 2, 3))
    np.testing.assert_allclose(features, windows.mean((-3, -2, -1)).mean((1, 2, 3)), rtol=1e-5)


def tiny():
    """A network of one or two channels a layer."""
    rng = np.random.default_rng(2)

    def weights(size, c, k):
        return Weights(rng.normal(size=(size, size, size, c, k)) * (2 / size**3 / c) ** 0.5, rng.normal(size=k) / 9)

    layers = {"Conv3d_1a_7x7": weights(7, 3, 1), "Conv3d_2b_1x1": weights(1, 1, 2), "Conv3d_2c_3x3": weights(3, 2, 4)}
    for module in MIXED:
        for branch in BRANCHES:
            inner = branch.endswith("3x3")
            layers[f"{module}/{branch}"] = weights(3 if inner else 1, 1 if inner else 4, 1)
    return I3D(layers | {LOGITS: weights(1, 4, 2)})


SHAPES = [
    # frames, height, width, size of the kernel, stride
    (1, 4, 5, 3, 1),
    (4, 6, 7, 3, 1),
    (1, 9, 8, 7, 2),
    (5, 8, 11, 7, 2),
    (6, 16, 16, 7, 2),
    (3, 5, 4, 2, 2),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_both_convolutions_agree(shape):
    *lengths, size, stride = shape
    rng = np.random.default_rng(sum(shape))
    x = jnp.asarray(rng.normal(size=(2, *lengths, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, size, 3, 4)) / size**1.5, jnp.float32)
    got, want = jax.jit(
        lambda x, kernel: (
            convolutions.convolve(x, kernel, stride=stride),
            convolutions.convolve_at_once(x, kernel, stride=stride),
        )
    )(x, kernel)
    assert want.shape == (2, *(-(-n // stride) for n in lengths), 4)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_accelerators_get_the_plain_operation():
    x, kernel = jnp.zeros((1, 4, 8, 8, 3)), jnp.zeros((3, 3, 3, 3, 4))
    traced = jax.jit(convolutions.convolve).trace(x, kernel)
    for platform, axes in (("cpu", "[b, 0, 1, f]"), ("cuda", "[b, 0, 1, 2, f]"), ("tpu", "[b, 0, 1, 2, f]")):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == text.count(f"dim_numbers = {axes}x") == 1, platform
    traced = jax.jit(convolutions.depthwise).trace(x[0], kernel[0, ..., 0])
    counts = [
        traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")
        for platform in ("cpu", "cuda", "tpu")
    ]
    assert counts == [0, 1, 1]


@pytest.mark.parametrize("shape", [(7, 8, 3, 1), (7, 8, 3, 2), (1, 6, 5, 2), (9, 3, 5, 1)])
def test_both_depthwise_convolutions_agree(shape):
    *lengths, size, stride = shape
    rng = np.random.default_rng(sum(shape))
    x = jnp.asarray(rng.normal(size=(2, *lengths, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 6)) / size, jnp.float32)
    got, want = jax.jit(
        lambda x, kernel: (
            convolutions.depthwise(x, kernel, stride=stride),
            convolutions.depthwise_at_once(x, kernel, stride=stride),
        )
    )(x, kernel)
    assert got.shape == (2, *(-(-n // stride) for n in lengths), 6)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_maxima_axis_by_axis_are_those_of_windows():
    x = jnp.asarray(np.random.default_rng(5).normal(size=(2, 5, 8, 7, 3)), jnp.float32)
    for window, stride in (((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2),) * 2):
        want = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), "SAME")
        np.testing.assert_array_equal(convolutions.max_pool(x, window, stride), want)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.zeros((1, 8, 32, 32, 3), np.float32), r"RGB of type uint8, .* got float32 of shape \(1, 8, 32, 32, 3\)"),
        (np.zeros((1, 8, 32, 32, 2), np.uint8), r"got uint8 of shape \(1, 8, 32, 32, 2\)"),
        (np.zeros((8, 32, 32, 3), np.uint8), "no axis empty, got uint8 of shape"),
        (np.zeros((1, 0, 32, 32, 3), np.uint8), r"shape \(1, 0, 32, 32, 3\)"),
    ],
)
def test_other_clips_are_refused(clips, message):
    with pytest.raises(ValueError, match=message):
        tiny()(clips)


def test_other_outputs_are_refused():
    with pytest.raises(ValueError, match="'features', 'map' or 'logits', got 'pool'"):
        tiny()(pixels(1, 8, 32, 32), output="pool")


def test_the_classes_of_kinetics():
    assert len(set(KINETICS_400)) == len(KINETICS_400) == 400 == layer_shapes(3)[LOGITS][-1]
    assert list(KINETICS_400) == sorted(KINETICS_400, key=str.lower)
    assert [KINETICS_400[i] for i in (0, 150, 399)] == ["abseiling", "headbutting", "zumba"]
