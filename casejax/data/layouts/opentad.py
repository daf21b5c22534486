"""Read the folders of OpenTAD and ActionFormer: THUMOS14, MultiTHUMOS and others.

    ROOT/annotations/thumos_14_anno.json    {"database": {ID: {"subset", "duration", "frame"?, "fps"?, "annotations":
                                            [{"segment", "label", "label_id"?, "segment(frames)"?}]}}}; or any .json
    ROOT/annotations/category_idx.txt       optional: one class name a line, in the order of the class indices
    ROOT/.../missing_files.txt              optional: ids to leave out, one a line; or blocked.json, a list of ids; in
                                            ROOT, beside the annotations, or beside the features
    ROOT/features                           as `feature_files` says; or the only folder with "feature" in its name
    ROOT/features.json                      what a row of features stands for (`layouts.timing`), such as
                                            {"stride": 4, "fps": 30, "frames": 16}

The annotation files may be in ROOT itself. Subsets are Training, Validation and Test in every spelling of
`folders.WORDS`. Without a category file, `label_id` gives the order of classes. Instances labelled Ambiguous are
intervals in which predictions may not count, and no class. An instance that repeats another of its class is removed,
as the programs of this layout do before training and evaluation; how many there were is said. CliffDiving stays a
class of its own, also where ActionFormer masks it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from casejax.data.layouts.annotations import AMBIGUOUS, find_ids, parse_database, parse_videos, read_json, read_lines
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.checks import Remarks, raise_first, repeated
from casejax.data.layouts.folders import (
    check_folder,
    find_features,
    find_file,
    finish,
    need_file,
    read_categories,
    split_videos,
)
from casejax.errors import DataError
from casejax.records import Dataset, Video

NAMES = ("*_anno.json", "thumos*.json", "multithumos*.json", "activity_net*.json", "*.json")
"""What the annotation file may be called, the likeliest first."""
BLOCKED = ("missing_files.txt", "block*.txt", "block*.json")
SAME_SECONDS = 1e-3  # by which the times of two instances may differ that are one


def read_opentad(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    """Read and check a data set in this layout.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`.

    Returns:
      Both splits; the classes in the order of the category file, of `label_id`, or sorted.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: instances that repeat others, and videos without features or labels, which are left out; annotations
        that are odd and used all the same; rows, durations and annotations that do not fit.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> Path("set/features").mkdir(parents=True)
      >>> labels = [{"label": "Dive", "segment": [0.5, 2.0]}]
      >>> videos = {x: {"subset": x, "duration": 5.76, "annotations": labels} for x in ("Validation", "Test")}
      >>> _ = Path("set/thumos_14_anno.json").write_text(json.dumps({"database": videos}))
      >>> for name in videos:
      ...     np.save(f"set/features/{name}.npy", np.ones((9, 4), np.float32))
      >>> data.read_opentad("set").test.videos[0].segments
      array([[0.5, 2. ]])
    """
    root = check_folder(root)
    path, remarks = need_file(root, *NAMES), Remarks()
    database = parse_database(read_json(path), path)
    left = set(find_ids(database, _blocked(root)))
    entries = {video: entry for video, entry in database.items() if video not in left}
    videos = parse_videos(entries, path, remarks=remarks)
    once = [_without_repeats(video, remarks) for video in videos.values()]
    remarks.warn(path)
    listed = find_file(root, "category_idx.txt", "classes.txt")
    classes = read_categories(listed)
    if classes is None:
        classes, listed = _by_label_id(entries, path), path
    return finish(root, path, split_videos(root, once, path), options, classes=classes, listed=listed)


def _blocked(root: Path) -> list[str]:
    """The ids of the block list; none without one."""
    features = find_features(root)["train"]
    places = [root, *(p for p in (features, *features.glob("*")) if p.is_dir())]
    found = [path for place in places if (path := find_file(place, *BLOCKED)) is not None]
    if len(set(found)) > 1:
        raise DataError(f"{found[0]} and {found[1]}: two lists of videos to leave out; keep one")
    if not found:
        return []
    if found[0].suffix != ".json":
        return read_lines(found[0])
    ids = read_json(found[0])
    if not isinstance(ids, list | dict) or not all(isinstance(video, str) for video in ids):
        raise DataError(f"{found[0]}: is no list of ids; write [ID, ...]")
    return list(ids)


def _without_repeats(video: Video, remarks: Remarks) -> Video:
    """A video without the instances that repeat another of the same class."""
    kept: list[int] = []
    for i, label in enumerate(video.segment_labels):
        same = [video.segments[j] for j in kept if video.segment_labels[j] == label]
        if any(np.abs(segment - video.segments[i]).max() < SAME_SECONDS for segment in same):
            remarks.add("repeated", f"{video.id} {label} {video.segments[i].tolist()}")
        else:
            kept.append(i)
    labels = tuple(video.segment_labels[i] for i in kept)
    return replace(video, segments=video.segments[kept].reshape(-1, 2), segment_labels=labels)


def _by_label_id(entries: Mapping[str, Any], path: Path) -> list[str] | None:
    """The classes in the order of the numbers that the annotations have for them; None where they have none.

    Raises:
      DataError: a class with several numbers, or classes with the same.
    """
    pairs = {
        (instance["label"], number)
        for entry in entries.values()
        for instance in entry.get("annotations") or ()
        if instance["label"].strip().lower() != AMBIGUOUS
        for number in [instance.get("label_id")]
        if isinstance(number, float)
    }
    remedy = f"correct them, or list the classes in {path.parent / 'category_idx.txt'}"
    raise_first(
        f"{path}: class {name!r} has the label_ids {sorted(n for other, n in pairs if other == name)}; {remedy}"
        for name in repeated(name for name, _ in pairs)
    )
    raise_first(
        f"{path}: classes {sorted(name for name, n in pairs if n == number)} have one label_id, {number:g}; {remedy}"
        for number in repeated(number for _, number in pairs)
    )
    return [name for name, _ in sorted(pairs, key=lambda pair: pair[1])] or None
