"""Instances of the training videos that a student learns from: found by a teacher, annotated, or around time stamps.

A teacher is the run of any method. Its proposals in the training videos, of classes that a video is labelled with, are
fused; what `casejax.labels.instances.keep_instances` keeps is taught. Test videos are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from casejax import localize
from casejax.errors import CheckpointError, DataError, OptionError
from casejax.inference.evaluate import localize_snippets
from casejax.inference.scoring import make_scorer, make_test_scorer, score_whole_videos
from casejax.labels import Instances
from casejax.labels.instances import keep_instances
from casejax.records import Dataset, Localization, SegmentTable, SnippetScores
from casejax.run.config import Config
from casejax.run.folder import Restored, restore_run
from casejax.run.state import TrainState
from casejax.runtime import mesh as placement
from casejax.train.step import num_steps_per_epoch

MOST_FUSED = 256  # proposals of a class in a video, the best
FUSED_OVERLAP = 0.2  # tIoU from which proposals are one instance


class Taught(NamedTuple):
    """Instances in the snippets of V videos, and what is to be said of them.

    Attributes:
      table: kept and doubtful instances, `score` their weight, 0 for the doubtful; in snippets.
      notes: sentences.
    """

    table: SegmentTable
    notes: tuple[str, ...] = ()


class Teaching:
    """When a student's instances are made, and how.

    Args:
      dataset: whose training videos are labelled.
      graphdef: the student's structure.
      config: its options.
      mesh: devices.
      teacher: the run that finds instances; default that of the option `teacher`, read when it is needed.
      say: takes the notes, a sentence each.
    """

    def __init__(
        self,
        dataset: Dataset,
        graphdef: nnx.GraphDef[Any],
        config: Config,
        mesh: Mesh,
        *,
        teacher: Restored | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        total = config.schedule.epochs * num_steps_per_epoch(len(dataset.train.videos), config)
        times = config.settings.relabel if config.settings.supervision == "weak" else 0
        self.steps = [0, *(round(total * (1 + n / times) / 2) for n in range(times))]
        self._dataset, self._graphdef, self._config, self._mesh = dataset, graphdef, config, mesh
        self._teacher, self._say = teacher, say

    def until_next(self, step: int) -> int | None:
        """Steps from here to the next labelling; None if there is none."""
        return min((due - step for due in self.steps if due > step), default=None)

    def refresh(self, state: TrainState, step: int) -> TrainState:
        """The state with the instances that are due by this step, if they are not made yet.

        Raises:
          DataError, OptionError, CheckpointError: as `first_instances`.
        """
        due, made = sum(first <= step for first in self.steps), int(state.labels.made)
        if made >= due:
            return state
        place = placement.state_shardings(state, self._mesh, self._config.method.split).labels
        try:
            taught = self._own(state) if made else first_instances(self._dataset, self._config, self._teacher)
        except DataError as error:
            if not made:
                raise
            self._say(f"{error}; the instances stay as they are")
            return state._replace(labels=state.labels._replace(made=placement.place(jnp.int32(due), place.made)))
        for note in taught.notes:
            self._say(note)
        videos = len(self._dataset.train.videos)
        packed = pack_instances(taught.table, videos, self._config.settings.max_instances)
        packed = packed._replace(made=jnp.int32(due))
        return state._replace(labels=placement.place(packed, place))

    def _own(self, state: TrainState) -> Taught:
        """From the student's own proposals, with the running mean of its parameters."""
        average = optax.tree_utils.tree_get(state.opt_state, "average")
        scorer = partial(make_scorer(self._graphdef, self._config), placement.local(average), ())
        scores = score_whole_videos(scorer, self._dataset.train.features)
        return teach(scores, self._dataset, self._config.localization, self._config)


