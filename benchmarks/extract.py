"""Seconds of video a second from file to features, where the time goes, and a PyTorch program with the same weights.

Run:     python benchmarks/extract.py                 a drawn video of 13 s, random weights; three minutes on 2 cores
         python benchmarks/extract.py --video FILE    a video of one's own

The peer is what people run: pictures by the same decoder, windows in batches through the common port of I3D in PyTorch
with its settings, one after the other. Rows are compared before a time is printed. Whole extractions take turns,
medians; stages are timed apart, so that their shares say which of them bounds a pipeline in which they overlap.

Last printout, beside other work on the machine:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, torch 2.13.0+cpu, av 18.1.0, opencv-contrib-python-headless 5.0.0.93
    drawn.mp4: 13.4 s, 336 pictures, 340 x 256
                                     time  seconds of video a second  to PyTorch
    ours, rgb                     21.15 s                       0.64       0.98x
    PyTorch, rgb                  20.71 s                       0.65
    ours, rgb and flow by DIS     42.86 s                       0.31
    ours, rgb and flow by TV-L1  234.33 s                       0.06
    decoding                       2.44 s                       5.51
    flow by dis                    2.89 s                       4.65
    flow by tvl1                 170.28 s                       0.08
    network, a stream             21.18 s                       0.63
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from measure import machine, medians, print_table

from casejax.data import write_torch
from casejax.features import Extractor, optical_flow, read_frames, write_video

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--video", type=Path, help="default: drawn")
    parser.add_argument("--batch", type=int, default=4, help="windows at a time, of both (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or draw(Path(folder) / "drawn.mp4")
        compare(video, Path(folder), options.batch, options.repeats)


def compare(video: Path, folder: Path, batch: int, repeats: int) -> None:
    """Time stages, whole extractions and the peer."""
    import torch
    from torch_i3d import random_model

    print(machine("torch", "av", "opencv-contrib-python-headless"))
    models = {stream: random_model(channels=channels) for stream, channels in (("rgb", 3), ("flow", 2))}
    for stream, model in models.items():
        write_torch(folder / f"{stream}.pt", {name: value.numpy() for name, value in model.state_dict().items()})
    both = Extractor.load([folder / "rgb.pt", folder / "flow.pt"], batch=batch, flow="dis")
    rgb, slow = replace(both, weights=both.weights[:1]), replace(both, flow="tvl1")
    pictures = list(read_frames(video, fps=25, short_side=256))
    length = len(pictures) / 25
    print(f"{video.name}: {length:.1f} s, {len(pictures)} pictures, {pictures[0].shape[1]} x {pictures[0].shape[0]}")

    def peer() -> list[np.ndarray]:
        return list(torch_rows(torch, models["rgb"], video, batch))

    theirs = np.concatenate(peer())
    ours = rgb(video).rows[0]
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max(), "rows differ"
    whole = medians({"ours, rgb": lambda: rgb(video), "PyTorch, rgb": peer}, repeats=repeats, warm=False)
    for name, extractor in (("ours, rgb and flow by DIS", both), ("ours, rgb and flow by TV-L1", slow)):
        whole[name] = medians({name: lambda each=extractor: each(video)}, repeats=1, warm=extractor is both)[name]
    stages = {"decoding": elapsed(lambda: list(read_frames(video, fps=25, short_side=256)))}
    some = pictures[:26]
    with ThreadPoolExecutor() as pool:
        for kind in ("dis", "tvl1"):
            stages[f"flow by {kind}"] = elapsed(lambda kind=kind: optical_flow(some, kind, pool)) * len(pictures) / 25
    stretches = list(rgb.cutting.stretches(pictures))
    stages["network, a stream"] = elapsed(lambda: [rgb.embed(stretch) for stretch in stretches])
    faster = {"ours, rgb": f"{whole['PyTorch, rgb'] / whole['ours, rgb']:.2f}x"}
    rows = [
        [name, f"{taken:.2f} s", f"{length / taken:.2f}", faster.get(name, "")]
        for name, taken in (whole | stages).items()
    ]
    print_table(["", "time", "seconds of video a second", "to PyTorch"], rows)


def torch_rows(torch: Any, model: Any, video: Path, batch: int) -> Iterator[np.ndarray]:
    """Rows of the published kind of program, RGB."""
    middles = []
    for picture in read_frames(video, fps=25, short_side=256):
        top, left = ((side - 224) // 2 for side in picture.shape[:2])
        middles.append(picture[top : top + 224, left : left + 224])
    rows = (len(middles) - 16) // 16 + 1
    windows = np.stack(middles[: 16 * rows]).reshape(rows, 16, 224, 224, 3)
    for first in range(0, rows, batch):
        clips = torch.from_numpy(windows[first : first + batch].transpose(0, 4, 1, 2, 3).astype(np.float32) / 127.5 - 1)
        with torch.inference_mode():
            yield model(clips)[0].numpy()


def elapsed(run: Callable[[], object]) -> float:
    """Wall seconds of the second of two calls."""
    run()
    since = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - since


def draw(path: Path) -> Path:
    """A video of a disc that goes round in noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :340] / 256 - 0.5
    noise = rng.integers(0, 60, (256, 340, 3), np.uint8)
    pictures = []
    for i in range(336):
        disc = np.hypot(x - 0.3 * np.cos(i / 9), y - 0.3 * np.sin(i / 9)) < 0.15
        pictures.append(noise + np.where(disc[:, :, None], np.uint8(180), np.uint8(20)))
    write_video(path, pictures, fps=25)
    return path


if __name__ == "__main__":
    main()
