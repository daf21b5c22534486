"""What starting costs: imports beside `import jax`, and the time to the first training step.

Run:     python benchmarks/cold_start.py            two minutes on 2 CPU cores

Every figure is of whole fresh processes that take turns, interpreter start included; medians. An import is bound by
that of jax, which all of them need. The first step is measured from the start of the process to the end of the first
step of a small world, without a persistent compilation cache, with an empty one, and with the one that a run before
has filled (`JAX_COMPILATION_CACHE_DIR`); a warm start is bound by imports and data, the rest is tracing.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, flax 0.12.8, orbax-checkpoint 0.12.8
                                  time  of jax
    python alone               21.7 ms
    import jax                  502 ms   1.00x
    import casejax             22.9 ms   0.05x
    import casejax.ot           504 ms   1.00x
    import casejax.losses       505 ms   1.01x
    import casejax.localize    88.1 ms   0.18x
    import casejax.train.run  1,056 ms   2.10x
    most of import casejax.ot, under -X importtime:
        jax 168 ms, jaxlib 55.8 ms, numpy 50.9 ms, unittest 14 ms, asyncio 8.28 ms, casejax 7.53 ms
    most of import casejax.train.run, under -X importtime:
        jax 202 ms, flax 107 ms, orbax 95.7 ms, casejax 59.6 ms, jaxlib 55.9 ms, numpy 51.9 ms
    to the first training step   process  faster  of it the call of the step
    no cache                    7,287 ms   1.00x                    4,922 ms
    empty cache                 7,481 ms   0.97x                    5,121 ms
    warm cache                  2,884 ms   2.53x                    1,521 ms
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from measure import machine, medians, milliseconds, print_table

IMPORTS = (
    "jax",
    "casejax",
    "casejax.ot",
    "casejax.losses",
    "casejax.localize",
    "casejax.train.experiment",
)

FIRST_STEP = """
import time
import jax
from casejax.data.synthetic import make_world
from casejax.run import state
from casejax.run.config import Config
from casejax.runtime import mesh
from casejax.train import feed, step

config = Config.of("case", "corrected").changed(num_snippets=64, hidden=128)
world = make_world(num_classes=4, dim=32, train_videos=16, test_videos=12, median=60, longest=400)
one = mesh.make_mesh(1)
graphdef, start = state.initial_state(config, world.dims, len(world.classes))
start = jax.device_put(start, mesh.replicated(one))
split = feed.pack(world.train, world.classes, one)
train_steps = step.make_train_steps(graphdef, config, one)
ready = time.perf_counter()
for count in (1, 2):
    start, metrics = train_steps(start, split, jax.numpy.int32(count))
    jax.block_until_ready(metrics)
    if count == 1:
        print(time.perf_counter() - ready)
assert int(start.step) == 3
assert train_steps._cache_size() == 1, "the step was traced for every count"
"""


def python(code: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    kept = {name: value for name, value in os.environ.items() if "COMPILATION_CACHE" not in name}
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True)


def slowest_imports(module: str, count: int) -> list[tuple[str, float]]:
    """The top-level packages in which importing a module spends most, in seconds, what they import left out."""
    report = python(f"import jax, {module}", "-X", "importtime").stderr
    own: dict[str, float] = {}
    for microseconds, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", report):
        package = name.split(".")[0]
        own[package] = own.get(package, 0) + int(microseconds) / 1e6
    return sorted(own.items(), key=lambda item: -item[1])[:count]


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="processes for each import")
    parser.add_argument("--step-repeats", type=int, default=3, help="processes for each first step")
    arguments = parser.parse_args()
    print(machine("flax", "orbax-checkpoint"))

    def importing(name: str) -> Callable[[], object]:
        return lambda: python(f"import {name}")

    times = medians({"python": lambda: python("")} | {n: importing(n) for n in IMPORTS}, repeats=arguments.repeats)
    rows = [[f"import {name}", milliseconds(times[name]), f"{times[name] / times['jax']:.2f}x"] for name in IMPORTS]
    print_table(["", "time", "of jax"], [["python alone", milliseconds(times["python"]), ""], *rows])
    for name in ("casejax.ot", "casejax.train.experiment"):
        shares = ", ".join(f"{package} {milliseconds(value)}" for package, value in slowest_imports(name, 6))
        print(f"most of import {name}, under -X importtime:\n    {shares}")

    with tempfile.TemporaryDirectory() as folder:
        minimum = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        warm = minimum | {"JAX_COMPILATION_CACHE_DIR": os.path.join(folder, "warm")}
        first: dict[str, list[float]] = {"no cache": [], "empty cache": [], "warm cache": []}

        def starting(name: str, environment: Callable[[], dict[str, str]]) -> Callable[[], object]:
            return lambda: first[name].append(float(python(FIRST_STEP, **environment()).stdout))

        runs = {
            "no cache": starting("no cache", dict),
            "empty cache": starting(
                "empty cache", lambda: minimum | {"JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(dir=folder)}
            ),
            "warm cache": starting("warm cache", lambda: warm),
        }
        runs["warm cache"]()  # fills it
        first["warm cache"].clear()
        times = medians(runs, repeats=arguments.step_repeats, warm=False)
    rows = [
        [name, milliseconds(value), f"{times['no cache'] / value:.2f}x", milliseconds(statistics.median(first[name]))]
        for name, value in times.items()
    ]
    print_table(["to the first training step", "process", "faster", "of it the call of the step"], rows)


if __name__ == "__main__":
    main()