def first_instances(dataset: Dataset, config: Config, teacher: Restored | None = None) -> Taught:
    """The instances that a run begins with.

    Raises:
      OptionError: nothing to learn from is named.
      CheckpointError: a teacher that cannot be read, or of other features or classes.
      DataError: no instance is left to learn from, or annotated times are missing.
    """
    settings = config.settings
    annotated = dataset.train.ground_truth(dataset.classes)
    if settings.supervision != "weak" and not len(annotated.score):
        raise DataError(
            f"{dataset.source}: no training video has annotated times for --supervision {settings.supervision}; use "
            "--supervision weak with --teacher RUN"
        )
    annotated = _in_snippets(annotated, dataset)
    if settings.supervision == "segments":
        untimed = int((~dataset.train.timed).sum())
        if untimed:
            raise DataError(
                f"{dataset.source}: {untimed} training videos have labels without times, which --supervision segments "
                "would take for background; annotate them or leave them out"
            )
        return Taught(annotated, (f"{len(annotated.score)} annotated instances",))
    if teacher is None and settings.teacher:
        teacher = restore_run(Path(settings.teacher))
    found = None if teacher is None else _found_by(teacher, dataset, config)
    if settings.supervision == "points":
        return _around_points(annotated, found, dataset, config)
    if found is None or teacher is None:
        raise OptionError(
            "method student learns from a teacher's instances: name its run by --teacher RUN, or annotate the training "
            "videos and pass --supervision segments"
        )
    return found._replace(notes=tuple(f"{teacher.folder}: {note}" for note in found.notes))


def check_teacher(teacher: Restored, dataset: Dataset) -> None:
    """Refuse a teacher of other classes or features than a data set's.

    Raises:
      CheckpointError: naming both.
    """
    data = teacher.meta["data"]
    for name, ours in (("classes", dataset.classes), ("streams", dataset.streams), ("dims", dataset.dims)):
        if list(data[name]) != list(ours):
            raise CheckpointError(
                f"{teacher.folder} was trained with {name} {list(data[name])}, {dataset.source} has {list(ours)}; "
                "name a teacher that was trained on the same classes and features"
            )
    teacher.check_timing(dataset.timing, dataset.source)
    teacher.check_provenance(dataset.provenance, dataset.source)


def provenance(teacher: Restored) -> dict[str, Any]:
    """What a student's run stores of its teacher."""
    return {
        "run": str(teacher.folder),
        "method": teacher.config.describe(),
        "seed": teacher.config.training.seed,
        "step": int(teacher.state.step),
        "casejax": teacher.meta["casejax"],
        "source": teacher.meta["data"]["source"],
        "teacher": teacher.meta.get("teacher"),
    }


def _found_by(teacher: Restored, dataset: Dataset, config: Config) -> Taught:
    check_teacher(teacher, dataset)
    train = replace(dataset, test=dataset.train)
    scored = make_test_scorer(teacher.graphdef, train, teacher.config)
    scores = scored(teacher.state.params, teacher.state.cluster_labels).scores
    return teach(scores, dataset, teacher.config.localization, config)


def teach(scores: SnippetScores, dataset: Dataset, options: Localization, config: Config) -> Taught:
    """Instances from scores of the training videos.

    Args:
      scores: of the training videos.
      dataset: that has them, and their labels.
      options: how the scores become proposals.
      config: the student's options.

    Raises:
      DataError: no instance of any class is kept.
    """
    settings, train, classes = config.settings, dataset.train, dataset.classes
    labels = train.multi_hot(classes)
    # A class is there if the video is labelled with it, whatever the teacher says of the video.
    scores = scores._replace(video=jnp.asarray(labels))
    options = replace(options, fusion="none", class_threshold=0.5, score_weight=0.0)
    keep_all = None if options.proposals == "positive" else _best_of_groups
    found = localize_snippets(scores, train.features.lengths, np.ones(len(labels)), options, keep_all)
    found = found.take(labels[found.video, found.label] > 0)
    fused = localize.fuse_table(
        found.segment,
        found.score,
        found.video * len(classes) + found.label,
        temperature=settings.fusion_temperature,
        overlap=localize.temporal_iou,
        threshold=FUSED_OVERLAP,
    )
    weights, taken = keep_instances(
        fused.segment,
        fused.score,
        fused.spread,
        fused.group,
        keep=settings.keep,
        doubt=settings.doubt,
        spread_weight=settings.spread_weight,
    )
    kept = weights > 0
    video, label = np.divmod(fused.group, len(classes))
    table = SegmentTable(video, label, fused.segment, weights).take(taken)
    if not kept.any():  # the best of a class in a video is kept, whatever `keep` is, if its score is above 0
        raise DataError(
            f"{dataset.source}: nothing is found in its {len(train.videos)} training videos; train the teacher longer"
        )
    notes = [
        f"{len(found.score)} proposals in {len(train.videos)} training videos became {len(kept)} instances: "
        f"{int(kept.sum())} are taught, {int((taken & ~kept).sum())} ignored as doubtful (below {settings.keep:g} of "
        f"the best of their class and video), {int((~taken).sum())} thrown away (below {settings.doubt:g})"
    ]
    absent = [name for c, name in enumerate(classes) if labels[:, c].any() and not (kept & (label == c)).any()]
    if absent:
        notes.append(f"no instance of {', '.join(absent)}: trained without")
    return Taught(table, tuple(notes))


