"""The folder layout of A2CL-PT: read as NumPy reads it, without running its pickles; defects are refused."""

import io
import json
import os
import pickle
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest

from casejax.data.layouts.a2cl_pt import A2CLPTData, read_a2cl_pt, write_a2cl_pt
from casejax.data.pickles.numpy_files import _interpret, read_object_array
from casejax.data.synthetic import make_world
from casejax.errors import DataError
from casejax.records import Dataset, Features, SegmentTable, Split, Video


def npy(body, header="{'descr': '|O', 'fortran_order': False, 'shape': (), }"):
    """A file of `numpy.save` around a pickle."""
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def of_protocol(value, protocol):
    return npy(pickle.dumps(np.array(value, object), protocol))


@pytest.fixture
def read(tmp_path):
    def read(contents):
        path = tmp_path / "x.npy"
        path.write_bytes(contents)
        return read_object_array(path)[()]

    return read


def assert_same(got, want):
    assert list(got) == list(want)
    for key, value in want.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(got[key], value)  # NumPy may or may not turn bytes round
            assert got[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        else:
            assert got[key] == value


def varied():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(3, 4)).astype(np.float32)
    return {
        "single": shared,
        "again": shared,
        "big-endian": rng.normal(size=(2, 5)).astype(">f8"),
        "by column": np.asfortranarray(rng.normal(size=(4, 70))),
        "both": np.asfortranarray(rng.normal(size=(3, 2)).astype(">f4")),
        "half": rng.normal(size=(1, 3)).astype(np.float16),
        "whole": np.arange(6, dtype=">i2").reshape(2, 3),
        "large": rng.normal(size=(90, 100)).astype(np.float32),  # outside of a frame of protocol 4
        "é": 0.5,
        "list": [1, None, "a", (True, -(2**40))],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_numpy_pickles(read, protocol):
    contents = of_protocol(varied(), protocol)
    oracle = np.load(io.BytesIO(contents), allow_pickle=True)[()]
    got = read(contents)
    assert_same(got, oracle)
    assert got["again"] is got["single"]
    assert got["both"].flags.f_contiguous
    assert not got["large"].flags.writeable
    older = contents.replace(b"numpy._core.", b"numpy.core.")  # its length is written down from protocol 4 on
    if protocol < 4:
        assert older != contents
        assert_same(read(older), oracle)


def test_the_older_spelling_in_protocol_4(read):
    contents = of_protocol(varied(), 4)
    older = contents.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert older != contents
    assert_same(read(older), varied())


def test_ids_that_are_strings_of_numpy(read):
    ids = np.array(["video_1", "vidéo_2"])
    contents = of_protocol({ids[0]: 1.5, ids[1]: np.float32(2), np.bytes_(b"b"): np.int64(3)}, 3)
    got = read(contents)
    assert got == {"video_1": 1.5, "vidéo_2": 2.0, "b": 3}
    assert all(type(key) is str for key in got)


def test_arrays_of_objects(tmp_path):
    objects = np.empty((2, 3), object, order="F")
    objects[...] = [[1, "a", None], [2.5, [3], np.arange(2)]]
    np.save(tmp_path / "x.npy", objects)
    got = read_object_array(tmp_path / "x.npy")
    assert got.shape == (2, 3)
    for mine, its in zip(got.ravel(), objects.ravel(), strict=True):
        np.testing.assert_array_equal(mine, its)


# A pickle assembler as of Python 2: strings of bytes

CORE = "numpy.core.multiarray"


def short(value):
    return b"U" + bytes([len(value)]) + value


def string(value):
    return short(value) if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def group(*items):
    return b"(" + b"".join(items) + b"t"


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def number(value):
    return b"\x8a" + bytes([40]) + value.to_bytes(40, "little", signed=True)


def kind(code=b"f4", order=b"<"):
    made = named("numpy", "dtype") + group(short(code), b"K\x00K\x01") + b"R"
    flags = b"K\x3f" if code[:1] == b"O" else b"K\x00"
    return made + group(b"K\x03", short(order), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff", flags) + b"b"


def unfilled(name="ndarray"):
    return named(CORE, "_reconstruct") + group(named("numpy", name), b"K\x00\x85", short(b"b")) + b"R"


def array(shape, contents, dtype=None, *, version=number(1), by_column=b"\x89"):
    shape = shape if isinstance(shape, bytes) else group(*(number(n) for n in shape))
    return unfilled() + group(version, shape, dtype or kind(), by_column, contents) + b"b"


def objects(*items):
    return array((len(items),) if len(items) != 1 else (), b"](" + b"".join(items) + b"e", kind(b"O8", b"|"))


def python_2(*items):
    return npy(b"\x80\x02" + objects(b"}(" + b"".join(items) + b"u") + b".")


def test_python_2_strings(read):
    values = {key: np.random.default_rng(7).normal(size=(n, 9)).astype(np.float32) for key, n in (("a", 2), ("é", 8))}
    items = [short(key.encode("latin-1")) + array(v.shape, string(v.tobytes())) for key, v in values.items()]
    contents = python_2(*items)
    assert_same(np.load(io.BytesIO(contents), allow_pickle=True, encoding="latin1")[()], values)
    assert_same(read(contents), values)


# What is refused

EIGHT = string(np.arange(2, dtype="<f4").tobytes())
HOSTILE = {
    "a function": (named("os", "system") + group(short(b"touch {}")) + b"R", "'os.system'"),
    "eval": (named("__builtin__", "eval") + group(short(b"1")) + b"R", "'__builtin__.eval'"),
    "by stack": (short(b"posix") + short(b"system") + b"\x93" + group(short(b"touch {}")) + b"R", "'posix.system'"),
    "instance": (b"(" + short(b"touch {}") + b"ios\nsystem\n", "'os.system'"),
    "only named": (named("subprocess", "Popen"), "'subprocess.Popen'"),
    "fromfile": (named("numpy", "fromfile"), "'numpy.fromfile'"),
    "attribute": (named(CORE, "_reconstruct.__globals__"), "_reconstruct.__globals__'"),
    "our own": (named("casejax.data.pickles.numpy_files", "read_object_array"), "read_object_array'"),
    "the class": (named("numpy", "ndarray"), "a class, a function"),
    "called class": (named("numpy", "ndarray") + group(number(3)) + b"R", "calls what cannot be called"),
    "a type": (kind(), "a class, a function"),
    "a builder": (named("numpy", "dtype"), "a class, a function"),
    "bytes": (b"C\x01x", "bytes"),
    "memory map": (unfilled("memmap"), "'numpy.memmap'"),
    "unfilled": (unfilled(), "without contents"),
    "other codec": (named("_codecs", "encode") + group(short(b"x"), short(b"rot13")) + b"R", "that NumPy does"),
    "record": (array((1,), EIGHT, kind(b"V8")), "'V8', not of real numbers"),
    "text array": (array((2,), EIGHT, kind(b"S4")), "not of real numbers"),
    "newobj": (named("numpy", "dtype") + b")\x81", "opcode NEWOBJ"),
    "protocol 0": (b"S'a'\n", "opcode STRING"),
    "extension": (b"\x82\x01", "opcode EXT1"),
    "reference": (short(b"x") + b"Q", "outside of it"),
    "buffer": (b"\x97", "opcode NEXT_BUFFER"),
    "attributes": (b"}}b", "sets attributes"),
    "fields": (
        named("numpy", "dtype") + group(short(b"f4"), b"K\x00K\x01") + b"R"
        + group(b"K\x03", short(b"<"), b"N", group(short(b"a")), b"}K\x00K\x00K\x00") + b"b",
        "not plain",
    ),
}  # fmt: skip


def test_nothing_else_is_called(read, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    witness = tmp_path / "w"
    for case, (body, message) in HOSTILE.items():
        body = body.replace(short(b"touch {}"), short(f"touch {witness}".encode()))
        for contents in (python_2(short(b"a") + body), python_2(short(b"a") + b"](" + body + b"e")):
            with pytest.raises(DataError) as refused:
                read(contents)
            said = str(refused.value)
            assert message in said, (case, said)
            assert str(tmp_path / "x.npy") in said
            assert "; " in said  # a remedy follows
        with pytest.raises(DataError):
            read(npy(b"\x80\x02" + body + b"."))
    assert not witness.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_functions_of_any_protocol(read, protocol):
    with pytest.raises(DataError):
        read(of_protocol({"a": np.ones((2, 3)), "b": subprocess.run}, protocol))


LIES = {
    "too short": array((3,), EIGHT),
    "too long": array((1,), EIGHT),
    "negative": array((-1, -2), EIGHT),
    "huge": array((2**62, 2**62), EIGHT),
    "huge and empty": array((0, 2**62), string(b"")),
    "33 axes": array((1,) * 33, string(bytes(4))),
    "shape of a list": array(b"](K\x02e", EIGHT),
    "shape of floats": array(b"G" + struct.pack(">d", 2) + b"\x85", EIGHT),
    "other version": array((2,), EIGHT, version=number(2)),
    "version of an array": array((2,), EIGHT, version=array((2,), EIGHT)),
    "order of a list": array((2,), EIGHT, by_column=b"]"),
    "no contents": array((2,), b"N"),
    "not Latin-1": array((2,), b"X\x03\x00\x00\x00" + "€".encode()),
    "no type": array((2,), EIGHT, b"N"),
    "type without an order": array((2,), EIGHT, named("numpy", "dtype") + group(short(b"f4"), b"\x89\x88") + b"R"),
    "type with two orders": array((2,), EIGHT, kind() + kind()[kind().index(b"R") + 1 :]),
    "type of a number": array((2,), EIGHT, named("numpy", "dtype") + group(b"K\x04", b"\x89\x88") + b"R"),
    "fewer objects": array((3,), b"](NNe", kind(b"O8", b"|")),
    "objects in bytes": array((1,), EIGHT, kind(b"O8", b"|")),
    "scalar of nothing": named(CORE, "scalar") + group(kind(), short(b"")) + b"R",
    "scalar of an object": named(CORE, "scalar") + group(kind(b"O8", b"|"), short(bytes(8))) + b"R",
    "scalar that is no text": named(CORE, "scalar") + group(kind(b"U1"), short(b"\xff" * 4)) + b"R",
    "contains itself": array((1,), b"](h\x07e", kind(b"O8", b"|")).replace(b"tR", b"tRq\x07", 1),
}  # fmt: skip


def test_arrays_stay_within_their_contents(tmp_path):
    assert np.shape(read_one(array((2,), EIGHT), tmp_path)) == (2,)
    for case, body in LIES.items():
        tracemalloc.start()
        with pytest.raises(DataError):
            pytest.fail(f"{case}: {read_one(body, tmp_path)}")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20, case


def read_one(body, tmp_path):
    path = tmp_path / "one.npy"
    path.write_bytes(python_2(short(b"a") + body))
    return read_object_array(path)[()]["a"]


def test_repetition_takes_no_memory(tmp_path):
    """Text that is remembered and encoded again and again would be larger than the file without end."""
    text = b"X" + struct.pack("<I", 2**16) + bytes(2**16) + b"q\x01"
    encoded = named("_codecs", "encode") + b"q\x02"
    again = b"h\x02h\x01" + short(b"latin1") + b"\x86R"
    path = tmp_path / "x.npy"
    path.write_bytes(npy(b"\x80\x02(" + text + encoded + again * 4000 + b"t."))
    tracemalloc.start()
    with pytest.raises(DataError, match="repeats"):
        read_object_array(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


# Damage


def small():
    return of_protocol({"a": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.ones((2, 2), ">f8"))}, 4)


def test_a_truncated_file_is_refused(read):
    contents = small()
    for length in range(0, len(contents), 9):
        with pytest.raises(DataError):
            read(contents[:length])
    with pytest.raises(DataError, match="1 bytes after its pickle"):
        read(contents + b"x")


def test_a_changed_byte_never_does_worse_than_an_error():
    rng = np.random.default_rng(11)
    refused = 0
    for protocol in (2, 3, 4, 5):
        body = of_protocol({"a": np.ones((2, 3), np.float32), "b": [np.ones(2, ">f8"), "c"]}, protocol)[128:]
        for place in rng.integers(0, len(body), 30):
            changed = bytearray(body)
            changed[place] ^= rng.integers(1, 256)
            try:
                _interpret(memoryview(bytes(changed)))
            except DataError:
                refused += 1
    assert refused > 60


OTHER_FILES = {
    "empty": (b"", "not a .npy file"),
    "text": (b"epoch: 3\n", "not a .npy file"),
    "a plain pickle": (pickle.dumps({"a": 1}), "not a .npy file"),
    "a plain array": (npy(bytes(24), "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"), "single array of"),
    "another shape": (npy(small()[128:], "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }"), "promises"),
    "no array in it": (npy(pickle.dumps({"a": 1}, 4)), "header promises"),
}  # fmt: skip


def test_other_files(read, tmp_path):
    for contents, message in OTHER_FILES.values():
        with pytest.raises(DataError, match=message):
            read(contents)
    with pytest.raises(DataError, match="cannot be opened"):
        read_object_array(tmp_path / "none.npy")


# The layout


@pytest.fixture(scope="module")
def data():
    world = make_world(seed=5, num_classes=3, dim=6, train_videos=9, test_videos=9, median=20, longest=40)
    ambiguous = SegmentTable.from_rows([1, 1, 7], [0, 0, 0], [[3.5, 4], [0.25, 2], [1, 1.5]])
    return A2CLPTData(world, ambiguous)


@pytest.fixture(scope="module")
def written(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("a2cl") / "new" / "data"
    write_a2cl_pt(data, root)
    return root


def assert_splits_equal(mine, theirs, subset):
    assert mine.name == theirs.name
    order = sorted(range(len(theirs.videos)), key=lambda v: theirs.videos[v].id)
    for v, video in enumerate(mine.videos):
        its = theirs.videos[order[v]]
        assert (video.id, video.subset, video.duration) == (its.id, subset, its.duration)
        assert video.segment_labels == its.segment_labels
        np.testing.assert_array_equal(video.segments, its.segments, strict=True)
        for got, want in zip(mine.features.streams, theirs.features.streams, strict=True):
            rows = theirs.features.rows(order[v])
            np.testing.assert_array_equal(got[mine.features.rows(v)], want[rows], strict=True)


def test_written_and_read_again(data, written):
    dataset, ambiguous = read_a2cl_pt(written)
    assert (dataset.classes, dataset.streams) == (data.dataset.classes, ("rgb", "flow"))
    assert dataset.dims == (6, 6)
    assert dataset.snippet_seconds == 16 / 25
    assert_splits_equal(dataset.train, data.dataset.train, "train")
    assert_splits_equal(dataset.test, data.dataset.test, "val")
    for got, want in zip(ambiguous, data.ambiguous, strict=True):
        np.testing.assert_array_equal(got, want, strict=True)
    assert [path.name for path in written.parent.iterdir()] == ["data"]


def test_the_published_reader_finds_the_same(data, written):
    """What the published program reads: NumPy's own loader and plain JSON."""
    said = json.loads((written / "annotation.json").read_text())
    assert said["miscellany"] == {"fps_extracted": 25, "len_feature_chunk": 16}
    arrays = np.load(written / "feature_val.npy", allow_pickle=True)[()]
    test = read_a2cl_pt(written).dataset.test
    assert sorted(arrays) == [video.id for video in test.videos]
    rgb, flow = test.features.streams
    for v, video in enumerate(test.videos):
        rows = test.features.rows(v)
        np.testing.assert_array_equal(arrays[video.id], np.concatenate([rgb[rows], flow[rows]], axis=1), strict=True)
        assert said["database"][video.id]["subset"] == "val"
        assert [a["segment"] for a in said["database"][video.id]["annotations"]] == video.segments.tolist()


def test_order_of_ids_and_of_intervals(tmp_path):
    """Videos are sorted by id, and intervals follow them."""

    def video(name, subset):
        return Video(name, subset, np.array([[0.0, 1.0]]), ("Run",))

    def split(name, ids, lengths):
        total = sum(lengths)
        rows = np.arange(total, dtype=np.float32)[:, None]
        return Split(name, tuple(video(i, name) for i in ids), Features.end_to_end((rows, -rows), lengths))

    dataset = Dataset("x", ("Run",), ("a", "b"), split("train", ["t"], [2]), split("test", ["z", "b"], [3, 1]), 1 / 3)
    ambiguous = SegmentTable.from_rows([0, 1, 0], [0, 0, 0], [[0, 1], [1, 2], [2, 3]])
    write_a2cl_pt(A2CLPTData(dataset, ambiguous), tmp_path / "x")
    got, intervals = read_a2cl_pt(tmp_path / "x", streams=("a", "b"))
    assert got.snippet_seconds == 1 / 3
    assert [v.id for v in got.test.videos] == ["b", "z"]
    np.testing.assert_array_equal(got.test.features.streams[1].ravel(), [-3, 0, -1, -2])
    np.testing.assert_array_equal(intervals.video, [0, 1, 1])
    np.testing.assert_array_equal(intervals.segment, [[1, 2], [0, 1], [2, 3]])
    joint = read_a2cl_pt(tmp_path / "x", streams=("joint",)).dataset
    assert joint.dims == (2,)


def test_writing_is_all_or_nothing(data, written, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="exists already"):
        write_a2cl_pt(data, written)
    world = data.dataset
    twice = Dataset(
        "x", world.classes, world.streams, world.train, Split("test", world.train.videos, world.train.features)
    )
    with pytest.raises(DataError, match="2 videos named"):
        write_a2cl_pt(A2CLPTData(twice, data.ambiguous), tmp_path / "x")
    features = world.test.features
    part = Split("test", world.test.videos, Features(features.streams, features.starts, features.lengths * 0))
    elsewhere = Dataset("x", world.classes, world.streams, world.train, part)
    with pytest.raises(DataError, match="has no features here"):
        write_a2cl_pt(A2CLPTData(elsewhere, data.ambiguous), tmp_path / "x")
    monkeypatch.setattr(np, "save", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_a2cl_pt(data, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


# What the published file has, and defects

DIM = 4


class Layout:
    """A small folder in the making: the annotation document and the features, written at the end."""

    def __init__(self):
        videos = {"t1": "train", "t2": "train", "v1": "val", "v2": "val"}
        annotations = [{"label": "Run", "segment": [0.5, 1.5]}, {"label": "Jump", "segment": ["1", 2]}]
        self.database = {
            video: {"subset": subset, "annotations": [dict(a) for a in annotations], "duration": 9.5}
            for video, subset in videos.items()
        }
        self.document = {
            "database": self.database,
            "list_classes": ["Run", "Jump"],
            "miscellany": {"fps_extracted": 25, "len_feature_chunk": 16},
            "set_ambiguous": {"v2": [[1, 2.5]]},
        }
        rng = np.random.default_rng(0)
        self.features = {
            part: {video: rng.normal(size=(3, DIM)) for video, subset in videos.items() if subset == part}
            for part in ("train", "val")
        }

    def read(self, root, **options):
        root.mkdir()
        (root / "annotation.json").write_text(json.dumps(self.document))
        for part, arrays in self.features.items():
            np.save(root / f"feature_{part}.npy", arrays)
        return read_a2cl_pt(root, **options)


def test_what_the_published_file_has(tmp_path):
    layout = Layout()
    layout.database["t1"]["annotations"] = [{"label": "Jump"}, {"label": "Jump", "segment": [8, 12]}]
    layout.database["t2"] = {"subset": "train", "annotations": [{"label": "Run"}]}
    layout.database["v0"] = {"subset": "val", "annotations": [], "duration": 3}  # without features
    layout.database["v2"]["annotations"] = []  # with features
    layout.document["set_ambiguous"] = {"v2": [[1, 2]], "v1": [[3, 4]], "v0": [[5, 6]]}
    dataset, ambiguous = layout.read(tmp_path / "x")
    first, second = dataset.train.videos
    assert first.segment_labels == ("Jump", "Jump")
    np.testing.assert_array_equal(first.segments, [[0, 9.5], [8, 12]])
    np.testing.assert_allclose(second.segments, [[0, 3 * 0.64]])
    np.testing.assert_array_equal(dataset.train.multi_hot(dataset.classes), [[0, 1], [1, 0]])
    assert [video.id for video in dataset.test.videos] == ["v1"]
    assert dataset.test.features.lengths.tolist() == [3]
    np.testing.assert_array_equal(ambiguous.video, [0])
    np.testing.assert_array_equal(ambiguous.segment, [[3, 4]])


def test_float64_big_endian_and_by_column(tmp_path):
    layout = Layout()
    want = layout.features["val"]["v2"].astype(np.float32)
    layout.features["val"]["v2"] = np.asfortranarray(layout.features["val"]["v2"].astype(">f8"))
    features = layout.read(tmp_path / "x").dataset.test.features
    np.testing.assert_array_equal(np.concatenate(features.streams, axis=1)[features.rows(1)], want, strict=True)


def at(*keys, to):
    """Set what the keys lead to."""

    def change(layout):
        target = vars(layout)
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to

    return change


def without(*keys):
    def change(layout):
        target = vars(layout)
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]

    return change


def odd(layout):
    for arrays in layout.features.values():
        for video in arrays:
            arrays[video] = arrays[video][:, :3]


def nothing_to_test(layout):
    for video in ("v1", "v2"):
        layout.database[video]["annotations"] = []


SEGMENT = ("database", "v1", "annotations", 0, "segment")
TRAIN, VAL, NOTES = "feature_train.npy", "feature_val.npy", "annotation.json"
DEFECTS = {
    "no database": (without("document", "database"), NOTES, 'no "database"', "take the annotation file"),
    "no classes": (without("document", "list_classes"), NOTES, '"list_classes" is no list', "write all classes"),
    "class twice": (at("document", "list_classes", to=["Run", "Jump", "Run"]), NOTES, "'Run' more than once", "keep"),
    "no rate": (at("document", "miscellany", to={"len_feature_chunk": 16}), NOTES, "fps_extracted", "no finite number"),
    "rate of 0": (at("document", "miscellany", "fps_extracted", to=0), NOTES, "16 frames a snippet at 0", "write"),
    "no list": (without("database", "v1", "annotations"), NOTES, "'v1'", 'no "annotations" list', "add one"),
    "subset": (at("database", "t1", "subset", to="test"), NOTES, "'t1'", "subset 'test' is unknown", "'val']"),
    "label": (at("database", "v1", "annotations", 0, "label", to="Sit"), NOTES, "'v1'", "'Sit'", "add it there"),
    "no segment to test": (without(*SEGMENT), NOTES, "'v1'", "annotation 0", "write [start, end]"),
    "segment of nothing": (at(*SEGMENT, to=[2, 2]), NOTES, "'v1'", "ends at 2.0 s, not after its start", "fix it"),
    "negative segment": (at(*SEGMENT, to=[-1, 2]), NOTES, "starts at -1.0 s", "fix it"),
    "duration": (at("database", "v1", "duration", to=-1), NOTES, "duration -1.0 s is not positive", "fix it"),
    "ambiguous backwards": (at("document", "set_ambiguous", "v2", to=[[3, 1]]), NOTES, "'v2'", "ends at 1.0 s", "fix"),
    "ambiguous number": (at("document", "set_ambiguous", "v2", to=3), NOTES, "'v2'", "no list of intervals", "write"),
    "ambiguous stranger": (at("document", "set_ambiguous", "q", to=[[1, 2]]), NOTES, "'q'", "not in the", "remove"),
    "features missing": (without("features", "val", "v2"), VAL, "no features of v2", "add them or remove"),
    "features of a stranger": (at("features", "val", "q", to=np.ones((2, DIM))), VAL, "q", NOTES, "add or remove"),
    "features of the other part": (at("database", "v1", "subset", to="train"), VAL, "'v1'", "'train'", "fix the"),
    "nothing to learn": (at("database", "t2", "annotations", to=[]), NOTES, "t2", "no label to learn from", "annotate"),
    "nothing known": (at("database", to={}), TRAIN, "t1, t2", "lacks", "add or remove"),
    "nothing to test": (nothing_to_test, NOTES, "no video of subset 'val'", "annotate some"),
    "no video": (at("features", "train", to={}), TRAIN, "no dictionary of features", "save"),
    "no dictionary": (at("features", "train", to=[1, {}]), TRAIN, "no dictionary of features", "save"),
    "integers": (at("features", "val", "v1", to=np.ones((2, DIM), int)), VAL, "'v1'", "int64", "extract"),
    "a list": (at("features", "val", "v1", to=[1.0]), VAL, "'v1'", "list", "extract"),
    "empty": (at("features", "val", "v1", to=np.ones((0, DIM))), VAL, "'v1'", f"shape (0, {DIM})", "extract"),
    "one axis": (at("features", "val", "v1", to=np.ones(DIM)), VAL, "'v1'", f"shape ({DIM},)", "extract"),
    "other dim": (at("features", "val", "v1", to=np.ones((2, 6))), VAL, "'v1' has dim 6, but 3 of 4", "one model"),
    "odd dim": (odd, "dim 3 does not divide", "('rgb', 'flow')", "name all streams"),
    "nan": (at("features", "val", "v1", to=np.full((2, DIM), np.nan)), VAL, "'v1' has 8 values", "of 8", "extract"),
    "too large": (at("features", "train", "t1", to=np.full((2, DIM), 1e300)), TRAIN, "'t1'", "infinite", "extract"),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFECTS)
def test_defects_are_named(tmp_path, case):
    change, *parts = DEFECTS[case]
    layout = Layout()
    change(layout)
    layout.document["database"] = layout.database if case != "no database" else None
    with pytest.raises(DataError) as caught:
        layout.read(tmp_path / "x")
    for part in (tmp_path, *parts):
        assert str(part) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_folders_and_streams(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such folder; pass"):
        read_a2cl_pt(tmp_path / "none")
    for streams in ((), ("rgb", "rgb")):
        with pytest.raises(DataError, match="once"):
            read_a2cl_pt(tmp_path, streams=streams)
    with pytest.raises(DataError, match=r"annotation.json: no such file"):
        read_a2cl_pt(tmp_path)
    layout = Layout()
    layout.document["set_ambiguous"] = {}
    assert len(layout.read(tmp_path / "x").ambiguous.label) == 0
    monkeypatch.setattr("casejax.data.layouts.a2cl_pt.MEMORY_SHARE", 0.0)
    with pytest.raises(DataError, match="GB as float32, this machine has"):
        read_a2cl_pt(tmp_path / "x")
