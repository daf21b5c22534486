"""What the devices of a training step say to each other: every collective of the compiled program, with its bytes.

Run:     python benchmarks/collectives.py           1, 2, 4, 8 data-parallel devices, and 4 x 2 with a sharded network

The program is compiled for simulated CPU devices and read, not run. Bytes are of the result of each collective on one
device. Bounds of the design: gradients once (all parameters), prototypes and their gradients (K x D each), columns of
Sinkhorn (K), and the ranks (N numbers, for N snippets); never anything of N x D.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2
    parameters 8,548,520 bytes; N = 12,000; N x D 24,576,000 bytes
    data x model  collectives  all-reduce, bytes  others, bytes  largest, and its largest array
    1 x 1                   0                  0              0                         none ()
    2 x 1                  17          8,623,348         48,000          all-reduce (512, 1024)
    4 x 1                  17          8,623,348         48,000          all-reduce (512, 1024)
    8 x 1                  17          8,623,348         48,000          all-reduce (512, 1024)
    4 x 2                  26          5,225,108         48,000          all-reduce (256, 1024)
"""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import argparse
import collections
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, print_table

from casejax.data.sampling import PackedSplit
from casejax.methods import VARIANTS
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.runtime import mesh as placement
from casejax.train.step import make_train_steps

COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"([a-z]+\d*)\[([\d,]*)\]")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def compiled_step(config: Config, dims: tuple[int, ...], num_classes: int, devices: int, model_devices: int) -> str:
    """The optimised program of a step, as text."""
    mesh = placement.make_mesh(devices, model_devices)
    graphdef, state = initial_state(config, dims, num_classes)
    state = placement.place(state, placement.state_shardings(state, mesh, config.method.split))
    lengths = np.full(2 * config.schedule.batch_size, 10, np.int32)
    host = (
        tuple(np.zeros((int(lengths.sum()), dim), np.float32) for dim in dims),
        np.cumsum(lengths, dtype=np.int32) - lengths,
        lengths,
        np.zeros((len(lengths), num_classes), np.float32),
    )
    split = PackedSplit(*placement.place(host, placement.replicated(mesh)))
    return make_train_steps(graphdef, config, mesh).lower(state, split, jnp.int32(1)).compile().as_text()


def collectives(program: str) -> list[tuple[str, list[tuple[int, ...]], int]]:
    """Kind, shapes and bytes of every collective of a compiled program."""
    found = []
    for line in program.splitlines():
        if match := COLLECTIVE.search(line):
            arrays = [(kind, tuple(int(n) for n in dims.split(",") if n)) for kind, dims in ARRAY.findall(match[1])]
            size = sum(BYTES[kind] * math.prod(shape) for kind, shape in arrays)
            found.append((match[2], [shape for _, shape in arrays], size))
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=VARIANTS, default="official")
    parser.add_argument("--list", action="store_true", help="print every collective of the last mesh")
    arguments = parser.parse_args()
    config, dims, num_classes = Config.of("case", arguments.variant), (1024, 1024), 20
    snippets = config.schedule.batch_size * config.schedule.num_snippets
    parameters = jax.tree.leaves(initial_state(config, dims, num_classes)[1].params)
    print(machine())
    size = 4 * sum(p.size for p in parameters)
    print(f"parameters {size:,} bytes; N = {snippets:,}; N x D {4 * snippets * config.settings.base.hidden:,} bytes")
    rows, found = [], []
    for devices, model_devices in ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2)):
        found = collectives(compiled_step(config, dims, num_classes, devices, model_devices))
        sums: collections.Counter[str] = collections.Counter()
        for kind, _, size in found:
            sums[kind] += size
        biggest = max(found, key=lambda c: c[2], default=("none", [], 0))
        rows.append(
            (
                f"{devices // model_devices} x {model_devices}",
                f"{len(found)}",
                f"{sums['all-reduce']:,}",
                f"{sum(sums.values()) - sums['all-reduce']:,}",
                f"{biggest[0]} {max(biggest[1], key=math.prod, default=())}",
            )
        )
    print_table(
        ("data x model", "collectives", "all-reduce, bytes", "others, bytes", "largest, and its largest array"), rows
    )
    if arguments.list:
        for kind, shapes, size in sorted(found, key=lambda c: -c[2]):
            print(f"{kind:20} {size:>12,}  {' '.join(str(shape) for shape in shapes)}")


if __name__ == "__main__":
    main()
