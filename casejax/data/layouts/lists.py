"""Read the annotations of MultiTHUMOS, a file a class, and of Charades, a file a subset.

    ROOT/annotations/CLASS.txt              a line an instance: VIDEO START END, in seconds, separated by spaces; also
                                            CLASS_val.txt and CLASS_test.txt, as THUMOS14 has them
    ROOT/class_list.txt                     optional: one class name a line, with or without its number
    ROOT/split_train.txt, split_test.txt    optional: one id a line; without, videos named `video_validation_...` are
                                            for training and `video_test_...` for testing

    ROOT/Charades_v1_train.csv, ..._test.csv    with a heading; of its columns id, actions and length are read. Actions
                                            are `CLASS START END`, in seconds, separated by semicolons
    ROOT/Charades_v1_classes.txt            optional: a line a class, its code first; fixes the order of classes, which
                                            keep their codes

Both have features and `features.json` as other layouts (`folders.finish`). A file of the class Ambiguous has intervals
in which predictions may not count. Charades has videos in which nothing is annotated: they are left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from casejax.data.layouts.annotations import find_ids, read_lines
from casejax.data.layouts.assemble import ReadOptions
from casejax.data.layouts.checks import Remarks, check_id, raise_first, repeated
from casejax.data.layouts.folders import (
    annotation_folders,
    check_folder,
    find_file,
    finish,
    need_file,
    read_categories,
    read_lists,
    record,
    split_videos,
)
from casejax.errors import DataError
from casejax.records import Dataset, Video
from casejax.runtime.reading import read_table

PREFIXES = {"video_validation": "validation", "video_test": "test"}
"""Subset of a video, by the beginning of its id."""


def read_multithumos(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    r"""Read and check a data set with a file a class.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`.

    Returns:
      Both splits, the videos sorted or as listed; the classes those of `class_list.txt`, otherwise sorted.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: videos without features, which are left out; annotations that are odd and used all the same.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> for folder in ("annotations", "features"):
      ...     Path("set", folder).mkdir(parents=True)
      >>> _ = Path("set/annotations/Dive.txt").write_text("video_validation_1 0.5 2.0\nvideo_test_1 1.0 3.0\n")
      >>> for name in ("video_validation_1", "video_test_1"):
      ...     np.save(f"set/features/{name}.npy", np.ones((9, 4), np.float32))
      >>> data.read_multithumos("set").test.videos[0].segments
      array([[1., 3.]])
    """
    root = check_folder(root)
    folder = next((p for p in annotation_folders(root)[1:] if any(p.glob("*.txt"))), root / "annotations")
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for path in sorted(folder.glob("*.txt")):
        label = path.stem.removesuffix("_val").removesuffix("_test")
        for number, line in enumerate(read_lines(path), 1):
            cells = line.split()
            if len(cells) != 3:
                raise DataError(
                    f"{path}: entry {number}, {line[:80]!r}, is not VIDEO START END; write an instance a line"
                )
            check_id(cells[0], path)
            found.setdefault(cells[0], []).append((label, cells[1:]))
    if not found:
        raise DataError(f"{folder}: no CLASS.txt with an instance in it; put the annotations there, a file a class")
    lists, remarks = read_lists(root), Remarks()
    subsets = {video: next((PREFIXES[p] for p in PREFIXES if video.startswith(p)), "") for video in found}
    if lists is None:
        raise_first(
            f"{folder}: video {video!r} is not named video_validation_... or video_test_...; list the videos in "
            f"{root / 'split_train.txt'} and split_test.txt"
            for video in subsets
            if not subsets[video]
        )
    wanted = sorted(found) if lists is None else find_ids((v for ids in lists.values() for v in ids), found).values()
    videos = {v: record(v, f"{folder}: video {v!r}", found[v], remarks, subset=subsets[v]) for v in wanted}
    remarks.warn(folder)
    splits = split_videos(root, videos.values(), folder)
    listed = find_file(root, "class_list.txt", "classes.txt")
    return finish(root, folder, splits, options, classes=read_categories(listed), listed=listed)


def read_charades(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    r"""Read and check a data set with a CSV file a subset.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`.

    Returns:
      Both splits; the classes are codes, such as c092, in the order of the file of classes, otherwise sorted.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: `snippet_seconds` is not positive and finite.

    Warns:
      DataWarning: videos without features or actions, which are left out; annotations that are odd and used all the
        same; rows, durations and annotations that do not fit.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> Path("set/features").mkdir(parents=True)
      >>> for split, name in (("train", "AAAA1"), ("test", "BBBB2")):
      ...     _ = Path(f"set/Charades_v1_{split}.csv").write_text(f"id,actions,length\n{name},c092 0.5 2.0,5.76\n")
      ...     np.save(f"set/features/{name}.npy", np.ones((9, 4), np.float32))
      >>> data.read_charades("set").test.videos[0].segments
      array([[0.5, 2. ]])
    """
    root, remarks = check_folder(root), Remarks()
    paths = {part: need_file(root, f"Charades*_{part}.csv", f"*_{part}.csv") for part in ("train", "test")}
    videos = [video for part, path in paths.items() for video in _read_charades(path, part, remarks)]
    remarks.warn(root)
    twice = repeated(video.id for video in videos)
    raise_first(f"{paths['train']}, {paths['test']}: list {video!r} more than once; keep one row" for video in twice)
    splits = split_videos(root, videos, paths["train"])
    listed = find_file(root, "Charades*_classes.txt", "classes.txt")
    classes = None if listed is None else [line.split()[0] for line in read_lines(listed)]
    return finish(root, paths["train"], splits, options, classes=classes, listed=listed)


def _read_charades(path: Path, part: str, remarks: Remarks) -> list[Video]:
    lines = read_table(path)
    header = lines[0][1] if lines else []
    absent = [column for column in ("id", "actions", "length") if column not in header]
    if absent:
        raise DataError(f"{path}: first line has no column {absent[0]!r}; write the columns id, actions and length")
    videos = []
    for number, cells in lines[1:]:
        row = dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=False))
        if not any(row.values()):
            continue
        where = f"{path}: line {number}, video {row['id']!r}"
        check_id(row["id"] or "", path)
        spelt = [action.split() for action in (row["actions"] or "").split(";") if action.strip()]
        raise_first(
            f"{where}: action {' '.join(action)!r} is not CLASS START END; write it so"
            for action in spelt
            if len(action) != 3
        )
        actions = [(action[0], action[1:]) for action in spelt]
        videos.append(record(row["id"], where, actions, remarks, subset=part, duration=row["length"] or None))
    return videos
