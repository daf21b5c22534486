"""One run in a folder at a time."""

import threading

import pytest

from casejax.errors import CheckpointError
from casejax.runtime import files
from casejax.runtime.lock import own_folder

fcntl = pytest.importorskip("fcntl")


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
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / ".curves.png.partial").write_text("x")
    with own_folder(tmp_path):
        assert sorted(p.name for p in tmp_path.rglob("*")) == [".lock", "pictures"]
    assert [p.name for p in tmp_path.rglob("*")] == ["pictures"]


def test_an_owner_that_has_not_written_its_name_yet_is_waited_for(tmp_path):
    with open(tmp_path / ".lock", "w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        named = threading.Timer(0.1, lambda: owner.write("process 7 on a host") and owner.flush())
        named.start()
        with pytest.raises(CheckpointError, match=r"another run is in this folder \(process 7 on a host\)"):
            enter(tmp_path)
        named.join()
        owner.truncate(0)
        with pytest.raises(CheckpointError, match=r"\(an unknown process\)"):
            enter(tmp_path)


def test_a_folder_that_goes_while_it_is_entered_is_made_again(tmp_path, monkeypatch):
    made = []

    def make_and_lose(path):
        made.append(path)
        path.mkdir(parents=True)
        if len(made) == 1:
            path.rmdir()
        return path

    monkeypatch.setattr(files, "make_folder", make_and_lose)
    with own_folder(tmp_path / "a") as path:
        assert (path / ".lock").exists()
    assert len(made) == 2
