"""The flags that say what data a command reads, and the reading."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from casejax.cli.options import Parser, numbers
from casejax.data.layouts import LAYOUTS, Arrangement, Splitting, find_layout, read_lines, read_table, timing_of
from casejax.data.layouts.arrays import ORDERS
from casejax.errors import OptionError
from casejax.evaluate.protocols import PROTOCOLS, Protocol
from casejax.records import Dataset, Timing


def add_data_options(parser: Parser, *, layout: str | None = None) -> None:
    """Add the flags of `read_data`.

    Args:
      parser: gains the flags.
      layout: what the help names as the layout that is read unless a flag says otherwise; the command sets it.
    """
    add = parser.add_argument
    shown = layout or "what it looks like"
    add("--data", type=Path, metavar="DIR", help="folder of a published data set")
    add("--layout", choices=LAYOUTS, help=f"of that folder ({shown})")
    add("--features", type=Path, metavar="DIR", help="data of your own: folder with a file of features a video")
    add("--labels", type=Path, metavar="CSV", help="with --features: table of video,label (and split, start,end)")
    add("--streams", metavar="A,B", help="feature streams, comma-separated (all that there are)")
    add_timing_options(parser)
    more = parser.add_argument_group("data of your own").add_argument
    hide = None if parser.everything else argparse.SUPPRESS

    def rare(name: str, help: str, **keywords: Any) -> None:
        more(name, help=hide or help, **keywords)

    rare("--classes", "fixes the classes and their order, one a line (sorted labels)", type=Path, metavar="FILE")
    rare("--accept-labels", "take labels that occur once and are nearly another", action="store_true")
    rare("--train-list", "ids of the training videos, one a line", type=Path, metavar="FILE")
    rare("--test-list", "ids of the test videos, one a line", type=Path, metavar="FILE")
    rare("--test-share", "share of the videos set aside for testing (0)", type=float, default=0.0, metavar="X")
    rare("--split-seed", "seed of that choice (0)", type=int, default=0, metavar="N")


def add_protocol_options(parser: Parser, default: str) -> None:
    """Add the flags of `given_protocol`; `default` says what holds without them."""
    parser.add_argument("--protocol", choices=PROTOCOLS, help=f"how detections are judged ({default})")
    parser.add_argument("--tious", type=numbers, metavar="A,B", help="tIoU thresholds (those of the protocol)")


def given_protocol(arguments: argparse.Namespace, usual: Protocol) -> Protocol:
    """The protocol that the flags name; `usual` where they name none.

    Raises:
      OptionError: thresholds outside (0, 1].
    """
    protocol = usual if arguments.protocol is None else PROTOCOLS[arguments.protocol]
    return protocol if arguments.tious is None else protocol.at(arguments.tious)


def add_timing_options(parser: Parser) -> None:
    """Add the flags of `given_timing` and `given_arrangement`."""
    rows = parser.add_argument_group("rows of features").add_argument
    hide = None if parser.everything else argparse.SUPPRESS
    rows("--snippet-seconds", type=float, metavar="S", help="seconds from one row to the next (0.64: 16 frames at 25)")
    rows("--stride", type=float, metavar="N", help="the same in frames, with --fps")
    rows("--fps", type=float, metavar="X", help="frames a second")
    rows("--frames", type=float, metavar="N", help=hide or "frames that a row is made from (as many as --stride)")
    rows("--first-frame", type=float, metavar="N", help=hide or "where the first row begins (0)")
    rows("--rescaled", action="store_true", help=hide or "rows divide the duration of each video evenly")
    rows("--order", choices=ORDERS, default=ORDERS[0], help=hide or f"the axes of feature arrays ({ORDERS[0]})")
    rows("--crops", type=_crops, default="mean", metavar="X", help=hide or "of crops: mean, or one by number (mean)")


def _crops(text: str) -> Any:
    if text == "mean":
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither mean nor the number of a crop, from 0")
    return int(text)


def given_timing(arguments: argparse.Namespace) -> Timing | None:
    """What the flags say of the time of rows; None where they say nothing.

    Raises:
      OptionError: flags that are incomplete or exclude each other.
    """
    names = ("snippet_seconds", "stride", "fps", "frames", "first_frame", "rescaled")
    return timing_of(**{name: getattr(arguments, name) for name in names})


def given_arrangement(arguments: argparse.Namespace) -> Arrangement:
    """What the flags say of the axes of feature arrays."""
    return Arrangement(arguments.order, arguments.crops)


def given_streams(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """The streams that the flags name; None where they name none."""
    return None if arguments.streams is None else tuple(arguments.streams.split(","))


def check_sources(arguments: argparse.Namespace) -> None:
    """Refuse flags of data that do not go together.

    Raises:
      OptionError: naming them.
    """
    own = arguments.features is not None or arguments.labels is not None
    if arguments.data is not None and own:
        raise OptionError("--data and --features with --labels exclude each other; name one data set")
    if own and (arguments.features is None or arguments.labels is None):
        raise OptionError("data of your own needs both --features DIR and --labels CSV; see --help")
    if own and arguments.layout is not None:
        raise OptionError("--layout is of --data; leave it out")
    tabular = ("classes", "accept_labels", "train_list", "test_list", "test_share")
    given = [name for name in tabular if getattr(arguments, name)]
    if given and not own:
        flag = f"--{given[0].replace('_', '-')}"
        raise OptionError(f"{flag} is for data of your own; leave it out, or give --features and --labels")
    given_timing(arguments)
    given_arrangement(arguments)


def read_data(
    arguments: argparse.Namespace,
    *,
    timing: Timing | None = None,
    classes: tuple[str, ...] | None = None,
    streams: tuple[str, ...] | None = None,
    only_test: bool = False,
    **options: Any,
) -> Dataset:
    """Read what the flags name.

    Args:
      arguments: parsed flags of `add_data_options`.
      timing: of rows where no flag says anything; default what the data says.
      classes: of a table, where no flag names a file of classes.
      streams: where no flag names any.
      only_test: all videos of a table without splits are for testing.
      **options: of `casejax.data.layouts.ReadOptions`.
    """
    options |= {
        "streams": given_streams(arguments) or streams,
        "timing": given_timing(arguments) or timing,
        "arrangement": given_arrangement(arguments),
    }
    if arguments.features is None:
        name = arguments.layout or find_layout(arguments.data)
        return LAYOUTS[name].read(arguments.data, **options)
    splitting = Splitting(
        arguments.train_list, arguments.test_list, arguments.test_share, arguments.split_seed, only_test=only_test
    )
    return read_table(
        arguments.features,
        arguments.labels,
        splitting=splitting,
        classes=classes if arguments.classes is None else tuple(read_lines(arguments.classes)),
        accept_labels=arguments.accept_labels,
        **options,
    )
