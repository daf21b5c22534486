"""Videos to rows of features: decoding and flow in threads, the network beside them, a batch of windows at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import casejax
from casejax.array_types import Array, Float
from casejax.errors import DataError, OptionError
from casejax.features.backbones import Backbone, StreamWeights, find_backbone
from casejax.features.decoder import count_frames, probe, read_frames
from casejax.features.flow import FLOW_LIMIT, check_flow, optical_flow
from casejax.features.windows import Cutting, Stretch, prepared
from casejax.features.writer import FeatureFolder
from casejax.records import Timing

GREATEST_BATCH = 16
"""Windows at a time at most: more are no faster on a CPU."""


class Extracted(NamedTuple):
    """The features of one video.

    Attributes:
      rows: (T, D) float32 of every stream, in the order of the streams.
      frames: pictures that the video has at the rate of the features.
      seconds: how long it is.
    """

    rows: tuple[np.ndarray, ...]
    frames: int
    seconds: float


@dataclass(frozen=True)
class Extractor:
    """A backbone with weights, and how pictures are given to it.

    Attributes:
      backbone: the network.
      weights: for one stream each, in the order of the backbone's.
      timing: windows, stride and pictures a second.
      flow: kind of optical flow, where a stream reads it.
      batch: windows at a time. It changes rows by round-off only.
      dtype: of the convolutions.
    """

    backbone: Backbone
    weights: tuple[StreamWeights, ...]
    timing: Timing
    flow: str
    batch: int
    dtype: str

    @classmethod
    def load(
        cls,
        weights: Iterable[str | os.PathLike[str]],
        *,
        backbone: str = "i3d",
        streams: Sequence[str] | None = None,
        fps: float | None = None,
        stride: int | None = None,
        flow: str = "tvl1",
        batch: int | None = None,
        dtype: str = "float32",
    ) -> Extractor:
        """Read the weights, and check what is asked for before any video is opened.

        Args:
          weights: a file a stream, in any order.
          backbone: name of the network.
          streams: those that are wanted; default those that there are weights for.
          fps: pictures a second; default the backbone's.
          stride: pictures from one row to the next; default the backbone's.
          flow: kind of optical flow.
          batch: windows at a time; default what a quarter of the free memory holds, 16 at most.
          dtype: of the convolutions; "bfloat16" is faster where there are units for it.

        Raises:
          DataError: a file that holds no weights of this backbone.
          OptionError: an option out of range, two files of one stream, a stream without weights, or an OpenCV without
            the flow.
        """
        network = find_backbone(backbone)
        if dtype not in ("float32", "bfloat16"):
            raise OptionError(f"dtype must be float32 or bfloat16, got {dtype!r}")
        found: dict[str, StreamWeights] = {}
        for path in map(Path, weights):
            read = network.read(path, dtype)
            if read.stream in found:
                raise OptionError(f"{path} holds weights for {read.stream}, as another file does; name one a stream")
            found[read.stream] = read
        names = [name for name in network.dims if name in (found if streams is None else streams)]
        if unknown := sorted(set(streams or ()) - set(network.dims)):
            raise OptionError(f"{backbone} has the streams {', '.join(network.dims)}, not {unknown[0]!r}")
        if missing := [name for name in names if name not in found]:
            raise OptionError(f"no weights for {missing[0]}; name their file, or leave it out. {network.published}")
        if not names:
            raise OptionError(f"no weights of {backbone}; name their files. {network.published}")
        timing = network.timing
        if fps is not None:
            if not fps > 0:
                raise OptionError(f"fps must be positive, got {fps}")
            timing = replace(timing, fps=float(fps))
        if stride is not None:
            if stride < 1:
                raise OptionError(f"stride must be 1 picture or more, got {stride}")
            timing = replace(timing, stride=float(stride))
        if batch is not None and batch < 1:
            raise OptionError(f"batch must be 1 window or more, got {batch}")
        if "flow" in names:
            check_flow(flow)
        chosen = tuple(found[name] for name in names)
        return cls(network, chosen, timing, flow, batch or _affordable(network, len(names)), dtype)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams."""
        return tuple(each.stream for each in self.weights)

    @property
    def dims(self) -> tuple[int, ...]:
        """Numbers in a row, a stream each."""
        return tuple(self.backbone.dims[stream] for stream in self.streams)

    @property
    def cutting(self) -> Cutting:
        """How windows lie in a video."""
        return Cutting(int(self.timing.frames), int(self.timing.stride), self.batch, self.backbone.size)

    def stated(self) -> dict[str, Any]:
        """What `features.json` says of the rows."""
        timing = {name: _short(getattr(self.timing, name)) for name in ("frames", "stride", "fps", "first_frame")}
        size, side = self.backbone.size, self.backbone.short_side
        stated = timing | {
            "backbone": self.backbone.name,
            "streams": dict(zip(self.streams, self.dims, strict=True)),
            "weights": {each.stream: {"sha256": each.sha256, "known_as": each.known_as} for each in self.weights},
            "pictures": f"shorter side {side}, {size} x {size} from the middle",
            "dtype": self.dtype,
            "casejax": casejax.__version__,
        }
        return stated | ({"flow": f"{self.flow}, clipped to {FLOW_LIMIT:g} pixels"} if "flow" in self.streams else {})

    def __call__(self, path: str | os.PathLike[str]) -> Extracted:
        """The features of one video, in memory.

        Raises:
          DataError: not a video, or a damaged one.
        """
        counted = Counter()
        parts = [rows for _, rows in self.parts(path, counted=counted)]
        rows = tuple(np.concatenate(stream) for stream in zip(*parts, strict=True))
        return Extracted(rows, counted.frames, counted.frames / self.timing.fps)

    def parts(
        self, path: str | os.PathLike[str], first: int = 0, counted: Counter | None = None
    ) -> Iterator[tuple[int, tuple[Float[np.ndarray, "rows _"], ...]]]:
        """The rows of a video, a batch at a time, each with the number of its first one.

        Args:
          path: a video file.
          first: row to begin with.
          counted: gains the number of pictures.
        """
        counted = Counter() if counted is None else counted
        skipped = first * self.cutting.stride
        pictures = read_frames(path, fps=self.timing.fps, short_side=self.backbone.short_side, first=skipped)
        counted.frames = skipped
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            flow = partial(optical_flow, kind=self.flow, pool=pool) if "flow" in self.streams else None
            stretches = self.cutting.stretches(counted.count(pictures), flow, first)
            with prepared(stretches) as coming:
                for stretch in coming:
                    yield stretch.first, self.embed(stretch)

    def embed(self, stretch: Stretch) -> tuple[Float[np.ndarray, "rows _"], ...]:
        """The rows of a stretch of `cutting`, an array a stream."""
        pictures = {"rgb": stretch.rgb, "flow": stretch.flow}
        found = [
            _embed(each.params, pictures[each.stream], each.graph, self.backbone.embed, self.cutting)
            for each in self.weights
        ]
        return tuple(np.asarray(rows, np.float32)[: stretch.rows] for rows in found)