def _best_of_groups(segment: np.ndarray, score: np.ndarray, group: np.ndarray) -> localize.Survivors:
    """In the place of suppression: every proposal, the best `MOST_FUSED` of a group."""
    order = np.lexsort((-score, group))
    _, first, counts = np.unique(group[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, counts)
    row = order[(rank < MOST_FUSED) & (score[order] > 0)]
    return localize.Survivors(row, score[row])


def _in_snippets(table: SegmentTable, dataset: Dataset) -> SegmentTable:
    """Annotated instances of the training videos in snippets, cut to the video; those outside are left out."""
    lengths = dataset.train.features.lengths[table.video].astype(np.float64)
    seconds = dataset.row_seconds(dataset.train)[table.video]
    segment = (table.segment - dataset.timing.offset) / seconds[:, None]
    segment = np.clip(segment, 0, lengths[:, None])
    return table._replace(segment=segment).take(segment[:, 1] > segment[:, 0])


def _around_points(annotated: SegmentTable, found: Taught | None, dataset: Dataset, config: Config) -> Taught:
    """Instances around one time stamp in each annotated instance, drawn at random: the teacher's best that covers it.

    Where no proposal does, or there is no teacher, a segment of `point_width`. Proposals without a time stamp are
    background, since every instance has one.
    """
    rng = np.random.default_rng(config.training.seed)
    points = rng.uniform(annotated.segment[:, 0], annotated.segment[:, 1])
    lengths = dataset.train.features.lengths[annotated.video].astype(np.float64)
    half = config.settings.point_width / 2
    segment = np.clip(points[:, None] + [[-half, half]], 0, lengths[:, None])
    covered = 0
    if found is not None:
        table = found.table
        for row, (video, label, point) in enumerate(zip(annotated.video, annotated.label, points, strict=True)):
            own = (table.video == video) & (table.label == label) & (table.segment[:, 0] <= point)
            own = np.flatnonzero(own & (table.segment[:, 1] > point))
            if len(own):
                segment[row] = table.segment[own[np.argmax(table.score[own])]]
                covered += 1
    note = f"{len(points)} time stamps, {covered} of them within an instance of the teacher"
    # Several time stamps in one proposal name one instance.
    rows = np.unique(np.column_stack([annotated.video, annotated.label, segment]), axis=0)
    return Taught(SegmentTable.from_rows(rows[:, 0], rows[:, 1], rows[:, 2:]), (note,))


def pack_instances(table: SegmentTable, num_videos: int, most: int) -> Instances:
    """Instances of a table, video by video, as arrays of one size; the best where there are more than fit.

    Raises:
      OptionError: more that are sure than fit.
    """
    sure = np.bincount(table.video[table.score > 0], minlength=num_videos)
    if sure.max(initial=0) > most:
        raise OptionError(
            f"a training video has {sure.max()} instances, above max_instances {most}; pass --max-instances "
            f"{sure.max()}"
        )
    order = np.lexsort((-table.score, table.video))
    table = table.take(order)
    counts = np.bincount(table.video, minlength=num_videos)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    table, rank = table.take(rank < most), rank[rank < most]
    empty = jax.tree.map(np.array, Instances.empty(num_videos, most))
    place = table.video, rank
    empty.segments[place], empty.labels[place], empty.weights[place] = table.segment, table.label, table.score
    empty.mask[place] = True
    return empty
