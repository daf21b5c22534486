"""Features kept on the device against features streamed from a packed file: steps a second and peak memory.

Run:     python benchmarks/streaming.py

Two data sets, the second four times the first, are packed once; then a process each trains an epoch of them in both
ways, and one only reads its batches. Memory is the growth of the resident set's peak since just before the epoch (the
mapped file's pages count while they are mapped), in batches. Bound: what a step computes; reading goes on beside it.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, grain 0.2.18
    48 videos, float32: 115 MB, packed in 0.26 s, opened in 0.06 s
    48 videos, bfloat16: 57 MB, packed in 0.17 s, opened in 0.03 s
    192 videos, float32: 481 MB, packed in 0.91 s, opened in 0.21 s
    192 videos, bfloat16: 240 MB, packed in 0.49 s, opened in 0.11 s
    a batch: 16 videos x 750 snippets x 2 x 1024
                                   a step  peak growth  batches
    48 videos, float32, device     347 ms       859 MB      8.7
    48 videos, float32, stream     359 ms       709 MB      7.2
    48 videos, float32, read      11.7 ms       139 MB      1.4
    48 videos, bfloat16, stream    375 ms       683 MB     13.9
    192 videos, float32, device    323 ms     1,227 MB     12.5
    192 videos, float32, stream    370 ms       736 MB      7.5
    192 videos, float32, read     27.2 ms       142 MB      1.4
    192 videos, bfloat16, stream   380 ms       688 MB     14.0
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from measure import machine, milliseconds, print_table

from casejax.data.layouts.published import read_dataset, write_dataset
from casejax.records import Dataset, Features, Split, Video
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.runtime import mesh
from casejax.train import feed
from casejax.train.step import num_steps_per_epoch

CLASSES = tuple(f"class{c}" for c in range(20))


def make_dataset(num_videos: int, dim: int) -> Dataset:
    """Random features of 200 to 400 snippets a video; nothing to learn in them."""
    rng = np.random.default_rng(0)

    def split(name: str, count: int) -> Split:
        lengths = rng.integers(200, 400, count)
        videos = tuple(
            Video(f"{name}{v:05}", name, np.array([[0.0, 1.0]]), (CLASSES[v % len(CLASSES)],)) for v in range(count)
        )
        streams = tuple(rng.random((int(lengths.sum()), dim), np.float32) for _ in range(2))
        return Split(name, videos, Features.end_to_end(streams, lengths))

    return Dataset("made up", CLASSES, ("rgb", "flow"), split("train", num_videos), split("test", 20))


def peak() -> int:
    """Greatest resident set so far, bytes (Linux)."""
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024


def measure(data: Path, packed: Path, kind: str, dtype: str) -> dict[str, float]:
    """One epoch in this process."""
    dataset = read_dataset(data, packed=packed, packed_dtype=dtype)
    config = Config.of("case").changed(feed="stream" if kind == "read" else kind, epochs=2)
    place = mesh.make_mesh(1)
    steps = num_steps_per_epoch(len(dataset.train.videos), config)
    batch = config.schedule.batch_size * config.schedule.num_snippets * sum(dataset.dims)
    batch *= dataset.train.features.streams[0].dtype.itemsize
    if kind == "read":
        read = feed.make_reader(dataset.train, dataset.classes, config, place)
        jax.block_until_ready(feed.to_devices(read(0), config.schedule.batch_size, place))
        with feed.prefetched(read, steps, 2 * steps) as batches:
            before = reset_peak()
            since = time.perf_counter()
            for own in batches:
                jax.block_until_ready(feed.to_devices(own, config.schedule.batch_size, place))
            seconds = time.perf_counter() - since
    else:
        graphdef, state = initial_state(config, dataset.dims, len(CLASSES))
        state = mesh.place(state, mesh.state_shardings(state, place, config.method.split))
        before = reset_peak()
        with feed.make_advance(dataset.train, dataset.classes, graphdef, config, place) as advance:
            state, metrics = advance(state, 0, steps)
            jax.block_until_ready(metrics)
            since = time.perf_counter()
            state, metrics = advance(state, steps, steps)
            jax.block_until_ready(metrics)
            seconds = time.perf_counter() - since
    return {"seconds": seconds / steps, "growth": peak() - before, "batch": batch}


def reset_peak() -> int:
    """Start the peak from the present resident set, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=1024, help="feature dimension of each of the two streams")
    parser.add_argument("--videos", type=int, default=48, help="training videos of the smaller data set")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        data, packed, kind, dtype = arguments.one
        print(json.dumps(measure(Path(data), Path(packed), kind, dtype)))
        return
    print(machine("grain"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (arguments.videos, 4 * arguments.videos):
            root = Path(folder, str(count))
            write_dataset(make_dataset(count, arguments.dim), root / "data")
            for dtype in ("float32", "bfloat16"):
                since = time.perf_counter()
                read_dataset(root / "data", packed=root / dtype, packed_dtype=dtype)
                packing = time.perf_counter() - since
                since = time.perf_counter()
                read_dataset(root / "data", packed=root / dtype, packed_dtype=dtype)
                opening = time.perf_counter() - since
                size = sum(os.path.getsize(path) for path in (root / dtype).glob("train-*.features"))
                times = f"packed in {packing:.2f} s, opened in {opening:.2f} s"
                print(f"{count} videos, {dtype}: {size / 1e6:.0f} MB, {times}")
                for kind in ("device", "stream", "read") if dtype == "float32" else ("stream",):
                    command = [sys.executable, __file__, "--one", root / "data", root / dtype, kind, dtype]
                    got = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    growth = f"{got['growth'] / 1e6:,.0f} MB", f"{got['growth'] / got['batch']:.1f}"
                    rows.append((f"{count} videos, {dtype}, {kind}", milliseconds(got["seconds"]), *growth))
    print(f"a batch: 16 videos x 750 snippets x 2 x {arguments.dim}")
    print_table(("", "a step", "peak growth", "batches"), rows)


if __name__ == "__main__":
    main()
