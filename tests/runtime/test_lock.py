"""One run in a folder at a time."""

import threading

import pytest

from casejax.errors import CheckpointError
from casejax.runtime import files
from casejax.runtime.lock import own_folder


def enter(path):
    with own_folder(path):
        pass


def test_a_folder_is_held_by_one_and_may_be_asked_for_again(tmp_path):
    said = []

    def other():
        with (
            pytest.raises(CheckpointError, match="another run is in this folder") as caught,
            own_folder(tmp_path / "a"),
        ):
            pytest.fail("entered")
        said.append(str(caught.value))

    with own_folder(tmp_path / "a") as path:
        with own_folder(tmp_path / "a"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(said) == 1
        files.write_text(path / "x", "x")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x"]
    with own_folder(tmp_path / "a"):
        assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [".lock", "x"]


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), own_folder(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()


def test_what_a_kill_left_in_it_is_swept(tmp_path):
    (tmp_path / ".world.partial").mkdir()
    (tmp_path / ".world.partial" / "x").write_text("x")
    (tmp_path / ".results.json.partial").write_text("x")
    with own_folder(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())
