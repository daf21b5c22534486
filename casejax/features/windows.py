"""Pictures of a video cut into batches of windows, one a row of features, with the flow between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from casejax.array_types import Float, UInt8

T = TypeVar("T")


class Stretch(NamedTuple):
    """Successive pictures of a video with the windows that begin in them; windows that overlap share pictures.

    Attributes:
      first: row of features that the first window gives.
      rows: windows; at the end of the video fewer than there is room for.
      rgb: (F, size, size, 3) uint8; what is behind the last window has no meaning.
      flow: (F, size, size, 2) float32, from each picture to the next; None where it is not wanted.
    """

    first: int
    rows: int
    rgb: UInt8[np.ndarray, "f size size 3"]
    flow: Float[np.ndarray, "f size size 2"] | None


@dataclass(frozen=True)
class Cutting:
    """How windows lie in a video.

    Attributes:
      window: pictures of a window.
      stride: pictures from the start of a window to that of the next.
      batch: windows of a stretch.
      size: side of the square that is cut out of the middle of a picture, pixels.
    """

    window: int
    stride: int
    batch: int
    size: int

    @property
    def length(self) -> int:
        """Pictures of a stretch."""
        return (self.batch - 1) * self.stride + self.window

    def rows(self, frames: int) -> int:
        """Windows of a video of so many pictures: those that are whole, or one of a shorter video."""
        return max(1, (frames - self.window) // self.stride + 1)

    def stretches(
        self,
        pictures: Iterable[np.ndarray],
        flow: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None,
        first: int = 0,
    ) -> Iterator[Stretch]:
        """The windows of a video, a batch at a time.

        A video shorter than a window is filled up with its last picture, which then does not move. The last picture of
        a video has the flow of the one before it.

        Args:
          pictures: RGB, from picture `first * stride` of the video on.
          flow: from n pictures to the n - 1 flows between them.
          first: row of features to begin with.
        """
        coming, row = iter(pictures), first
        step, ahead = self.batch * self.stride, 0 if flow is None else 1
        still = move = np.zeros((self.size, self.size, 2), np.float32)
        rgb: list[np.ndarray] = []
        moves: list[np.ndarray] = []
        last: list[np.ndarray] = []  # the picture whose flow is not known yet
        while True:
            wanted = self.length + ahead
            new = list(islice(coming, wanted - len(rgb)))
            rgb += [self._middle(picture) for picture in new]
            if flow is not None and new:
                moves += [move := self._middle(found) for found in flow([*last, *new])]
                last = new[-1:]
            if not rgb or (row and len(rgb) < self.window):
                return
            if ended := len(rgb) < wanted:
                moves.append(move)
            rows = min(self.rows(len(rgb)), self.batch)
            yield Stretch(row, rows, self._filled(rgb, rgb[-1]), None if flow is None else self._filled(moves, still))
            if ended:
                return
            row += rows
            del rgb[:step], moves[:step]
            if not rgb:  # a stride longer than the window leaves pictures out
                last = []
                for _ in islice(coming, step - wanted):
                    pass

    def _middle(self, picture: np.ndarray) -> np.ndarray:
        top, left = ((side - self.size) // 2 for side in picture.shape[:2])
        return picture[top : top + self.size, left : left + self.size]

    def _filled(self, pictures: list[np.ndarray], behind: np.ndarray) -> np.ndarray:
        shown = pictures[: self.length]
        return np.stack([*shown, *[behind] * (self.length - len(shown))])


@contextmanager
def prepared(items: Iterable[T], ahead: int = 1) -> Iterator[Iterator[T]]:
    """The same items, made by a thread of their own while earlier ones are at work.

    Args:
      items: what is made; an exception among them is raised where the item would be.
      ahead: items that wait at most.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, value: Any = None) -> bool:
        while not stopped.is_set():
            try:
                made.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end")
        except BaseException as error:  # raised again where it is waited for
            put("error", error)

    def taken() -> Iterator[T]:
        while True:
            kind, value = made.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        thread.join()
