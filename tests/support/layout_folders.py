"""The same few videos in the format of every published layout, written by hand."""

import json
from typing import NamedTuple

import numpy as np


class Clip(NamedTuple):
    """A video: its id, its part, how many rows its features have, its instances; the duration follows from the rows."""

    id: str
    part: str
    rows: int
    instances: tuple

    @property
    def duration(self):
        return self.rows * 16 / 25


CLIPS = (
    Clip("video_test_0000001", "test", 9, (("Run", 0.5, 2.25), ("Jump", 3.0, 4.5))),
    Clip("video_test_0000002", "test", 12, (("Jump", 1.25, 7.0),)),
    Clip("video_validation_0000003", "train", 10, (("Run", 0.0, 6.0),)),
    Clip("video_validation_0000004", "train", 8, (("Jump", 0.5, 1.5), ("Run", 2.0, 4.75), ("Jump", 3.0, 5.0))),
    Clip("video_validation_0000005", "train", 14, (("Jump", 0.25, 8.5),)),
    Clip("video_validation_0000006", "train", 11, (("Run", 1.0, 6.5),)),
)
CLASSES = ("Jump", "Run")
DIM = 4


def features(clip, rows=None):
    """(rows, 4) float32 that a line of CSV keeps."""
    seed = int(clip.id[-1])
    return np.random.default_rng(seed).integers(0, 64, (rows or clip.rows, DIM)).astype(np.float32) / 16


def save_features(folder, clips=CLIPS):
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        np.save(folder / f"{clip.id}.npy", features(clip))


def objects(items):
    """A one-dimensional array of objects, also where all are of one length."""
    out = np.empty(len(items), object)
    for i, item in enumerate(items):
        out[i] = item
    return out


def entries(words, **more):
    """What JSON says of every clip, with these words for the parts."""
    return {
        clip.id: {
            "subset": words[clip.part],
            "duration": clip.duration,
            "annotations": [{"label": label, "segment": [start, end], **more} for label, start, end in clip.instances],
        }
        for clip in CLIPS
    }


def write_wtalc(root, *, joint=False):
    folder = root / "Thumos14reduced-Annotations"
    folder.mkdir(parents=True)
    np.save(folder / "classlist.npy", np.array(CLASSES, "S17"))
    np.save(folder / "videoname.npy", np.array([clip.id for clip in CLIPS], "S24"))
    subsets = ["validation" if clip.part == "train" else "test" for clip in CLIPS]
    np.save(folder / "subset.npy", np.array(subsets, "S10"))
    np.save(folder / "duration.npy", np.array([[clip.duration] for clip in CLIPS]))
    np.save(folder / "extracted_fps.npy", np.full((len(CLIPS), 1), 10))
    np.save(folder / "labels.npy", objects([[label for label, *_ in clip.instances] for clip in CLIPS]))
    np.save(folder / "segments.npy", objects([[[s, e] for _, s, e in clip.instances] for clip in CLIPS]))
    np.save(folder / "labels_all.npy", objects([sorted({i[0] for i in clip.instances}) for clip in CLIPS]))
    (folder / "Ambiguous_test.txt").write_bytes(b"video_test_0000002  0.5 1.0\r\nvideo_test_0000009  x 3.5 4.5\r\n")
    if joint:
        np.save(root / "Thumos14reduced-I3D-JOINTFeatures.npy", objects([features(clip) for clip in CLIPS]))
    else:
        save_features(root / "features")
    return folder


def write_activitynet(root, *, words=("training", "validation")):
    document = {"version": "VERSION 1.3", "database": entries(dict(zip(("train", "test"), words, strict=True)))}
    save_features(root / "features")
    (root / "activity_net.v1-3.min.json").write_text(json.dumps(document))
    return document


