"""The kinds of fault that were seen once, each by its letter in docs/reliability.md, everywhere they could occur."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_readers import READERS, ROWS

import casejax
from casejax.alignment.networks.keras_weights import read_keras_weights
from casejax.data import store
from casejax.data.layouts.feature_files import list_videos, load_features_file
from casejax.data.layouts.rows import read_array
from casejax.data.matlab import read_matlab
from casejax.data.pickles import read_pickle
from casejax.errors import CheckpointError, DataError
from casejax.runtime import distributed, files, reading
from casejax.runtime.npy import map_npy

JSON_READERS = [name for name, reader in READERS.items() if reader.is_json and reader.names_file]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(casejax.__file__).parents[1]), "JAX_PLATFORMS": "cpu"}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="of the files of Linux")


@contextlib.contextmanager
def within(seconds):
    """Fails what takes longer: a pipe blocks for ever."""

    def late(signum, frame):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_strange(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zeros without end":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 43)  # no byte of it is on the disk


@LINUX
@pytest.mark.parametrize("kind", ["pipe", "zeros without end", "folder", "dangling link", "sparse"])
def test_a_what_is_no_plain_file_is_refused_at_once(tmp_path, kind):
    for name, reader in READERS.items():
        own = ["metrics", "run", "table of metrics"] + ["packed", "folder", "stated"] * (kind == "dangling link")
        if name in own:  # not handed over by a user: what is not there is written
            continue
        (tmp_path / name).mkdir()
        path = reader.write(tmp_path / name)
        path.unlink()
        try:
            make_strange(path, kind)
        except OSError:
            pytest.skip("the disk holds no file of that size")
        with within(5), pytest.raises((DataError, CheckpointError)) as caught:
            reader.read(path)
        text = str(caught.value)
        assert str(path.parent) in text, f"{name}: {text}"
        assert "\n" not in text


def test_a_the_limit_of_a_kind_can_be_raised(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    monkeypatch.setitem(reading.LIMITS, "JSON", 4)
    with pytest.raises(DataError, match=r"a.json: 6 bytes are more .* CASEJAX_LARGEST_FILE=6"):
        reading.read_json(path)
    monkeypatch.setenv(reading.LIMIT_VARIABLE, "6")
    assert reading.read_json(path) == [1, 2]
    monkeypatch.setenv(reading.LIMIT_VARIABLE, "much")
    with pytest.raises(DataError, match="CASEJAX_LARGEST_FILE=much: is no number of bytes"):
        reading.read_json(path)


BREAKING = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep enough to parse": '{"a": ' * 100 + "1" + "}" * 100,
    "digits": '{"database": ' + "9" * 5000 + "}",
    "half a pair": '{"database": {"\\ud800": {}}, "results": {"\\udfff": []}, "videos": {"\\ud800": 1}}',
    "twice": '{"videos": {}, "videos": {}}',
    "cut": '{"database": {"a": ',
    "not text": b'{"\xff": 1}',
    "string": '"x"',
    "list": "[1, [2]]",
    "null": "null",
    "empty": "",
}


@pytest.mark.parametrize("case", BREAKING)
@pytest.mark.parametrize("name", JSON_READERS)
def test_b_json_that_breaks_readers_is_a_sentence_with_the_file(tmp_path, name, case):
    path, content = READERS[name].write(tmp_path), BREAKING[case]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataError, CheckpointError)) as caught:
        READERS[name].read(path)
    assert str(path.parent) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_b_text_that_is_none_is_placed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\nsec\xffond\n")
    with pytest.raises(DataError, match=r"a.txt: .* line 2, byte 4 is 0xff, which is not UTF-8; save it"):
        reading.read_text(path)


def test_b_a_form_is_checked_with_its_place():
    form = {"a": [float], "b?": (str, type(None))}
    reading.check_form({"a": [1, 2.5], "b": None}, form, "x")
    for value, says in (
        ([], r"x: is \[\], not an object"),
        ({}, "x: has no 'a'"),
        ({"a": [1, True]}, r"x: 'a', item 1 .*is True, not a number"),
        ({"a": [], "b": 1}, "x: 'b': is 1, not a string or null"),
    ):
        with pytest.raises(DataError, match=says):
            reading.check_form(value, form, "x")


def test_c_no_bit_of_a_matlab_file_ends_the_process(tmp_path):
    """SciPy's reader ends the process for some of these; ours has no part that could."""
    path = READERS["matlab"].write(tmp_path)
    good, refused = path.read_bytes(), 0
    names = ("x", "y", "action", "nframes")
    whole = read_matlab(path, names)
    assert sorted(whole) == sorted(names)
    for place in range(0, len(good), 3):
        changed = bytearray(good)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            read_matlab(path, names)
        except DataError:
            refused += 1
    assert refused > 50


