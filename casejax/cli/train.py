"""Train a method on features with video-level labels, or on an embedded synthetic world, and evaluate it."""

from __future__ import annotations

from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from casejax.cli.main import PENN_UNTRIMMED, UNTRIMMED_MOTION, Defaults, stage
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
from casejax.cli.sources import add_data_options, add_protocol_options, check_sources, given_protocol, read_data
from casejax.cli.worlds import SYNTHETIC_WORLD, check_world, world_of, write_world
from casejax.data.layouts import LAYOUTS, find_layout
from casejax.errors import OptionError
from casejax.inference.evaluate import report_on_grid, usual_protocol
from casejax.methods import DATASETS, METHODS, VARIANTS, find
from casejax.methods.contract import THUMOS14
from casejax.run.config import Config
from casejax.runtime.checkpoint import check_place
from casejax.runtime.distributed import is_first, own_part
from casejax.runtime.lock import own_folder
from casejax.runtime.reading import is_text
from casejax.train.experiment import run, run_seeds
from casejax.train.own_data import fit_batch

COMMON = ("seed", "epochs", "num_snippets", "batch_size", "learning_rate")
"""Options that the short help names."""

DEMO = {"epochs": 20}
"""Of `--demo`: a third of the steps on the embedded world."""

CHOICES = (*DATASETS, PENN_UNTRIMMED)
"""Of `--dataset`."""


def main(words: Sequence[str], defaults: Defaults = Defaults(), *, command: str = "casejax train") -> int:
    """Read the command line and the data, train, evaluate, report.

    Args:
      words: of the command line.
      defaults: of the flags.
      command: what stands before the words, for help and for the hint that resumes a stopped run.

    Returns:
      As `run_command`.
    """
    words = list(words)
    again = [*command.split(), *(word for word in words if word != "--resume"), "--resume"]
    return run_command(lambda: _train(words, defaults, command), again)


def _train(words: list[str], defaults: Defaults, command: str) -> None:
    chosen = Parser(prog=command)
    chosen.add_argument("--method", default=defaults.method)
    chosen.add_argument("--variant", choices=VARIANTS)
    chosen.add_argument("--dataset", choices=CHOICES, default=THUMOS14)
    chosen.add_argument("--demo", action="store_true")
    chosen.add_argument("--data", type=Path)
    chosen.add_argument("--features", type=Path)
    first, _ = chosen.parse_known_args(words)
    method = find(first.method)
    variant = first.variant or (defaults.variant if defaults.variant in method.variants else "official")
    world = world_of(first.dataset, first.data, first.features)
    start = Config.of(method.name, variant, THUMOS14 if world == PENN_UNTRIMMED else first.dataset)
    if world is not None:
        sizes = UNTRIMMED_MOTION if world == PENN_UNTRIMMED else defaults.sizes
        if method.learns_instances:  # how long and fast it trains is its own
            sizes = {name: value for name, value in sizes.items() if name not in ("epochs", "learning_rate")}
        start = start.changed(**{name: value for name, value in sizes.items() if name in start.flat()})

    if first.demo:
        if world != SYNTHETIC_WORLD:
            raise OptionError("--demo is the embedded world in short; leave it out, or the data")
        start = start.changed(**DEMO)
    parser = _parser(words, defaults, start, command)
    arguments = parse(parser, words, start)
    given = given_options(arguments, start)
    config = configured(start, given)
    check_sources(arguments)
    check_world(world, arguments)
    join_cluster(arguments)
    use_compilation_cache(arguments.compilation_cache)
    if arguments.features is None:
        arguments.layout = arguments.layout or defaults.layout
    out = arguments.out
    if out is None:
        out = defaults.out or Path("runs", world or method.name)
    if not is_text(str(out)):
        raise OptionError(f"--out {str(out)!r}: its name is no UTF-8, which files are written in; choose another")
    check_place(out)
    with own_folder(out):
        _run(arguments, config, given, out, world, defaults)


def _run(
    arguments: Namespace, config: Config, given: dict[str, Any], out: Path, world: str | None, defaults: Defaults
) -> None:
    """Read the data, train and report, in a folder that is this run's alone."""
    if world is not None:
        write_world(world, arguments, out)
    if is_first():
        stage(f"reading {arguments.data or arguments.features}")
    part, parts = own_part(config.training.data_parts)
    dataset = read_data(arguments, packed=arguments.packed, packed_dtype=arguments.packed_dtype, part=part, parts=parts)
    videos = len(dataset.train.videos)
    if arguments.features is not None and "batch_size" not in given and videos < config.schedule.batch_size:
        config = fit_batch(config, videos)
        stage(f"batches of {videos} videos, as many as there are")
    protocol = given_protocol(arguments, usual_protocol(config, dataset))
    options: dict[str, Any] = {"resume": arguments.resume, "devices": arguments.devices, "protocol": protocol}
    if arguments.seeds:
        results = run_seeds(dataset, config, out, arguments.seeds, **options)
    else:
        result = run(dataset, config, out, **options)
        results = {} if result is None else {config.training.seed: result}
    layout = None if arguments.data is None else LAYOUTS[arguments.layout or find_layout(arguments.data)]
    judged = {
        seed: (each.detections, each.classification)
        for seed, each in results.items()
        if each.detections is not None and each.detection is not None and each.classification is not None
    }
    if layout is not None and layout.on_grid and judged:
        report_on_grid(dataset, judged)


def _parser(words: Sequence[str], defaults: Defaults, start: Config, command: str) -> Parser:
    parser = Parser(
        everything=asks_for_all(words), prog=command, usage=f"{command} [options]", description=defaults.help
    )
    add = parser.add_argument
    add_data_options(parser, layout=defaults.layout)
    add("--out", type=Path, metavar="DIR", help="folder of the run (runs/METHOD, or runs/WORLD)")
    add("--demo", action="store_true", help="the embedded world, in a third of the steps")
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
    add(
        "--dataset",
        choices=CHOICES,
        default=THUMOS14,
        help=f"whose settings to start from ({THUMOS14}); the last: motion composed of Penn Action's labels in --data",
    )
    seed = "seed of the embedded world, or of the motion that is composed (0)" if parser.everything else SUPPRESS
    add("--world-seed", type=int, metavar="N", help=seed)
    add_protocol_options(parser, "case, or activitynet; on all videos")
    add("--seeds", type=parse_seeds, help="several runs and their mean, such as 0,1,2 or 0-4")
    add("--devices", type=int, metavar="N", help="shard the batch over this many devices (all)")
    parser.add_helps()
    add_options(parser, start, common=COMMON)
    add_run_options(parser)
    add_cluster_options(parser)
    return parser
