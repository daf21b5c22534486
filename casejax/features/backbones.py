"""The networks that make features of pictures: one contract, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from casejax.errors import OptionError
from casejax.features.efficientnet import EFFICIENTNET_SIZE, efficientnet_features, read_efficientnet
from casejax.features.efficientnet import REMEDY as EFFICIENTNET_FILES
from casejax.features.i3d import i3d_features
from casejax.features.i3d_weights import REMEDY as I3D_FILES
from casejax.features.i3d_weights import read_i3d
from casejax.features.weights import checksum, known_weights
from casejax.records import Timing

EVERY = 4
"""EfficientNet sees every fourth picture of a window: those between are nearly the same, and cost as much."""


class StreamWeights(NamedTuple):
    """A network as a file holds it.

    Attributes:
      stream: which pictures it reads, "rgb" or "flow".
      graph: what the network is apart from its parameters, hashable.
      params: a pytree of arrays.
      sha256: of the file.
      known_as: what file that is, where it is a published one.
    """

    stream: str
    graph: Any
    params: Any
    sha256: str
    known_as: str | None


@dataclass(frozen=True)
class Backbone:
    """What makes a row of features from a window of pictures.

    Attributes:
      name: as options call it.
      timing: windows, stride and pictures a second that it is usually used with.
      short_side: pixels to which the shorter side of a picture is scaled.
      size: side of the square in the middle of it that the network sees, pixels.
      dims: numbers in a row, by the stream that it can read.
      read: from a file of weights, and the type that convolutions compute in, to the network; DataError for a wrong
        file.
      embed: pure function of graph, parameters and windows (B, T, size, size, C) to (B, D) float32: RGB of uint8, or
        flow in pixels.
      window_bytes: memory that a window takes on its way through the network, about.
      published: which files of weights it reads and where they are, a sentence for messages.
    """

    name: str
    timing: Timing
    short_side: int
    size: int
    dims: Mapping[str, int]
    read: Callable[[Path, str], StreamWeights]
    embed: Callable[..., jax.Array]
    window_bytes: int
    published: str


def find_backbone(name: str) -> Backbone:
    """The backbone of a name.

    Raises:
      OptionError: there is none.

    Example:
      >>> from casejax import features
      >>> features.find_backbone("i3d").name
      'i3d'
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise OptionError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}") from None


def _read_i3d(path: Path, dtype: str) -> StreamWeights:
    network = read_i3d(path, dtype=jnp.dtype(dtype))
    stream = "rgb" if network.channels == 3 else "flow"
    graph, params = nnx.split(network)
    return StreamWeights(stream, graph, params, checksum(path), known_weights(path))


def _read_efficientnet(path: Path, dtype: str) -> StreamWeights:
    network = read_efficientnet(path, dtype=jnp.dtype(dtype))
    graph, params = nnx.split(network)
    return StreamWeights("rgb", graph, params, checksum(path), known_weights(path))


def _embed_efficientnet(graph: Any, params: Any, windows: jax.Array) -> jax.Array:
    return efficientnet_features(graph, params, windows[:, ::EVERY])


BACKBONES = {
    each.name: each
    for each in (
        Backbone(
            "i3d",
            Timing(16.0, 16.0, 25.0),
            short_side=256,
            size=224,
            dims={"rgb": 1024, "flow": 1024},
            read=_read_i3d,
            embed=i3d_features,
            window_bytes=150_000_000,
            published=I3D_FILES,
        ),
        Backbone(
            "efficientnet_lite0",
            Timing(16.0, 16.0, 25.0),
            short_side=256,
            size=EFFICIENTNET_SIZE,
            dims={"rgb": 1280},
            read=_read_efficientnet,
            embed=_embed_efficientnet,
            window_bytes=40_000_000,
            published=EFFICIENTNET_FILES,
        ),
    )
}
"""The networks, by name. A new one is a file with its network and reader, and an entry here."""
