"""The networks that make features of pictures: one contract, and the list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from casejax.errors import OptionError
from casejax.records import Timing

if TYPE_CHECKING:
    import jax


class StreamWeights(NamedTuple):
    """A network as a file holds it.

    Attributes:
      stream: which pictures it reads, "rgb" or "flow".
      network: its parameters, a pytree.
      sha256: of the file.
      known_as: what file that is, where it is a published one.
    """

    stream: str
    network: Any
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
      read: from a file of weights to them; DataError for a wrong file.
      embed: pure function from parameters and windows (B, T, size, size, C) to (B, D) float32: RGB of uint8, or flow in
        pixels. With `dtype`, that of the convolutions.
      window_bytes: memory that a window takes on its way through the network, about.
    """

    name: str
    timing: Timing
    short_side: int
    size: int
    dims: Mapping[str, int]
    read: Callable[[Path], StreamWeights]
    embed: Callable[..., jax.Array]
    window_bytes: int


def find_backbone(name: str) -> Backbone:
    """The backbone of a name.

    Raises:
      OptionError: there is none.
    """
    try:
        return BACKBONES[name]
    except KeyError:
        raise OptionError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}") from None


BACKBONES: dict[str, Backbone] = {}
