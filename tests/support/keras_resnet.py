"""Keras' ResNetV2 in NumPy, from weights by Keras' names; and weights to put in."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

EPSILON = 1.001e-5


def fill(model, rng):
    """Give a network, also an abstract one, random weights: signals keep their scale, and nothing is 0 or 1."""

    def draw(path, variable):
        name, shape = path[-1], variable.get_value().shape
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, shape)
        return rng.normal(size=shape) / (np.prod(shape[:-1]) ** 0.5 if name == "kernel" else 4)

    state = nnx.to_flat_state(nnx.state(model))
    drawn = [(path, variable.replace(jnp.asarray(draw(path, variable), jnp.float32))) for path, variable in state]
    nnx.update(model, nnx.from_flat_state(drawn))
    return model


def conv(x, weights, *, stride=1, pad=0):
    """Convolution, (N, H, W, C) with (h, w, C, C2), zeros around."""
    kernel = weights["kernel"].astype(np.float64)
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("nijcyx,yxcd->nijd", windows, kernel, optimize=True) + weights.get("bias", 0)


def batch_norm(x, weights, moving):
    """Normalisation; with `moving`, a dictionary, by the batch, and the new moving statistics are noted there."""
    mean, var = weights["moving_mean"], weights["moving_variance"]
    if moving is not None:
        axes = tuple(range(x.ndim - 1))
        batch_mean, batch_var = x.mean(axes), x.var(axes)
        moving.append((0.99 * mean + 0.01 * batch_mean, 0.99 * var + 0.01 * batch_var))
        mean, var = batch_mean, batch_var
    return (x - mean) / np.sqrt(var + weights.get("epsilon", EPSILON)) * weights["gamma"] + weights["beta"]


def relu(x):
    return np.maximum(x, 0)


def resnet_v2(weights, images, depths, moving=None):
    """The output of the last block; stacks end with a stride of 2, but for the last, which is cut before."""
    x = conv(images.astype(np.float64), weights["conv1_conv"], stride=2, pad=3)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))
    for s, depth in enumerate(depths):
        for b in range(depth):
            name = f"conv{s + 2}_block{b + 1}_"
            stride = 2 if b == depth - 1 and s < len(depths) - 1 else 1
            preact = relu(batch_norm(x, weights[name + "preact_bn"], moving))
            shortcut = conv(preact, weights[name + "0_conv"]) if b == 0 else x[:, ::stride, ::stride]
            y = relu(batch_norm(conv(preact, weights[name + "1_conv"]), weights[name + "1_bn"], moving))
            y = conv(y, weights[name + "2_conv"], stride=stride, pad=1)
            x = shortcut + conv(relu(batch_norm(y, weights[name + "2_bn"], moving)), weights[name + "3_conv"])
    return x


def by_keras_names(network):
    """The weights of a `ResNetV2` as arrays by layer and weight."""
    weights = {}
    for name, layer in network.keras_layers().items():
        if isinstance(layer, nnx.Conv):
            variables = {"kernel": layer.kernel, "bias": layer.bias}
        else:
            variables = {"gamma": layer.scale, "beta": layer.bias}
            variables |= {"moving_mean": layer.mean, "moving_variance": layer.var}
        weights[name] = {k: np.asarray(v.get_value()) for k, v in variables.items() if v is not None}
    return weights
