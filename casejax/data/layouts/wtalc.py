"""Read the folders of W-TALC, which CO2-Net, DELU and others have too: annotations in NumPy files, a row a video.

    ROOT/Thumos14reduced-Annotations/   or any other name in -Annotations, or ROOT itself
        classlist.npy                   (classes,) names
        videoname.npy, subset.npy       (videos,) ids, and the subset of each
        labels_all.npy                  (videos,) objects: the video-level labels of each
        labels.npy, segments.npy        (videos,) objects: of its instances, the label and [start, end] in seconds
        duration.npy                    (videos, 1) seconds; optional
        Ambiguous_test.txt              optional: ID  ... START END, an interval a line, in seconds
    ROOT/Thumos14reduced-I3D-JOINTFeatures.npy  (videos,) objects: (snippets, dim) arrays as videoname has them, their
                                        columns those of rgb, then those of flow; any name in JOINTFeatures.npy
    ROOT/features                       instead: a file a video (`feature_files`)
    ROOT/features.json                  optional: what a row of features stands for (`layouts.timing`)

The pickles in these files are interpreted, not executed (`casejax.data.pickles`). Without training videos, as in
THUMOS14, the subset validation is for training; lists in ROOT may say otherwise (`folders.split_videos`). Labels of a
video are those of `labels_all`, also where its instances say otherwise; without that file, those of its instances. As
the published programs do, test videos without an instance are left out, and so are videos of which no label is in
`classlist`; intervals of videos that are not listed have no effect. `extracted_fps.npy` is not read: it says 10, the
programs and the features say 25.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from casejax.data.layouts.annotations import parse_segment, read_lines
from casejax.data.layouts.assemble import SPLITS, ReadOptions, given_timing, settle_classes
from casejax.data.layouts.checks import AGAIN, Remarks, check_id, first_three, raise_first, repeated
from casejax.data.layouts.consistency import warn_of_times
from casejax.data.layouts.folders import check_folder, finish, record, split_videos, warn_of
from casejax.data.layouts.joint import check_arrays, check_columns, divide_columns, joint_streams
from casejax.data.layouts.rows import as_items, as_text, as_texts, read_array
from casejax.data.layouts.timing import check_durations, settle_timing
from casejax.errors import DataError
from casejax.records import Dataset, Split, Video


def read_wtalc(root: str | os.PathLike[str], **options: Unpack[ReadOptions]) -> Dataset:
    """Read and check a data set in this layout.

    Args:
      root: folder in the layout described at the top of this module.
      **options: `assemble.ReadOptions`; of features in one file streams and timing alone.

    Returns:
      Both splits, the classes in the order of `classlist.npy`.

    Raises:
      DataError: anything in the folder, or in `streams`, that cannot be used.
      OptionError: an option that features in one file do not know.

    Warns:
      DataWarning: videos that are left out; annotations that are odd and used all the same; rows, durations and
        annotations that do not fit.

    Example:
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from casejax import data
      >>> Path("set/features").mkdir(parents=True)
      >>> rows = {"classlist": np.array(["Dive"]), "videoname": np.array(["a", "b"])}
      >>> rows["subset"] = np.array(["validation", "test"])
      >>> for name, value in {"labels": "Dive", "labels_all": "Dive", "segments": [0.5, 2.0]}.items():
      ...     rows[name] = np.empty(2, object)
      ...     rows[name][:] = [[value]] * 2
      >>> for name, array in rows.items():
      ...     np.save(f"set/{name}.npy", array)
      >>> for name in ("a", "b"):
      ...     np.save(f"set/features/{name}.npy", np.ones((9, 4), np.float32))
      >>> data.read_wtalc("set").test.videos[0].segments
      array([[0.5, 2. ]])
    """
    root = check_folder(root)
    folder = _annotations(root)
    source = folder / "labels.npy"
    classes = [as_text(name, folder / "classlist.npy") for name in read_array(folder / "classlist.npy")]
    videos = _videos(folder)
    strange = [v.id for v in videos if v.labels and not set(classes) & {*v.labels, *v.segment_labels}]
    warn_of(
        strange, f"{source}: {len(strange)} videos have no label of classlist.npy and are left out", "other classes"
    )
    left = set(strange)
    splits = split_videos(root, (v for v in videos if v.id not in left), source)
    blank = [v.id for v in splits["test"] if not len(v.segments)]
    warn_of(blank, f"{source}: {len(blank)} test videos have no instance and are left out", "no instance")
    splits["test"] = tuple(v for v in splits["test"] if len(v.segments))
    joint = sorted(root.glob("*JOINTFeatures.npy"))
    if len(joint) > 1:
        raise DataError(f"{joint[0]} and {joint[1]}: features of the videos twice; keep the file to read")
    if not joint:
        return finish(root, source, splits, options, classes=classes, listed=folder / "classlist.npy")
    names = settle_classes(classes, splits, source=source, path=folder / "classlist.npy")
    return _with_joint(root, joint[0], source, [video.id for video in videos], splits, names, options)


def _with_joint(
    root: Path,
    path: Path,
    source: Path,
    names: list[str],
    videos: dict[str, tuple[Video, ...]],
    classes: tuple[str, ...],
    options: ReadOptions,
) -> Dataset:
    """The data set with the features of one file, which are in the order of `names`."""
    streams = joint_streams(root, "wtalc with JOINTFeatures", options)
    rows = read_array(path)
    if len(rows) != len(names):
        raise DataError(f"{path}: {len(rows)} videos, but {source.parent / 'videoname.npy'} has {len(names)}; {AGAIN}")
    arrays = dict(zip(names, rows, strict=True))
    ids = {split: [video.id for video in videos[split]] for split in SPLITS}
    used = [video for split in SPLITS for video in ids[split]]
    check_arrays(((video, arrays[video]) for video in used), path)
    dim = check_columns(root, ((f"{path}: video {video!r}", arrays[video]) for video in used), streams)
    timing = settle_timing(root, given_timing(options))
    check_durations(timing, [video for split in SPLITS for video in videos[split]], source.parent / "duration.npy")
    train, test = (
        Split(split, videos[split], divide_columns(path, arrays, ids[split], dim, len(streams))) for split in SPLITS
    )
    dataset = Dataset(str(root), classes, streams, train, test, timing)
    warn_of_times(dataset)
    return dataset


# The annotations


def _annotations(root: Path) -> Path:
    """The folder with the annotations."""
    found = [folder for folder in [root, *sorted(root.glob("*-Annotations"))] if (folder / "classlist.npy").is_file()]
    if not found:
        raise DataError(f"{root}: no classlist.npy in it, or in a folder NAME-Annotations; put the annotations there")
    if len(found) > 1:
        raise DataError(f"{found[0]} and {found[1]}: annotations twice; keep the folder to read")
    return found[0]


def _videos(folder: Path) -> list[Video]:
    """All videos, in the order of the files."""
    paths = {name: folder / f"{name}.npy" for name in ("videoname", "subset", "labels", "segments")}
    stated = folder / "labels_all.npy"
    others = {
        "stated": stated if stated.is_file() else folder / "labels_all_1.npy",
        "duration": folder / "duration.npy",
    }
    paths |= {name: path for name, path in others.items() if path.is_file()}
    columns = {name: read_array(path) for name, path in paths.items()}
    count = len(columns["videoname"])
    raise_first(
        f"{paths[name]}: {len(column)} videos, but {paths['videoname']} has {count}; take files of one data set"
        for name, column in columns.items()
        if len(column) != count
    )
    ids = [as_text(name, paths["videoname"]) for name in columns["videoname"]]
    for video in ids:
        check_id(video, paths["videoname"])
    raise_first(f"{paths['videoname']}: has {video!r} more than once; keep one" for video in repeated(ids))
    intervals, remarks, videos, problems = _ambiguous(folder / "Ambiguous_test.txt", ids), Remarks(), [], []
    for v, video in enumerate(ids):
        where = f"{paths['segments']} and labels.npy: video {video!r}"
        try:
            labels, segments = as_texts(columns["labels"][v], paths["labels"]), as_items(columns["segments"][v])
            if len(labels) != len(segments):
                raise DataError(f"{where}: {len(segments)} segments, but {len(labels)} labels; download both again")
            known = as_texts(columns["stated"][v], paths["stated"]) if "stated" in columns else None
            duration = next(iter(as_items(columns["duration"][v])), None) if "duration" in columns else None
            instances = [
                *zip(labels, segments, strict=True),
                *(("Ambiguous", pair) for pair in intervals.get(video, [])),
            ]
            subset = as_text(columns["subset"][v], paths["subset"])
            videos.append(record(video, where, instances, remarks, subset=subset, duration=duration, stated=known))
        except DataError as error:
            problems.append(str(error))
    raise_first(problems)
    remarks.warn(folder)
    return videos


def _ambiguous(path: Path, ids: list[str]) -> dict[str, list[tuple[float, float]]]:
    """The ambiguous intervals, seconds, of each video that has some; the last two cells of a line are the times."""
    found: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(read_lines(path) if path.is_file() else [], 1):
        cells = line.split()
        if len(cells) < 3:
            raise DataError(f"{path}: entry {number}, {line[:80]!r}, is not ID START END; write an interval a line")
        found.setdefault(cells[0], []).append(parse_segment(cells[-2:], f"{path}: entry {number}"))
    if found and not set(found) & set(ids):
        known = first_three(ids)
        raise DataError(
            f"{path}: none of its videos, such as {next(iter(found))!r}, is in videoname.npy ({known}); fix it"
        )
    return found
