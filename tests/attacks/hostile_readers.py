"""Every reader of files, each with a small good file made by code: what the attacks change, and what must refuse it."""

import base64
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from casejax.alignment.data.finegym import read_finegym
from casejax.alignment.data.frames import FrameVideo, load_frames
from casejax.alignment.networks.keras_weights import read_keras_weights
from casejax.data.layouts.ambiguous import read_ambiguous
from casejax.data.layouts.annotations import read_annotations, read_split
from casejax.data.layouts.arrays import Source, read_header
from casejax.data.layouts.feature_files import load_features_file
from casejax.data.layouts.rows import as_texts, read_array
from casejax.data.layouts.table import read_table
from casejax.data.layouts.timing import read_provenance, read_timing
from casejax.data.layouts.unlabelled import read_durations
from casejax.data.penn_action import read_pose_track
from casejax.data.pickles import read_object_array, read_pickle, read_torch, write_torch
from casejax.data.store import Source as Packed
from casejax.data.store import packed
from casejax.evaluate.protocols import CASE
from casejax.features.writer import FeatureFolder
from casejax.inference.judging import judge_file, read_truth
from casejax.methods.case import published
from casejax.records import Dataset, Features, SegmentTable, Split
from casejax.report.analysis import Analysis, read_analysis, write_analysis
from casejax.report.comparison import read_finished
from casejax.report.finished import read_run
from casejax.run import record
from casejax.run.config import Config
from casejax.run.exported import read_network, write_network
from casejax.run.folder import Restored, describe, read_metrics
from casejax.run.state import initial_state
from casejax.train.writers import make_writer


