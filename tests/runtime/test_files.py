"""Files and folders are written whole or not at all, and writing them loads nothing heavy."""

import os
import subprocess
import sys

import pytest

from casejax.errors import DataError
from casejax.runtime import files


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("é\n", "second"):
        with files.whole_file(path) as file:
            file.write(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_bytes() == text.encode()
    with files.whole_file(tmp_path / "new" / "b", "wb") as file:
        file.write(b"\xff")
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.txt", "b"]


def write_half(path):
    with files.whole_file(path) as file:
        file.write("half")
        raise KeyboardInterrupt


def test_a_block_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "before")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    with pytest.raises(TypeError):
        files.write_json(path, object())
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                files.write_text(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_json_ends_in_a_line_end(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  1\n ]\n}\n'


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path):
    root = tmp_path / "new" / "folder"
    with files.whole_folder(root) as folder:
        (folder / "a").write_text("a")
        assert not root.exists()
    assert [p.name for p in root.iterdir()] == ["a"]
    with pytest.raises(DataError, match="folder: exists already"), files.whole_folder(root):
        pytest.fail("entered")
    with pytest.raises(FileNotFoundError), files.whole_folder(tmp_path / "new" / "other") as folder:
        (folder / "a" / "b").write_text("a")
    assert list(root.parent.iterdir()) == [root]


@pytest.mark.parametrize(
    ("room", "may"),
    [("data", {"ml_dtypes"}), ("runtime", set()), ("runtime.files", set()), ("report", {"jax", "rich", "ml_dtypes"})],
)
def test_importing_a_room_loads_little(room, may):
    heavy = {"jax", "flax", "optax", "orbax", "matplotlib", "scipy", "rich", "ml_dtypes", "torch", "sklearn"}
    code = f"import sys, casejax.{room}; print([m for m in {sorted(heavy - may)} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ["data", "data.layouts", "data.pickles", "report", "runtime"])
def test_every_listed_name_is_there(room):
    code = f"import casejax.{room} as room; print([n for n in room.__all__ if getattr(room, n, None) is None])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