def write_opentad(root):
    document = {"version": "Thumos14-30fps", "database": entries({"train": "Validation", "test": "Test"})}
    for entry in document["database"].values():
        entry |= {"frame": entry["duration"] * 25, "fps": 25.0}
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "thumos_14_anno.json").write_text(json.dumps(document))
    (root / "annotations" / "category_idx.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    save_features(root / "features")
    return document


def write_bsn(root):
    """Of each video 90 of 100 frames have features, which are rescaled to its number of rows."""
    document = {
        clip.id: {
            "duration_second": clip.duration,
            "duration_frame": 100,
            "feature_frame": 90,
            "annotations": [{"label": label, "segment": [start, end]} for label, start, end in clip.instances],
        }
        for clip in CLIPS
    }
    words = {"train": "training", "test": "validation"}
    rows = [f"{c.id},100,{c.duration},30.0,30.0,{words[c.part]},90" for c in CLIPS]
    folder = root / "csv_mean_100"
    folder.mkdir(parents=True)
    (root / "video_info_new.csv").write_text(
        "\n".join(["video,numFrame,seconds,fps,rfps,subset,featureFrame", *rows]) + "\n"
    )
    (root / "anet_anno_action.json").write_text(json.dumps(document))
    for clip in CLIPS:
        lines = [",".join(f"f{i}" for i in range(DIM)), *(",".join(map(repr, map(float, r))) for r in features(clip))]
        (folder / f"{clip.id}.csv").write_text("\n".join(lines) + "\n")
    return document


def write_multithumos(root):
    folder = root / "annotations"
    folder.mkdir(parents=True)
    for label in CLASSES:
        lines = [f"{clip.id} {s} {e}" for clip in CLIPS for name, s, e in clip.instances if name == label]
        (folder / f"{label}.txt").write_text("\n".join(lines) + "\n")
    (root / "class_list.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(CLASSES, 1)))
    save_features(root / "features")


def write_charades(root):
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        lines = ["id,subject,script,actions,length"]
        for clip in CLIPS:
            if clip.part == part:
                actions = ";".join(f"{label} {start} {end}" for label, start, end in clip.instances)
                lines.append(f'{clip.id},QEFG,"A person, and a door.",{actions},{clip.duration}')
        (root / f"Charades_v1_{part}.csv").write_text("\n".join(lines) + "\n")
    (root / "Charades_v1_classes.txt").write_text("".join(f"{name} Doing {name} somewhere\n" for name in CLASSES))
    save_features(root / "features")


WRITERS = {
    "wtalc": write_wtalc,
    "bsn": write_bsn,
    "charades": write_charades,
    "multithumos": write_multithumos,
    "opentad": write_opentad,
    "activitynet": write_activitynet,
}
"""Writer of each layout, by its name."""


def by_class(clip):
    """Instances in the order of a file a class."""
    return tuple(sorted(clip.instances, key=lambda instance: instance[0]))


def assert_is_world(data, *, words, order=lambda clip: clip.instances, durations=lambda clip: clip.duration):
    """Every field of a data set is that of the clips; `words` are the subsets of train and test."""
    assert data.classes == CLASSES
    assert sum(data.dims) == DIM
    for split, word in zip((data.train, data.test), words, strict=True):
        clips = [clip for clip in CLIPS if clip.part == split.name]
        assert [video.id for video in split.videos] == [clip.id for clip in clips]
        np.testing.assert_array_equal(split.features.lengths, [clip.rows for clip in clips])
        got = np.concatenate(split.features.streams, axis=1)
        np.testing.assert_array_equal(got, np.concatenate([features(clip) for clip in clips]), strict=True)
        for video, clip in zip(split.videos, clips, strict=True):
            assert video.subset == word
            assert video.segment_labels == tuple(label for label, *_ in order(clip))
            np.testing.assert_array_equal(video.segments, [times for _, *times in order(clip)])
            assert video.labels == tuple(sorted({label for label, *_ in clip.instances}))
            assert video.timed
            wanted = durations(clip)
            assert video.duration == wanted if wanted is None else abs(video.duration - wanted) < 1e-9
