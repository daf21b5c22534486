"""Read ActivityNet as BSN and mmaction2 have it: a table of videos, annotations in JSON, rescaled features in CSV.

    ROOT/video_info_new.csv     video,numFrame,seconds,fps,rfps,subset,featureFrame; also as `video_info.csv`
    ROOT/anet_anno_action.json  {ID: {"duration_second", "duration_frame", "feature_frame", "annotations"}}
    ROOT/csv_mean_100/ID.csv    a heading and 100 rows; or another folder of features (`folders.find_features`)
    ROOT/classes.txt            optional: one class name a line

Annotations may be in `annotations` or `activitynet_annotations`. Of mmaction2, `anet_anno_train.json` and
`anet_anno_val.json` do instead of the first two. The subset training is for training, validation for testing; testing
has no labels. Rows divide evenly the time that features cover, which is featureFrame of numFrame of the duration: that
is the duration of the record, as in the programs of this layout.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from casejax.data.layouts.annotations import (
    find_ids,
    parse_database,
    parse_seconds,
    parse_videos,
    read_json,
)
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.checks import Remarks, first_three
from casejax.data.layouts.folders import check_folder, find_file, finish, need_file, read_categories, split_videos
from casejax.errors import DataError
from casejax.records import Dataset, Timing, Video
from casejax.runtime.reading import read_table

COLUMNS = ("video", "numframe", "seconds", "subset", "featureframe")


def read_bsn(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    r"""Read and check a data set in this layout.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`; without a timing, and without `features.json`, rows are rescaled.

    Returns:
      Both splits, the classes those of `classes.txt`, otherwise the sorted labels of the training videos.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: videos without features or labels, which are left out; annotations that are odd and used all the
        same; rows and annotations that do not fit.

    Example:
      >>> import json
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> Path("set/features").mkdir(parents=True)
      >>> rows = [f"v_{x},100,5.0,20,20,{x},100" for x in ("training", "validation")]
      >>> table = "\n".join(["video,numFrame,seconds,fps,rfps,subset,featureFrame", *rows])
      >>> _ = Path("set/video_info_new.csv").write_text(table)
      >>> labels = {"duration_second": 5.0, "duration_frame": 100, "feature_frame": 100,
      ...           "annotations": [{"label": "Dive", "segment": [0.5, 2.0]}]}
      >>> _ = Path("set/anet_anno_action.json").write_text(json.dumps({"v_training": labels, "v_validation": labels}))
      >>> for name in ("v_training", "v_validation"):
      ...     np.save(f"set/features/{name}.npy", np.ones((10, 4), np.float32))
      >>> data.read_bsn("set").test.videos[0].segments
      array([[0.5, 2. ]])
    """
    root = check_folder(root)
    both = find_file(root, "anet_anno_action.json")
    if both is None:
        source, entries = _by_subset(root)
    else:
        source, entries = both, _by_table(need_file(root, "video_info_new.csv", "video_info*.csv"), both)
    remarks = Remarks()
    videos = parse_videos(entries, source, remarks=remarks)
    remarks.warn(source)
    covered = [_covered(video, entries[video.id], source) for video in videos.values()]
    splits = split_videos(root, covered, source)
    listed = find_file(root, "classes.txt")
    classes = read_categories(listed)
    return finish(root, source, splits, options, classes=classes, listed=listed, default=Timing(rescaled=True))


def _by_table(table: Path, path: Path) -> dict[str, Any]:
    """The entries of the videos in the table, with what it says of them."""
    database = parse_database(read_json(path), path)
    lines = read_table(table)
    header = [cell.strip().lower() for cell in (lines[0][1] if lines else [])]
    if not set(COLUMNS) <= set(header):
        raise DataError(
            f"{table}: first line {','.join(header)!r} does not name the columns {', '.join(COLUMNS)}; add it"
        )
    rows = {}
    for number, cells in lines[1:]:
        if any(cell.strip() for cell in cells):
            if len(cells) != len(header):
                raise DataError(
                    f"{table}: line {number}: {len(cells)} cells for {len(header)} columns; download it again"
                )
            row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
            rows[row["video"]] = row
    places = find_ids(rows, database)
    if absent := [video for video in rows if video not in places]:
        raise DataError(f"{path}: no entry for {first_three(absent)}; add it or take it out of {table}")
    stated = {
        video: {
            "subset": row["subset"],
            "duration_second": row["seconds"],
            "duration_frame": row["numframe"],
            "feature_frame": row["featureframe"],
        }
        for video, row in rows.items()
    }
    return {video: {**_entry(database, place), **stated[video]} for video, place in places.items()}


def _entry(database: dict[str, Any], video: str) -> dict[str, Any]:
    """One entry, empty where it is no object, which is refused with all that it lacks."""
    entry = database[video]
    return entry if isinstance(entry, dict) else {}


def _by_subset(root: Path) -> tuple[Path, dict[str, Any]]:
    """The entries of a file for training and one for validation."""
    paths = {part: need_file(root, f"anet_anno_{part}.json") for part in ("train", "val")}
    entries: dict[str, Any] = {}
    for part, path in paths.items():
        own = parse_database(read_json(path), path)
        if shared := find_ids(own, entries):
            raise DataError(f"{path}: has {first_three(list(shared))}, which {paths['train']} has too; keep one entry")
        entries |= {video: {**_entry(own, video), "subset": part} for video in own}
    return paths["train"], entries


def _covered(video: Video, entry: dict[str, Any], path: Path) -> Video:
    """A video whose duration is the time that its features cover."""
    frames = entry.get("feature_frame")
    if video.duration is None or video.frames is None or frames in (None, ""):
        return video
    covered = parse_seconds(frames, f"{path}: video {video.id!r}, feature_frame")
    if covered <= 0:
        raise DataError(f"{path}: video {video.id!r}: feature_frame {covered:g} is not positive; correct it")
    return replace(video, duration=video.duration * covered / video.frames)
