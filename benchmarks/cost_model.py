"""What a training step costs by count: operations, bytes and collectives, and the time that predicts on given chips.

Run:     python benchmarks/cost_model.py            ActivityNet 1.3 on 8 to 256 chips
         python benchmarks/cost_model.py --thumos   THUMOS14, one chip
         python benchmarks/cost_model.py --kernels  what Pallas kernels of Sinkhorn and soft-DTW could gain

Counts follow from the shapes; `benchmarks/collectives.py` finds the same bytes in the compiled program. Times are a
PREDICTION from the makers' peak rates below and the efficiencies given as options; nothing of it was measured on them.
"""

import argparse
from dataclasses import dataclass

import jax
from measure import milliseconds, print_table

from casejax.run.config import Config
from casejax.run.state import initial_state


@dataclass(frozen=True)
class Chip:
    """Peak rates as published by the maker.

    `flops` in bfloat16 a second, `memory` and `link` in bytes a second; `link` is what a chip sends to others.
    """

    flops: float
    memory: float
    link: float


CHIPS = {"TPU v5e": Chip(197e12, 819e9, 200e9), "H200": Chip(989e12, 4.8e12, 450e9)}


@dataclass(frozen=True)
class Cost:
    """One step on one of the chips that share a batch."""

    flops: float  # products of the encoders, forward and for their weights
    memory: float  # bytes read and written
    all_reduce: float  # bytes
    all_gather: float  # bytes, after gathering


def cost(config: Config, dims: tuple[int, ...], num_classes: int, chips: int) -> Cost:
    """Count what `config.schedule.batch_size` videos over so many chips take, bfloat16 features and encoders."""
    snippets = config.schedule.batch_size * config.schedule.num_snippets
    own, hidden, clusters = snippets / chips, config.settings.base.hidden, config.settings.head.num_clusters
    parameters = sum(p.size for p in jax.tree.leaves(initial_state(config, dims, num_classes)[1].params))
    features = own * sum(dims) * 2
    # Activations of both branches: written and read forward, for their gradient and for the weights'; float32.
    activations = own * 2 * len(dims) * hidden * 4 * 6
    # Plans of K columns: read or written about twice an iteration of Sinkhorn.
    plans = own * clusters * 4 * 2 * (config.settings.head.sinkhorn_iters + 2)
    return Cost(
        flops=2 * 2 * 2 * own * sum(dims) * hidden,
        memory=4 * features + activations + plans + 4 * 7 * parameters,
        all_reduce=4 * (parameters + len(dims) * (clusters + 2) * (hidden + 1)) if chips > 1 else 0,
        all_gather=4 * snippets if chips > 1 else 0,
    )


def kernels(efficiency: float, launch: float, step: float) -> None:
    """Print what XLA's programs and kernels written by hand must move and start, and the times that predicts.

    Sinkhorn, 3 iterations: XLA passes 12 times over the scores, as `benchmarks/sinkhorn.py` counts. Rows meet in the
    column sums alone, so a kernel can find a row's sum, and what the row adds to the next column sums, in one pass: 4,
    and 2 for the plan, each a start, since the sums are those of all blocks.

    Soft-DTW, value and gradient: XLA starts a program for each of N + M - 1 diagonals, forth and back, and lays cost
    and gradient askew first: 9 passes over N x M numbers at least. A kernel keeps the diagonal on the chip: it reads
    the costs, writes accumulated ones, reads both again and writes the gradient.
    """
    rows = []

    def add(name: str, entries: int, passes: tuple[int, int], started: tuple[float, float]) -> None:
        for chip, rate in CHIPS.items():
            moved = [4 * entries * each for each in passes]
            times = [max(b / rate.memory / efficiency, t) for b, t in zip(moved, started, strict=True)]
            megabytes = (f"{b / 1e6:,.0f}" for b in moved)
            rows.append((name, chip, *megabytes, *map(milliseconds, times), f"{times[0] / times[1]:.1f}x"))

    for n, k in ((12_000, 16), (200_000, 16), (1_000_000, 128), (10_000_000, 16)):
        add(f"Sinkhorn, {n:,} x {k}", n * k, (12, 6), (12 * launch, 6 * launch))
    for b, n, m in ((8, 400, 400), (2, 2000, 2000)):
        diagonals = 2 * (n + m - 1)
        add(f"soft-DTW, {b} x {n:,} x {m:,}", b * n * m, (9, 5), (diagonals * launch, diagonals * step))
    starts = f"{1e6 * launch:g} us a start, {1e6 * step:g} us a diagonal inside a kernel"
    print(f"PREDICTION at {efficiency:.0%} of the peak rates, {starts}")
    print_table(("", "chip", "MB by XLA", "by a kernel", "time by XLA", "by a kernel", "gain"), rows)


def main() -> None:
    """Print counts and predictions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thumos", action="store_true", help="THUMOS14 instead of ActivityNet 1.3")
    parser.add_argument("--videos-a-chip", type=int, default=16)
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the peak rates that is reached")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds that a collective takes at least")
    parser.add_argument("--collectives", type=int, default=17, help="of a step, as benchmarks/collectives.py counts")
    parser.add_argument("--kernels", action="store_true", help="kernels of Sinkhorn and soft-DTW instead")
    parser.add_argument("--launch", type=float, default=5e-6, help="seconds to start a program on a chip")
    parser.add_argument("--step", type=float, default=0.5e-6, help="seconds of a diagonal inside a kernel")
    arguments = parser.parse_args()
    if arguments.kernels:
        kernels(arguments.efficiency, arguments.launch, arguments.step)
        return
    config, num_classes, videos, counts = (
        Config.of("case").changed(num_snippets=50, num_clusters=64),
        200,
        10_024,
        (8, 32, 64, 256),
    )
    if arguments.thumos:
        config, num_classes, videos, counts = Config.of("case"), 20, 200, (1,)
    rows = []
    for name, chip in CHIPS.items():
        for count in counts:
            batch = arguments.videos_a_chip * count
            own = cost(config.changed(batch_size=batch), (1024, 1024), num_classes, count)
            compute = max(own.flops / chip.flops, own.memory / chip.memory) / arguments.efficiency
            traffic = 2 * own.all_reduce + own.all_gather
            talk = traffic / chip.link / arguments.efficiency + (arguments.latency * arguments.collectives) * (
                count > 1
            )
            rows.append(
                (
                    f"{count} x {name}",
                    f"{batch:,}",
                    f"{own.flops / 1e9:.3g}",
                    f"{own.memory / 1e6:,.0f}",
                    f"{traffic / 1e6:.3g}",
                    milliseconds(compute),
                    milliseconds(talk),
                    f"{(compute + talk) * (videos // batch):.2g} s",
                )
            )
    print(f"PREDICTION at {arguments.efficiency:.0%} of the peak rates, {arguments.videos_a_chip} videos a chip")
    head = ("", "videos a step", "GFLOP a chip", "MB moved", "MB sent", "computing", "talking", "an epoch")
    print_table(head, rows)


if __name__ == "__main__":
    main()
