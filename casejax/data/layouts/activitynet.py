"""Read ActivityNet 1.2 and 1.3, and other sets annotated in their JSON (HACS, FineAction, ACM-Net's THUMOS14).

    ROOT/activity_net.v1-3.min.json    {"database": {ID: {"subset", "duration", "annotations"}}, "taxonomy"?}, or its
                                       entries without "database"; or any other .json, here or in `annotations`
    ROOT/features                      as `feature_files` says; or `features/train`, `features/test`
    ROOT/split_train.txt, split_test.txt    optional: one id a line
    ROOT/classes.txt, category_idx.txt      optional: one class name a line, in the order wanted
    ROOT/features.json                 optional: what a row of features stands for (`layouts.timing`)

Ids may have `v_` before them in one file and not in another. Subsets are told by the words training, validation and
testing, in every spelling of `folders.WORDS`; the videos for testing, whose labels are secret, are not the test split.
Where there are lists, entries of videos that they do not name are not looked at. Videos without features are counted
and left out: many videos of this set cannot be had any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from casejax.data.layouts.annotations import parse_database, parse_videos, read_json
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.folders import (
    check_folder,
    find_file,
    finish,
    need_file,
    read_categories,
    read_lists,
    split_by_lists,
    split_by_subset,
)
from casejax.errors import DataError
from casejax.records import Dataset

NAMES = ("activity_net*.json", "ActivityNet*.json", "*anet*.json", "gt.json", "*.json")
"""What the annotation file may be called, the likeliest first."""


def read_activitynet(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    """Read and check a data set in this layout.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`.

    Returns:
      Both splits. The classes are those of `classes.txt` or `category_idx.txt`, otherwise the leaves of the
      taxonomy, or the labels of the training videos, sorted.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: videos without features or labels, which are left out; annotations that are odd and used all the
        same; rows, durations and annotations that do not fit.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> Path("set/features").mkdir(parents=True)
      >>> labels = [{"label": "Dive", "segment": [0.5, 2.0]}]
      >>> videos = {x: {"subset": x, "duration": 5.76, "annotations": labels} for x in ("training", "validation")}
      >>> _ = Path("set/activity_net.v1-3.min.json").write_text(json.dumps({"database": videos}))
      >>> for name in videos:
      ...     np.save(f"set/features/{name}.npy", np.ones((9, 4), np.float32))
      >>> data.read_activitynet("set").test.videos[0].segments
      array([[0.5, 2. ]])
    """
    root = check_folder(root)
    path, lists = need_file(root, *NAMES), read_lists(root)
    document = read_json(path)
    only = None if lists is None else [video for ids in lists.values() for video in ids]
    videos = parse_videos(parse_database(document, path), path, only=only)
    splits = split_by_subset(videos.values(), path) if lists is None else split_by_lists(root, lists, videos, path)
    listed = find_file(root, "classes.txt", "category_idx.txt")
    classes = read_categories(listed)
    if classes is None:
        classes, listed = leaves(document, path), path
    return finish(root, path, splits, options, classes=classes, listed=listed)


def leaves(document: Any, path: Path) -> list[str] | None:
    """The classes of a taxonomy, sorted: the nodes that no other is below; None where there is no taxonomy.

    Raises:
      DataError: a node without a name.
    """
    nodes = document.get("taxonomy")
    if not isinstance(nodes, list) or not nodes:
        return None
    for number, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("nodeName"), str):
            raise DataError(
                f'{path}: "taxonomy" has no nodeName in node {number} (counted from 0); write it, or remove it'
            )
    above = {node.get("parentName") for node in nodes}
    return sorted({node["nodeName"] for node in nodes} - above) or None
