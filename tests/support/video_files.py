"""Small videos made for tests, whose pictures can be told from each other."""

from fractions import Fraction

import numpy as np


def grey_pictures(levels, height=32, width=48):
    """Pictures of one grey level each."""
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


def write_video(path, pictures, *, fps=25, times=None, codec="ffv1", pixels="bgr0", options=None, sound=False):
    """Write pictures, shown from `times` (seconds) on, or at a constant rate."""
    import av

    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 90_000)
        if sound:
            audio = container.add_stream("pcm_s16le", rate=8000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            seconds = i / rate if times is None else Fraction(times[i]).limit_denominator(90_000)
            frame.pts, frame.time_base = round(seconds * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            silence.sample_rate = 8000
            container.mux(audio.encode(silence))
            container.mux(audio.encode(None))
    return path
