"""Pictures to a video file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from casejax.array_types import UInt8
from casejax.errors import OptionError
from casejax.runtime.files import whole_file


def write_video(
    path: str | os.PathLike[str], pictures: Iterable[UInt8[np.ndarray, "_ _ 3"]], *, fps: float = 25.0
) -> None:
    """Write an MP4 file with H.264, whole or not at all.

    Args:
      path: of the file; what is there is replaced.
      pictures: RGB, all of one size; an odd row or column at the end is cut off, since the format cannot hold it.
      fps: pictures a second.

    Raises:
      OptionError: PyAV is not installed, no picture, or pictures of several sizes.

    Example:
      >>> import numpy as np
      >>> from casejax import features
      >>> features.write_video("a.mp4", np.zeros((10, 32, 48, 3), np.uint8), fps=10)
      >>> features.count_frames("a.mp4", fps=10)
      10
    """
    try:
        import av
    except ImportError as error:
        raise OptionError("writing videos needs PyAV: pip install 'casejax[video]'") from error
    rate = Fraction(fps).limit_denominator(1001)
    with whole_file(path, "wb") as file, av.open(file, "w", format="mp4") as container:
        stream, shape = container.add_stream("libx264", rate=rate, options={"crf": "18"}), None
        for picture in pictures:
            if shape is None:
                shape = picture.shape
                stream.height, stream.width = (side - side % 2 for side in shape[:2])
                stream.pix_fmt = "yuv420p"
            if picture.shape != shape:
                raise OptionError(f"{path}: pictures must be of one size, got {shape} and {picture.shape}")
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        if shape is None:
            raise OptionError(f"{path}: no picture to write")
        container.mux(stream.encode(None))
