"""From a folder of features and a table of labels to a trained network, in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from casejax.data.layouts import Splitting, read_table
from casejax.inference.predict import Localizer
from casejax.methods import find
from casejax.records import Timing
from casejax.run.config import Config
from casejax.train.experiment import run


def train_on_table(
    features: str | os.PathLike[str],
    labels: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    method: str = "case",
    variant: str | None = None,
    snippet_seconds: float | None = None,
    timing: Timing | None = None,
    streams: tuple[str, ...] | None = None,
    classes: Sequence[str] | None = None,
    splitting: Splitting | None = None,
    accept_labels: bool = False,
    resume: bool = False,
    devices: int | None = None,
    console: Console | None = None,
    **options: Any,
) -> Localizer:
    r"""Train on data of one's own; `casejax.train(...)` is the same.

    Args:
      features: folder with a file a video, with a folder a stream, or a file of HDF5.
      labels: table with the columns video and label, and more as `casejax.data.read_table` has them.
      out: folder of the run.
      method: what is trained; with `+case`, the clustering head of CASE is put on it.
      variant: of the method; default "corrected", of methods that have it.
      snippet_seconds: seconds from one row to the next, from the start of the video on.
      timing: the same, with all that can be known of it. Default: what `features.json` says, else 16 frames at 25 fps.
      streams: feature streams, in this order; default all that there are.
      classes: names, which fix the classes and their order.
      splitting: which videos are for testing; default those that the table says, or none.
      accept_labels: take labels as they are that occur once and are nearly another.
      resume: go on from the newest checkpoint in `out`.
      devices: shard the batch over this many devices; default all.
      console: where results are printed; default standard output.
      **options: of the method, its schedule and localisation, by name, such as `epochs=100`. Batches are as large as
        the training videos allow, unless `batch_size` is given.

    Returns:
      The trained network.

    Raises:
      DataError: files that cannot be used.
      OptionError: options that do not exist or cannot be used.
      As `casejax.train.run`.

    Example:
      >>> import numpy as np
      >>> from pathlib import Path
      >>> import casejax
      >>> _ = Path("labels.csv").write_text("video,label\na,Dive\nb,Dive\nc,Jump\nd,Jump\ne,Dive\nf,Jump\n")
      >>> Path("features").mkdir()
      >>> for name in "abcdef":
      ...   np.save(f"features/{name}.npy", np.ones((40, 8), np.float32))
      >>> options = {"method": "asl", "hidden": 8, "num_snippets": 32, "epochs": 1, "devices": 1}
      >>> localizer = casejax.train("features", "labels.csv", "out", **options)
      no test videos, so nothing is evaluated; trained in ... s; everything is in out
      >>> localizer.classes
      ('Dive', 'Jump')
    """
    if variant is None:
        variant = "corrected" if "corrected" in find(method).variants else "official"
    config = Config.of(method, variant, **options)
    config.check()
    dataset = read_table(
        features,
        labels,
        splitting=splitting or Splitting(),
        classes=classes,
        accept_labels=accept_labels,
        snippet_seconds=snippet_seconds,
        timing=timing,
        streams=streams,
    )
    if "batch_size" not in options:
        config = fit_batch(config, len(dataset.train.videos))
    run(dataset, config, Path(out), resume=resume, devices=devices, console=console)
    return Localizer.load(out)


def fit_batch(config: Config, num_videos: int) -> Config:
    """Options whose batches are no larger than so many training videos fill."""
    if num_videos >= config.schedule.batch_size:
        return config
    return config.changed(batch_size=num_videos, similar_pairs=min(config.schedule.similar_pairs, num_videos // 2))
