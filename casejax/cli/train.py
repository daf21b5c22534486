"""Train a method on features with video-level labels, or on an embedded synthetic world, and evaluate it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from casejax.cli.options import (
    Parser,
    add_cluster_options,
    add_options,
    add_run_options,
    asks_for_all,
    configured,
    given_options,
    join_cluster,
    parse,
    parse_seeds,
    run_command,
    use_compilation_cache,
)
from casejax.data.layouts import LAYOUTS
from casejax.data.synthetic import make_world
from casejax.errors import OptionError
from casejax.inference.evaluate import report_on_grid
from casejax.methods import METHODS, VARIANTS, find
from casejax.run.config import Config
from casejax.runtime.distributed import is_first, own_part, wait_for_all
from casejax.train.experiment import run, run_seeds

SYNTHETIC = MappingProxyType({"num_snippets": 256, "epochs": 60, "learning_rate": 1e-3, "log_every": 10})
"""Sizes for the embedded world, smaller than THUMOS14: fewer snippets and, for fewer steps, larger ones."""


COMMON = ("seed", "epochs", "num_snippets", "batch_size", "learning_rate")
"""Options that the short help names."""


@dataclass(frozen=True)
class Defaults:
    """What a command starts from where no flag says otherwise.

    Attributes:
      method: what is trained.
      variant: of the methods that have variants.
      layout: of the folder of data.
      out: folder of the run; None for runs/METHOD, or runs/synthetic without data.
      sizes: options for the embedded world.
      help: what the help begins with.
    """

    method: str = "case"
    variant: str = "corrected"
    layout: str = "published"
    out: Path | None = None
    sizes: Mapping[str, Any] = field(default_factory=lambda: SYNTHETIC)
    help: str = __doc__


def main(words: Sequence[str] | None = None, defaults: Defaults = Defaults(), *, command: str = "casejax train") -> int:
    """Read the command line and the data, train, evaluate, report.

    Args:
      words: of the command line; default those of the process.
      defaults: of the flags.
      command: what stands before the words, for help and for the hint that resumes a stopped run.

    Returns:
      As `run_command`.
    """
    words = list(sys.argv[1:] if words is None else words)
    again = [*command.split(), *(word for word in words if word != "--resume"), "--resume"]
    return run_command(lambda: _train(words, defaults, command), again)


def _train(words: list[str], defaults: Defaults, command: str) -> None:
    chosen = Parser(prog=command)
    chosen.add_argument("--method", default=defaults.method)
    chosen.add_argument("--variant", choices=VARIANTS)
    chosen.add_argument("--data", type=Path)
    first, _ = chosen.parse_known_args(words)
    method = find(first.method)
    variant = first.variant or (defaults.variant if defaults.variant in method.variants else "official")
    start = Config.of(method.name, variant)
    if first.data is None:
        start = start.changed(**{name: value for name, value in defaults.sizes.items() if name in start.flat()})

    parser = _parser(words, defaults, start, command)
    arguments = parse(parser, words, start)
    config = configured(start, given_options(arguments, start))
    join_cluster(arguments)
    use_compilation_cache(arguments.compilation_cache)
    layout = LAYOUTS[arguments.layout]
    out, data = arguments.out, arguments.data
    if out is None:
        out = defaults.out or Path("runs", "synthetic" if data is None else method.name)
    if data is None:
        data = out / "world"
        if is_first() and not data.exists():
            layout.write(make_world(), data)
        wait_for_all("the world is written")
    part, parts = own_part(config.training.data_parts)
    packing: dict[str, Any] = {}
    if layout.packs:
        packing = {
            "packed": arguments.packed,
            "packed_dtype": arguments.packed_dtype,
            "part": part,
            "parts": parts,
        }
    elif arguments.packed or parts > 1:
        raise OptionError(
            f"--layout {arguments.layout} is read whole, into memory; leave out --packed and --data-parts"
        )
    dataset = layout.read(data, streams=tuple(arguments.streams.split(",")), **packing)
    options = {"resume": arguments.resume, "devices": arguments.devices}
    if arguments.seeds:
        results = run_seeds(dataset, config, out, arguments.seeds, **options)
    else:
        result = run(dataset, config, out, **options)
        results = {} if result is None else {config.training.seed: result}
    if layout.on_grid and results:
        report_on_grid(dataset, {seed: (each.detections, each.classification) for seed, each in results.items()})


def _parser(words: Sequence[str], defaults: Defaults, start: Config, command: str) -> Parser:
    parser = Parser(everything=asks_for_all(words), prog=command, description=defaults.help)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder of the data set; default: a synthetic world")
    add("--layout", choices=LAYOUTS, default=defaults.layout, help=f"of that folder ({defaults.layout})")
    add("--streams", default="rgb,flow", help="feature streams, comma-separated (rgb,flow)")
    add("--out", type=Path, metavar="DIR", help="folder of the run (runs/METHOD; runs/synthetic without --data)")
    add("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    add(
        "--method",
        default=defaults.method,
        metavar="NAME",
        help=f"{', '.join(METHODS)}; with +case at its end, such as co2net+case, the clustering head of CASE on it "
        f"({defaults.method})",
    )
    add(
        "--variant", choices=VARIANTS, help=f"options to start from, of methods that have variants ({defaults.variant})"
    )
    add("--seeds", type=parse_seeds, help="several runs and their mean, such as 0,1,2 or 0-4")
    add("--devices", type=int, metavar="N", help="shard the batch over this many devices (all)")
    parser.add_helps()
    add_options(parser, start, common=COMMON)
    add_run_options(parser)
    add_cluster_options(parser)
    return parser
