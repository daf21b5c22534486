"""Which model of a run is evaluated: the last, or the best of several by a judge; and what the judge sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from casejax.errors import DataError
from casejax.records import Dataset, Split
from casejax.run.state import TrainState


@dataclass(frozen=True)
class Selection:
    """The judge of a run's candidates.

    Attributes:
      judge: a state (on the devices) to its score; greater is better.
      every: steps between candidates; the last step is one too.
    """

    judge: Callable[[TrainState], float]
    every: int


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Set a share of the training videos aside.

    A class keeps at least one of its training videos, so fewer may be set aside than asked for.

    Args:
      dataset: with segment annotations on its train split.
      share: of the training videos to set aside, between 0 and 1.
      seed: which ones.

    Returns:
      The data set without these videos, and one whose test split they are.

    Raises:
      DataError: nothing can be set aside, or what can has no segment to judge by.

    Example:
      >>> from casejax import data, train
      >>> world = data.make_world(num_classes=2, dim=8, train_videos=6, test_videos=6, median=20, longest=40)
      >>> rest, held = train.hold_out(world, share=0.3, seed=0)
      >>> len(rest.train.videos), len(held.test.videos)
      (4, 2)
    """
    videos = dataset.train.videos
    own = dataset.train.multi_hot(dataset.classes)
    remaining = own.sum(axis=0)
    aside: list[int] = []
    for v in np.random.default_rng(seed).permutation(len(videos)):
        if len(aside) >= round(share * len(videos)):
            break
        if (remaining - own[v] >= own[v]).all():
            remaining -= own[v]
            aside.append(int(v))
    if not aside or not any(len(videos[v].segments) for v in aside):
        raise DataError(
            f"{dataset.source}: no annotated training video can be set aside at --holdout {share} of "
            f"{len(videos)}; use --select last, or a larger share"
        )
    held = np.zeros(len(videos), bool)
    held[aside] = True
    return (
        replace(dataset, train=_take(dataset.train, np.flatnonzero(~held))),
        replace(dataset, test=_take(dataset.train, np.flatnonzero(held))),
    )


def _take(split: Split, index: np.ndarray) -> Split:
    return Split(split.name, tuple(split.videos[v] for v in index), split.features.take(index))
