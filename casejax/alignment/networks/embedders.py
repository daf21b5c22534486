"""Networks that embed every frame of a video: from images, from image features, from any sequence of features.

All share one shape, that of TCC and GTA: convolutions over a frame and the frames of its context, pooling
over everything but the channels, fully connected layers, for GTA normalisation to length 1. A frame's context
are K frames, the last of which is the frame itself; embeddings of different frames do not see one another.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.alignment.networks.resnet import ResNetV2, normalise
from casejax.array_types import Array, Bool, Float, Key

Params = Any  # a pytree of arrays, as nnx.split gives it

# Keras' defaults, where the published network names no others.
EPSILON = 1e-3
HE_NORMAL = nnx.initializers.he_normal()
GLOROT = nnx.initializers.glorot_uniform()


class Head(nnx.Module):
    """Fully connected layers with ReLU, dropout before each, then a linear one; embeddings of length 1 if asked."""

    def __init__(
        self, d_in: int, widths: Sequence[int], d_out: int, *, dropout: float, unit_norm: bool, rngs: nnx.Rngs
    ) -> None:
        sizes = [d_in, *widths]
        self.hidden = nnx.List([nnx.Linear(a, b, kernel_init=GLOROT, rngs=rngs) for a, b in itertools.pairwise(sizes)])
        self.out = nnx.Linear(sizes[-1], d_out, kernel_init=GLOROT, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.unit_norm = unit_norm

    def __call__(self, x: Float[Array, "n d"], key: Key[Array, ""] | None) -> Float[Array, "n e"]:
        """Embeddings; without a key nothing is dropped."""
        for i, layer in enumerate(self.hidden):
            if key is not None:
                x = self.dropout(x, deterministic=False, rngs=jax.random.fold_in(key, i))
            x = jax.nn.relu(layer(x))
        x = self.out(x)
        if not self.unit_norm:
            return x
        squared = (x * x).sum(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


class ConvEmbedder(nnx.Module):
    """The embedder of GTA and TCC, of feature maps of images such as those of `ResNetV2`.

    Convolutions of 3 x 3 x 3 over context frames and space with batch normalisation and ReLU, global max-pooling,
    then fully connected layers. With the defaults and 1024 channels 21,827,712 trainable parameters. Moving
    statistics are carried along as `ResNetV2` shows.

    Args:
      num_channels: channels C of the feature maps.
      conv_widths: channels of the convolutions, one or more.
      fc_widths: widths of the fully connected layers.
      embedding: dimension E of an embedding.
      dropout: rate before each fully connected layer, in [0, 1).
      unit_norm: put embeddings on the unit sphere. TCC, TCN and Shuffle-and-Learn were published without.
      dtype: type the convolutions compute in, such as `jnp.bfloat16` for speed. Parameters, statistics and the
        fully connected layers stay float32.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a width below 1, no convolution, or a dropout out of range.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        conv_widths: Sequence[int] = (512, 512),
        fc_widths: Sequence[int] = (512, 512),
        embedding: int = 128,
        dropout: float = 0.1,
        unit_norm: bool = True,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        _check(num_channels, conv_widths, fc_widths, embedding, dropout)
        sizes = [num_channels, *conv_widths]
        self.convs = nnx.List(
            [
                nnx.Conv(a, b, (3, 3, 3), kernel_init=HE_NORMAL, dtype=dtype, rngs=rngs)
                for a, b in itertools.pairwise(sizes)
            ]
        )
        self.norms = nnx.List(
            [nnx.BatchNorm(c, momentum=0.99, epsilon=EPSILON, use_fast_variance=False, rngs=rngs) for c in conv_widths]
        )
        self.head = Head(sizes[-1], fc_widths, embedding, dropout=dropout, unit_norm=unit_norm, rngs=rngs)

    def feature_map(
        self,
        features: Float[Array, "b t k h w c"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        batch_statistics: bool = False,
    ) -> Float[Array, "b t k h w c2"]:
        """Maps of the last convolution after normalisation and ReLU, as `class_activation` wants them."""
        b, t = features.shape[:2]
        x = _frames(features, mask)
        frame_mask = None if mask is None else mask.reshape(-1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(normalise(norm, conv(x), mask=frame_mask, batch_statistics=batch_statistics))
        return x.reshape(b, t, *x.shape[1:])

    def __call__(
        self,
        features: Float[Array, "b t k h w c"],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        batch_statistics: bool = False,
    ) -> Float[Array, "b t e"]:
        """Embed T frames of B videos.

        Args:
          features: (B, T, K, H, W, C), feature maps of each frame and its context.
          key: dropout of this call; None for none.
          mask: True for real frames; default all. Others are embedded as zeros, with a gradient of zero, and count in
            no statistics.
          batch_statistics: normalise with the statistics of this batch and update the moving ones.
        """
        maps = self.feature_map(features, mask=mask, batch_statistics=batch_statistics)
        b, t, *_, c = maps.shape
        pooled = _max_pool(maps.reshape(b * t, -1, c)).astype(jnp.promote_types(features.dtype, jnp.float32))
        return _videos(self.head(pooled, key), b, t, mask)


class SequenceEmbedder(nnx.Module):
    """A light embedder of the same shape for pose tracks, I3D snippets or any other sequence of feature vectors.

    Convolutions of width 3 over the context frames with layer normalisation and ReLU, max-pooling over the context,
    then fully connected layers. It has no state: a frame's embedding depends on that frame and its context alone.

    Args:
      num_features: dimension F of a feature vector.
      conv_widths: channels of the convolutions, one or more.
      fc_widths: widths of the fully connected layers.
      embedding: dimension E of an embedding.
      dropout: rate before each fully connected layer, in [0, 1).
      layer_norm: normalise the channels of each frame after each convolution.
      flatten_context: number K of context frames to keep apart, in their order, instead of pooling over however
        many there are; None pools.
      unit_norm: put embeddings on the unit sphere. TCC, TCN and Shuffle-and-Learn were published without.
      rngs: seeds of the initial parameters.

    Raises:
      ValueError: a width below 1, no convolution, or a dropout out of range.
    """

    def __init__(
        self,
        num_features: int,
        *,
        conv_widths: Sequence[int] = (128, 128),
        fc_widths: Sequence[int] = (128,),
        embedding: int = 128,
        dropout: float = 0.0,
        layer_norm: bool = True,
        flatten_context: int | None = None,
        unit_norm: bool = True,
        rngs: nnx.Rngs,
    ) -> None:
        _check(num_features, conv_widths, fc_widths, embedding, dropout)
        if flatten_context is not None and flatten_context < 1:
            raise ValueError(f"flatten_context must be a number of context frames or None, got {flatten_context}")
        sizes = [num_features, *conv_widths]
        # Convolutions as matrix products of three frames in a row: XLA's for CPU take 15 times as long.
        self.convs = nnx.List(
            [nnx.Linear(3 * a, b, kernel_init=HE_NORMAL, rngs=rngs) for a, b in itertools.pairwise(sizes)]
        )
        self.norms = (
            nnx.List([nnx.LayerNorm(c, epsilon=EPSILON, rngs=rngs) for c in conv_widths]) if layer_norm else None
        )
        width = sizes[-1] * (flatten_context or 1)
        self.head = Head(width, fc_widths, embedding, dropout=dropout, unit_norm=unit_norm, rngs=rngs)
        self.flatten_context = flatten_context

    def __call__(
        self,
        features: Float[Array, "b t k f"],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
    ) -> Float[Array, "b t e"]:
        """Embed T frames of B videos.

        Args:
          features: (B, T, K, F), features of each frame and its context.
          key: dropout of this call; None for none.
          mask: True for real frames; default all. Others are embedded as zeros, with a gradient of zero.

        Raises:
          ValueError: another number of context frames than `flatten_context`.
        """
        b, t, k, _ = features.shape
        if self.flatten_context not in (None, k):
            raise ValueError(f"the embedder was made for {self.flatten_context} context frames, got {features.shape}")
        x = _frames(features, mask)
        for i, conv in enumerate(self.convs):
            x = conv(_with_neighbours(x))
            x = jax.nn.relu(x if self.norms is None else self.norms[i](x))
        x = _max_pool(x) if self.flatten_context is None else x.reshape(b * t, -1)
        return _videos(self.head(x, key), b, t, mask)


class VideoEmbedder(nnx.Module):
    """The embedder of images: a `ResNetV2` on every image, a `ConvEmbedder` on its feature maps.

    Which parameters of the backbone are trained is chosen by a mask: `train_all`, `only_bn` or `frozen` of
    `casejax.alignment.networks.resnet`.

    Args:
      backbone: the network of single images, with fresh or with loaded weights.
      embedder: the network on its feature maps, of as many channels.
      frozen: keep the backbone's moving statistics, and its parameters without a gradient.

    Raises:
      ValueError: the two have different numbers of channels.
    """

    def __init__(self, backbone: ResNetV2, embedder: ConvEmbedder, *, frozen: bool = False) -> None:
        wanted = embedder.convs[0].in_features
        if backbone.num_channels != wanted:
            raise ValueError(f"the backbone makes {backbone.num_channels} channels, the embedder takes {wanted}")
        self.backbone, self.embedder, self.frozen = backbone, embedder, frozen

    def features(
        self,
        images: Float[Array, "b t k h w 3"],
        *,
        mask: Bool[Array, "b t"] | None = None,
        batch_statistics: bool = False,
    ) -> Float[Array, "b t k h2 w2 c"]:
        """Feature maps of the backbone, one an image."""
        b, t, k = images.shape[:3]
        image_mask = None if mask is None else jnp.repeat(mask.reshape(-1), k)
        x = images.reshape(b * t * k, *images.shape[3:])
        x = self.backbone(x, mask=image_mask, batch_statistics=batch_statistics and not self.frozen)
        x = x.reshape(b, t, k, *x.shape[1:])
        return jax.lax.stop_gradient(x) if self.frozen else x

    def __call__(
        self,
        images: Float[Array, "b t k h w 3"],
        key: Key[Array, ""] | None = None,
        *,
        mask: Bool[Array, "b t"] | None = None,
        batch_statistics: bool = False,
    ) -> Float[Array, "b t e"]:
        """Embed T frames of B videos.

        Args:
          images: (B, T, K, H, W, 3) RGB in [-1, 1], each frame and its context.
          key: as for `ConvEmbedder`.
          mask: as for `ConvEmbedder`.
          batch_statistics: as for `ConvEmbedder`; a frozen backbone keeps to its moving statistics.
        """
        features = self.features(images, mask=mask, batch_statistics=batch_statistics)
        return self.embedder(features, key, mask=mask, batch_statistics=batch_statistics)


def l2_penalty(params: Params) -> Float[Array, ""]:
    """Mean over the weights and biases of an embedder of their sums of squares, the published regulariser.

    Every kernel and every bias is one term, whatever its size; those of normalisations and of a backbone are
    none. GTA and TCC add 1e-5 times this to the loss.

    Args:
      params: parameters of any of these embedders, as `nnx.split` gives them.

    Raises:
      ValueError: no parameter of an embedder is among them.
    """
    terms = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [entry.key for entry in path if hasattr(entry, "key")]
        if "norms" not in names and "backbone" not in names:
            terms.append((leaf * leaf).sum())
    if not terms:
        raise ValueError("no weight of an embedder among the parameters")
    return jnp.stack(terms).mean()


def _frames(features: jax.Array, mask: jax.Array | None) -> jax.Array:
    """(B T, ...), zero where masked."""
    if mask is not None:
        features = jnp.where(mask.reshape(*mask.shape, *(1 for _ in features.shape[2:])), features, 0)
    return features.reshape(-1, *features.shape[2:])


def _with_neighbours(x: jax.Array) -> jax.Array:
    """(N, K, 3 F), every context frame between the one before and the one after it; zeros beyond the ends."""
    before, after = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0))), jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
    return jnp.concatenate([before, x, after], axis=-1)