def test_c_small_hdf5_files_of_large_arrays_are_refused(tmp_path):
    bombs = {
        "fill": lambda file: file.create_dataset("a", (1 << 20, 1 << 10), "f4", fillvalue=1.0, chunks=(1, 1 << 10)),
        "contiguous": lambda file: file.create_dataset("a", (1 << 20, 1 << 10), "f4"),
        "chunk": lambda file: file.create_dataset("a", (1 << 15, 1 << 10), "f4", chunks=(1 << 15, 1 << 10)),
    }
    for name, make in bombs.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        assert path.stat().st_size < 1 << 20
        with pytest.raises(DataError, match=f"{name}.h5: array .a.: (promises|is stored in chunks)"):
            load_features_file(path)
    deep = tmp_path / "deep.h5"
    with h5py.File(deep, "w") as file:
        file["/".join("g" * 40) + "/a"] = ROWS
    for read in (load_features_file, read_keras_weights):
        with pytest.raises(DataError, match=r"deep.h5: more than 32 groups"):
            read(deep)


def test_c_links_of_keras_files_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["model_weights/conv/kernel"] = ROWS
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink("other.h5", "model_weights")
    assert read_keras_weights(tmp_path / "a.h5") == {}


def test_c_keys_of_one_hash_are_refused(tmp_path):
    """A dictionary of them takes time in the square of their number."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({n * (2**61 - 1): None for n in range(1, 4)}, protocol=2))
    with pytest.raises(DataError, match="a number beyond all counts for a key"):
        read_pickle(path)


def test_f_what_a_kill_left_is_used_again_or_swept(tmp_path):
    code = "import os, sys; from casejax.runtime import files\n"
    code += "with files.{}(sys.argv[1]) as f:\n    {}\n    os.kill(os.getpid(), 9)"
    half = {"whole_file": "f.write('x' * 99999); f.flush()", "whole_folder": "(f / 'a').write_text('x')"}
    for kind, work in half.items():
        path = tmp_path / kind
        for _ in range(2):
            done = subprocess.run([sys.executable, "-c", code.format(kind, work), path], check=False, env=ENVIRONMENT)
            assert done.returncode == -signal.SIGKILL
        assert [p.name for p in tmp_path.iterdir()] == [f".{kind}.partial"]  # of two kills, one
        if kind == "whole_file":
            files.write_text(path, "whole")
            assert path.read_text() == "whole"
        else:
            assert files.sweep(tmp_path) == [tmp_path / f".{kind}.partial"]
        assert not list(tmp_path.glob(".*"))
        path.unlink(missing_ok=True)


def test_f_what_a_living_writer_holds_is_not_swept(tmp_path):
    with files.whole_file(tmp_path / "a") as one:
        one.write("one")
        assert files.sweep(tmp_path) == []
        files.write_text(tmp_path / "a", "other")  # a second writer of the same name is not in the way
        assert (tmp_path / "a").read_text() == "other"
    assert (tmp_path / "a").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_f_a_name_that_another_writer_has_taken_meanwhile_is_not_swept(tmp_path, monkeypatch):
    """Between looking at a hidden place and locking it, its writer ends, and the next one begins under that name."""
    partial, lock = tmp_path / ".a.partial", files._lock
    partial.write_text("whole")

    def late(descriptor):
        if not (tmp_path / "a").exists():
            partial.rename(tmp_path / "a")
            partial.write_text("of the next")
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    assert files.sweep(tmp_path) == []
    assert partial.read_text() == "of the next"


@pytest.mark.parametrize("at", [1, 2, 3])
def test_k_a_packed_file_that_goes_while_it_is_looked_at(tmp_path, monkeypatch, at):
    """Another process deletes it just before somebody looks at it for the n-th time."""
    source = store.Source([tmp_path / "s"], [3], [4], "float32")
    source.files[0].write_text("x")
    store.packed(tmp_path / "packed", "train", source, iter([ROWS]))
    packed = next((tmp_path / "packed").glob("*.features"))
    stat, looks = Path.stat, []

    def late(path, **options):
        looks.append(path)
        if path == packed and looks.count(packed) == at:
            packed.with_suffix(".json").unlink()
            packed.unlink()
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", late)
    got = store.packed(tmp_path / "packed", "train", source, iter([ROWS + 1]))
    deleted = looks.count(packed) >= at
    np.testing.assert_array_equal(got.streams[0], ROWS + 1 if deleted else ROWS)
    assert packed in looks


@pytest.mark.parametrize("described", ["|M", "<m8[s]", "|V3", "[('a', '<f4')]"])
def test_c_dates_and_records_of_numpy_are_neither_numbers_nor_text(tmp_path, described):
    """NumPy fails in `str` of a date without a unit."""
    path = tmp_path / "classes.npy"
    described = described if described[0] == "[" else repr(described)
    header = f"{{'descr': {described}, 'fortran_order': False, 'shape': (2,), }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64))
    with pytest.raises(DataError, match=r"classes\.npy: it is a single array of type .*, not an object"):
        read_array(path)
    with pytest.raises(DataError, match=r"classes\.npy: .* holds neither numbers nor text"):
        map_npy(path, remedy="name another")


def test_k_two_data_sets_in_one_packed_folder(tmp_path):
    """Several threads read and pack two sources, one of which changes all the time, in one folder."""
    sources = {name: tmp_path / name for name in "ab"}
    for path in sources.values():
        path.write_text("x")
    wrong, since = [], time.monotonic()

    def use(name, value):
        count = 0
        while time.monotonic() - since < 1.5 and count < 200:
            try:
                rows = iter([ROWS + value])
                source = store.Source([sources[name]], [3], [4], "float32")
                got = store.packed(tmp_path / "packed", "train", source, rows)
                np.testing.assert_array_equal(got.streams[0], ROWS + value)
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
            count += 1

    threads = [threading.Thread(target=use, args=(name, ord(name))) for name in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(list((tmp_path / "packed").iterdir())) == 4  # a file and its description each
    os.utime(sources["a"], (5, 5))
    use("a", 7)
    store.packed(tmp_path / "packed", "train", store.Source([sources["a"]], [3], [4], "float32"), iter([ROWS + 7]))
    assert len(list((tmp_path / "packed").iterdir())) == 4  # what was packed of it before is gone


def test_l_processes_are_not_counted_as_data(monkeypatch):
    def seen_by_two(own, other):
        monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda x: np.stack([x, np.int32(other)]))
        return distributed.total_of_parts(np.array(own))

    alone = distributed.total_of_parts(np.array([3, 0, 5]))
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    assert seen_by_two([3, 0, 5], [3, 0, 5]) == alone == 8  # each has read all
    assert seen_by_two([3, 0, 0], [0, 0, 5]) == 8  # each has read its part


@LINUX
def test_n_names_that_no_file_can_hold_are_refused_at_the_start(tmp_path):
    with open(os.fsencode(tmp_path) + b"/v\xff.npy", "wb") as file:
        np.save(file, ROWS)
    with pytest.raises(DataError, match="is no plain file name; rename the video"):
        list_videos(tmp_path, ("features",))


def write_table(folder):
    (folder / "features ü").mkdir()
    for video in ("clip one", "clip ü"):
        np.save(folder / "features ü" / f"{video}.npy", np.tile(ROWS, (8, 1)))
    (folder / "labels é.csv").write_text("video,label\nclip one,Dive é\nclip ü,Dive é\n", encoding="utf-8")
    return ["--features", str(folder / "features ü"), "--labels", str(folder / "labels é.csv")]


def test_n_a_terminal_of_ascii_shows_question_marks(tmp_path):
    words = [sys.executable, "-m", "casejax.cli", "check", *write_table(tmp_path)]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert b"features ?: 1 classes" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("after", [0.02, 0.2])
def test_i_ctrl_c_while_jax_is_loaded_is_one_line(after):
    words = [sys.executable, "-m", "casejax.cli", "train"]
    process = subprocess.Popen(words, stdout=-1, stderr=-1, text=True, env=ENVIRONMENT)
    assert process.stdout.readline() == "loading JAX\n"
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("interrupted")
    assert said.count("\n") == 1