@dataclass
class Counter:
    """How many pictures went by."""

    frames: int = 0

    def count(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same pictures."""
        for picture in pictures:
            self.frames += 1
            yield picture


def extract_videos(
    extractor: Extractor,
    videos: Mapping[str, Path],
    out: str | os.PathLike[str],
    progress: Callable[[str, float], None] = lambda video, share: None,
) -> dict[str, str]:
    """Write the features of many videos: `OUT/STREAM/ID.npy`, and `OUT/features.json` with what they are.

    Videos that are finished are left out. A video that an earlier call was stopped in goes on after the rows that were
    written, and ends with the same bits. Memory does not grow with the length of a video.

    Args:
      extractor: what makes features.
      videos: files, by the ids that the features get.
      out: folder.
      progress: told the id of a video and how much of it is done, from 0 to 1.

    Returns:
      What is wrong with videos that cannot be read, by id; the others are finished.

    Raises:
      DataError: the folder has features that were made otherwise, or of another file of the same id.

    Example:
      >>> import numpy as np
      >>> from pathlib import Path
      >>> from casejax import features
      >>> weights = ["efficientnet-lite0-57934424.pth"]
      >>> extractor = features.Extractor.load(weights, backbone="efficientnet_lite0", batch=1)
      >>> features.write_video("a.mp4", np.zeros((20, 32, 48, 3), np.uint8), fps=25)
      >>> features.extract_videos(extractor, {"a": Path("a.mp4")}, "out")  # no video is broken
      {}
      >>> np.load("out/rgb/a.npy").shape
      (1, 1280)
    """
    folder = FeatureFolder.open(Path(out), extractor.stated())
    folder.check(videos)
    broken = {}
    for video, path in videos.items():
        progress(video, 0.0)
        if video not in folder.finished:
            try:
                _extract(extractor, folder, video, path, partial(progress, video))
            except DataError as error:
                broken[video] = str(error)
        progress(video, 1.0)
    return broken


def _extract(
    extractor: Extractor, folder: FeatureFolder, video: str, path: Path, progress: Callable[[float], None]
) -> None:
    expected = (probe(path).duration or 0) * extractor.timing.fps
    counted = Counter()
    parts = folder.parts(video, path, extractor.batch)
    extractor = replace(extractor, batch=parts.batch)
    begun = parts.rows * int(extractor.timing.stride)
    for first, rows in extractor.parts(path, parts.rows, counted):
        parts.add(first, rows)
        if expected:
            progress(min(counted.frames / expected, 0.99))
    # of a video that is shorter than its rows, what is left out does not say where it ends
    frames = counted.frames if counted.frames > begun else count_frames(path, fps=extractor.timing.fps)
    parts.finish({"frames": frames, "duration": round(frames / extractor.timing.fps, 6)})


@partial(jax.jit, static_argnums=(2, 3, 4))
def _embed(params: Any, pictures: Array, graph: Any, embed: Callable[..., jax.Array], cutting: Cutting) -> jax.Array:
    """(batch, D), a row of each window."""
    at = np.arange(cutting.batch)[:, None] * cutting.stride + np.arange(cutting.window)[None, :]
    return embed(graph, params, pictures[at])


def _affordable(network: Backbone, streams: int) -> int:
    """Windows that a quarter of the free memory holds."""
    try:
        free = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    except (RuntimeError, NotImplementedError):
        free = None
    if free is None:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(np.clip(free // (4 * network.window_bytes), 1, GREATEST_BATCH))


def _short(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