def _max_pool(x: jax.Array) -> jax.Array:
    """(N, C), the maximum over the places of (N, P, C), with the gradient going to the first place that has it."""
    # Not jnp.max: its gradient looks for places equal to the maximum, and where XLA computes them twice with other
    # round-off, there are none, and 0 / 0 comes out.
    first = jax.lax.stop_gradient(x).argmax(axis=1, keepdims=True)
    places = jax.lax.broadcasted_iota(first.dtype, x.shape, 1)
    return jnp.where(places == first, x, 0).sum(axis=1)  # a gather would have a scatter for a gradient


def _videos(embeddings: jax.Array, b: int, t: int, mask: jax.Array | None) -> jax.Array:
    """(B, T, E), zero where masked."""
    embeddings = embeddings.reshape(b, t, -1)
    return embeddings if mask is None else jnp.where(mask[:, :, None], embeddings, 0)


def _check(inputs: int, conv_widths: Sequence[int], fc_widths: Sequence[int], embedding: int, dropout: float) -> None:
    if not conv_widths or min(inputs, *conv_widths, *fc_widths, embedding) < 1:
        raise ValueError(
            f"an embedder needs at least one convolution and widths of at least 1, got {inputs} inputs, "
            f"conv_widths={tuple(conv_widths)}, fc_widths={tuple(fc_widths)}, embedding={embedding}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
