"""Files are opened by `runtime/reading.py`, and by those that are listed here with their reason."""

import ast
from pathlib import Path

import pytest

import casejax

HOUSE = Path(casejax.__file__).parent
READING = {"open", "read_text", "read_bytes"}
"""Methods that open a file, of whatever they are called on."""
MODULES = {
    "np": {"load", "loadtxt", "genfromtxt", "fromfile", "memmap", "DataSource"},
    "json": {"load"},
    "pickle": {"load", "loads", "Unpickler"},
    "torch": {"load"},
    "zipfile": {"ZipFile", "Path"},
    "tarfile": {"TarFile"},
    "io": {"open", "FileIO"},
    "os": {"open", "fdopen"},
    "codecs": {"open"},
    "h5py": {"File"},
    "mmap": {"mmap"},
    "shelve": {"open"},
    "sqlite3": {"connect"},
    "cv2": {"imread", "VideoCapture", "FileStorage"},
    "fileinput": {"input"},
    "configparser": {"ConfigParser"},
    "tomllib": {"load"},
}
NAMES = {"open", "load_file", "safe_open", "loadmat"}
"""Functions by their bare name."""
OURS = ("reading.", "FeatureFolder.")
"""What is called `read_text` or `open` and is our own."""

ALLOWED = {
    ("runtime/reading.py", "os.open"): "the one way in",
    ("runtime/reading.py", "open"): "the one way in",
    ("runtime/files.py", "os.open"): "locks of files that are written",
    ("runtime/files.py", "open"): "writes",
    ("runtime/files.py", "path.open"): "writes",
    ("runtime/lock.py", "os.open"): "a lock, of which 200 bytes are read",
    ("runtime/apart.py", "open"): "/proc of this process",
    ("runtime/apart.py", "os.fdopen"): "a pipe of this process",
    ("runtime/hdf5.py", "h5py.File"): "in a process apart, after check_plain",
    ("runtime/stores.py", "ts.KvStore.open"): "in a process apart",
    ("runtime/stores.py", "ts.open"): "in a process apart",
    ("runtime/npy.py", "archive.open"): "a member of an archive that open_plain opened",
    ("runtime/npy.py", "zipfile.ZipFile"): "on a file of open_plain",
    ("runtime/npy.py", "mmap.mmap"): "on a file of open_plain",
    ("runtime/environment.py", "git.read_text"): "the repository that casejax itself lies in",
    ("runtime/environment.py", "(git / 'HEAD').read_text"): "the repository that casejax itself lies in",
    ("runtime/environment.py", "common.read_text"): "the repository that casejax itself lies in",
    ("runtime/environment.py", "loose.read_text"): "the repository that casejax itself lies in",
    ("runtime/environment.py", "(root / 'packed-refs').read_text"): "the repository that casejax itself lies in",
    ("report/page.py", "(files / name).read_text"): "a part of this package",
    ("data/store.py", "mmap.mmap"): "on a file of open_plain",
    ("data/pickles/numpy_files.py", "mmap.mmap"): "on a file of open_plain",
    ("data/pickles/torch_files.py", "zipfile.ZipFile"): "on bytes of read_bytes, or a file that is written",
    ("data/layouts/arrays.py", "np.loadtxt"): "on a file of open_plain",
    ("features/decoder.py", "av.open"): "after check_plain: FFmpeg also goes by the name",
    ("features/encoder.py", "av.open"): "writes",
    ("alignment/data/frames.py", "Image.open"): "on a file of open_plain",
    ("train/writers.py", "path.open"): "writes",
}


def opened(source):
    """Every call in a source that opens a file, as it is written, with its line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, attribute = name.rpartition(".")
        known = (owner and attribute in READING) or attribute in MODULES.get(owner, ()) or (not owner and name in NAMES)
        if known and not name.startswith(OURS):
            yield name, node.lineno


def test_no_file_is_opened_but_in_one_place():
    seen = set()
    for path in sorted(HOUSE.rglob("*.py")):
        where = path.relative_to(HOUSE).as_posix()
        for name, line in opened(path.read_text()):
            assert (where, name) in ALLOWED, f"{where}:{line} opens a file by {name}; read it by runtime.reading"
            seen.add((where, name))
    assert seen == set(ALLOWED), "listed, and no longer there"


@pytest.mark.parametrize(
    "source",
    ["open(p)", "p.open()", "Path(p).read_text()", "np.load(p)", "json.load(f)", "zipfile.ZipFile(p)", "load_file(p)"],
)
def test_what_opens_a_file_is_found(source):
    assert list(opened(source))


def test_modules_are_called_by_the_names_that_are_looked_for():
    """No `from json import load`, no `import numpy as n`: they would pass unseen."""
    for path in HOUSE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                hidden = MODULES[node.module] & {alias.name for alias in node.names}
                assert not hidden, f"{path}: from {node.module} import {hidden}"
            if isinstance(node, ast.Import):
                for alias in node.names:
                    assert alias.name not in MODULES or alias.asname is None, f"{path}: {alias.name} as {alias.asname}"
                    assert alias.name != "numpy" or alias.asname == "np", path