class Reader(NamedTuple):
    """A reader under attack.

    Attributes:
      write: makes a good file in an empty folder, returns its path.
      read: reads that file, as a user would.
      is_json: whether values of it can be exchanged.
      names_file: whether a refusal names the file; False of a reader that refuses nothing.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    is_json: bool = False
    names_file: bool = True


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return write


def _json(name: str, value: object) -> Callable[[Path], Path]:
    return _text(name, json.dumps(value))


ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
ENTRY = {
    "subset": "test",
    "duration": 9.5,
    "annotations": [{"label": "Dive é", "segment": [1.0, 2.5]}, {"label": "Jump", "segment": ["3", "4"]}],
}
ANNOTATIONS = {"database": {"a": ENTRY, "b": ENTRY | {"subset": "train"}}}
RESULTS = {
    "results": {
        "a": [{"label": "Jump", "score": 0.5, "segment": [3, 4]}, {"label": "Dive é", "score": "1", "segment": [1, 2]}]
    }
}
FINISHED = {
    "method": "case",
    "seed": 0,
    "judged": {"tious": [0.5]},
    "selection": "last step",
    "trained": {"mAP": {"0.5": 0.25}, "average_mAP": {"0.1:0.7": 0.125}},
}
STATED = {"frames": 16, "stride": 16, "fps": 25, "backbone": "i3d", "streams": {"rgb": 3}}
FOLDER = STATED | {"videos": {"a": {"file": "a.mp4", "bytes": 9, "frames": 32, "duration": 1.28, "rows": 2}}}
GYM = {"V1": {"E_1_2": {"event": 1, "timestamps": [[0, 20]], "segments": {"A_1_2": {"timestamps": [[1, 2]]}}}}}
METRICS = '{"step": 3, "loss": 1.5}\n{"step": 6, "loss": 1.25}\n'


def _npy(folder: Path) -> Path:
    np.save(folder / "a.npy", ROWS)
    return folder / "a.npy"


def _npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", rgb=ROWS)
    return folder / "a.npz"


def _h5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("rgb", data=ROWS, compression="gzip")
    return folder / "a.h5"


def _keras(folder: Path) -> Path:
    with h5py.File(folder / "w.h5", "w") as file:
        file["model_weights/conv/conv/kernel:0"] = ROWS
        file["model_weights/conv/conv/bias:0"] = ROWS[0]
    return folder / "w.h5"


def _objects(folder: Path) -> Path:
    np.save(folder / "o.npy", np.array([["a", "bé"], ["c"]], object), allow_pickle=True)
    return folder / "o.npy"


def _pickle(folder: Path) -> Path:
    (folder / "p.pkl").write_bytes(pickle.dumps({"a": ROWS, "b": [1, "x", None, (2.5, True)]}, protocol=2))
    return folder / "p.pkl"


def _torch(folder: Path) -> Path:
    write_torch(folder / "m.pt", {"a": ROWS, "b": np.arange(3)})
    return folder / "m.pt"


TRACK = {
    "action": "jump",
    "pose": "front",
    "x": np.arange(26.0).reshape(2, 13),
    "y": np.arange(26).reshape(2, 13),
    "visibility": np.ones((2, 13)),
    "bbox": np.ones((2, 4)),
    "train": 1,
    "dimensions": np.array([[48, 64, 2]]),
    "nframes": 2,
}


def _mat(folder: Path) -> Path:
    savemat(folder / "0001.mat", TRACK, do_compression=False)
    return folder / "0001.mat"


def _packed(folder: Path) -> Path:
    source = folder / "source"
    source.write_text("x")
    packed(folder, "train", Packed([source], [3], [4], "float32"), iter([ROWS]))
    return next(folder.glob("train-*.json"))


def _read_packed(path: Path) -> object:
    return packed(path.parent, "train", Packed([path.parent / "source"], [3], [4], "float32"), iter(()))


def _picture(folder: Path) -> Path:
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(folder / "0001.png")
    return folder / "0001.png"


def _read_picture(path: Path) -> object:
    return load_frames(FrameVideo("a", "run", True, (path,), None), np.array([0]), size=4)


def _read_judged(path: Path) -> object:
    truth = path.with_name("truth.json")
    if not truth.exists():
        truth.write_text(json.dumps(ANNOTATIONS))
    return judge_file(path, read_truth(truth, subset="test"), CASE, num_resamples=2)


def _read_stated(path: Path) -> object:
    return read_timing(path.parent), read_provenance(path.parent)


def _read_labels(path: Path) -> object:
    features = path.with_name("features")
    if not features.exists():
        features.mkdir()
        for video in ("a", "b"):
            np.save(features / f"{video}.npy", ROWS)
    return read_table(features, path)


def _gym(path: Path) -> object:
    path.with_name("e.txt").write_text("V1_E_1_2_A_1_2 0\n")
    path.with_name("c.txt").write_text("Clabel: 0; set: 1; x\n")
    return read_finegym(path, path.with_name("e.txt"), path.with_name("c.txt"))


def _mat_compressed(folder: Path) -> Path:
    savemat(folder / "0001.mat", TRACK, do_compression=True)
    return folder / "0001.mat"


def _h5_latest(folder: Path) -> Path:
    """As later releases of HDF5 write, with a block before it as in MATLAB 7.3."""
    with h5py.File(folder / "a.h5", "w", libver="latest", userblock_size=512) as file:
        file.create_dataset("g/rgb", data=ROWS, compression="lzf", shuffle=True, fletcher32=True, chunks=(2, 3))
        file.attrs["made"] = ["a", "b"]
    return folder / "a.h5"


LEGACY = (
    "eNptT7tOAzEQvFcIGAJp6SiPJhJRCEkFBUpj8QqNm8i6+KzEyDpn7b0IkCKliQR8Ax/Ar/EJSBT4EiEatlhpZ2d3ZpbRG9Hf74Ov"
    "o4eP28PWMrr6jH1fQJCyZhAEM2vQCKP5XFqnTAGhJ7CG32iFqCWXRa6yAqIXRjyITzPJnXqWDuIFJCmredBNjUWo0YjFflIFwhZN"
    "WFL9MMUE6jQpy1/N0KMZhAKNFdMWL1FpR7iV41LpnKMsnLF83iYQpSmrV889M5tIiDcnZKBNhvcbkEDC9j2n3znr9bsn/U63fdru"
    "QW3tQ8xK7yO+Rqjf0YDGK9im4Qp2XoWPq6VAn9aRG5tLK/NLJZAAOR7CLsLeEBpro2PYH8FBSsP19AhNWeUYQfCfapi1Ktm/Wp77"
    "dvEDVuFoPA=="
)
"""{"a": torch.arange(3.), "b": [1, "x"]} as PyTorch wrote it before 1.6, deflated."""


def _torch_legacy(folder: Path) -> Path:
    (folder / "m.pth").write_bytes(zlib.decompress(base64.b64decode(LEGACY)))
    return folder / "m.pth"


def _analysis(folder: Path) -> Path:
    names, both = np.array(["a", "b"]), np.ones(2)
    table = SegmentTable(np.array([0]), np.array([1]), np.float32([[0, 2]]), np.float32([0.5]))
    seconds = np.ones((2, 2))
    analysis = Analysis(names, names, names, both, seconds, both > 0, table, table, heading="attention", curves=ROWS)
    write_analysis(folder / "analysis.npz", analysis)
    return folder / "analysis.npz"


def _cluster_labels(folder: Path) -> Path:
    np.save(folder / "cls_gt.npy", np.full((3, 2), 0.5, np.float32))
    return folder / "cls_gt.npy"


def _exported(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        config = Config.of("case", hidden=2, num_clusters=2, num_snippets=4)
        graphdef, state = initial_state(config, (3,), 2)
        nothing = Features.end_to_end((np.zeros((0, 3), np.float32),), [])
        dataset = Dataset("here", ("a", "b"), ("rgb",), *(Split(each, (), nothing) for each in ("train", "test")))
        write_network(Restored(folder, graphdef, state, config, describe(config, dataset)), folder)
        return folder / name

    return write


def _read_exported(path: Path) -> object:
    network = read_network(path.parent)
    network.check_timing(network.timing, "itself")
    return network.check_provenance({"backbone": "i3d"}, "itself")


def _read_report(path: Path) -> object:
    (path.parent / "results.json").write_text("{}")
    return read_run(path.parent)


READERS = {
    "annotations": Reader(_json("gt.json", ANNOTATIONS), read_annotations, True),
    "split": Reader(_text("split_test.txt", "a\nbé\nc\n"), read_split),
    "ambiguous": Reader(_text("ambiguous.txt", "a 1.0 2.5\nb 3 4\n"), read_ambiguous),
    "labels": Reader(_text("labels.csv", "video,label,start,end\na,Jump,1,2\nb,Dive,,\n"), _read_labels),
    "durations": Reader(_text("d.csv", "video,duration\na,12.5\nb,3\n"), read_durations),
    "npy": Reader(_npy, load_features_file),
    "npz": Reader(_npz, load_features_file),
    "h5": Reader(_h5, load_features_file),
    "csv": Reader(_text("a.csv", "1,2,3\n4,5,6\n"), load_features_file),
    "header": Reader(_npz, lambda path: read_header(Source(path))),
    "objects": Reader(_objects, read_object_array),
    "rows": Reader(_objects, lambda path: [as_texts(each, path) for each in read_array(path)]),
    "pickle": Reader(_pickle, read_pickle),
    "torch": Reader(_torch, read_torch),
    "matlab": Reader(_mat, read_pose_track),
    "keras": Reader(_keras, read_keras_weights),
    "packed": Reader(_packed, _read_packed, True),
    "predictions": Reader(_json("found.json", RESULTS), _read_judged, True),
    "results": Reader(_json("results.json", FINISHED), lambda path: read_finished(path.parent), True),
    "stated": Reader(
        _json("features.json", STATED), lambda path: (read_timing(path.parent), read_provenance(path.parent)), True
    ),
    "folder": Reader(_json("features.json", FOLDER), lambda path: FeatureFolder.open(path.parent, STATED), True),
    "finegym": Reader(_json("gym.json", GYM), _gym, True),
    "picture": Reader(_picture, _read_picture),
    "metrics": Reader(_text("metrics.jsonl", METRICS), read_metrics, False, False),
    "matlab, compressed": Reader(_mat_compressed, read_pose_track),
    "h5, latest": Reader(_h5_latest, load_features_file),
    "torch legacy": Reader(_torch_legacy, read_torch),
    "analysis": Reader(_analysis, read_analysis),
    "labels of clusters": Reader(_cluster_labels, lambda path: published._read_cluster_labels(path, 3)),
    "report": Reader(_text("average_precision.csv", "class,0.5\nJump,0.25\n"), _read_report),
    "exported": Reader(_exported("model.safetensors"), lambda path: read_network(path.parent)),
    "exported settings": Reader(_exported("config.json"), _read_exported, True),
    "run": Reader(_json("run.json", {"starts": [{"step": 1}]}), record._earlier, False, False),
    "table of metrics": Reader(
        _text("metrics.csv", "step,loss\n1,0.5\n2,0.25\n"),
        lambda path: make_writer("csv", path.parent, {}, step=2).close(),
    ),
}
