"""A folder of features that grows video by video, and within a video part by part, whatever stops it.

OUT/features.json           what a row stands for, what made it, and the videos that are finished
OUT/STREAM/ID.npy           (rows, dim) float32
OUT/.parts/ID/FIRST.npz     rows of an unfinished video, from row FIRST on
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from casejax.array_types import Float
from casejax.errors import DataError
from casejax.runtime.files import whole_file, write_json
from casejax.runtime.npy import read_npz
from casejax.runtime.reading import check_form, read_json

FREE = ("videos", "casejax")
"""Entries of `features.json` that may differ between two calls."""

ENTRY = {"file": str, "bytes": int, "frames": int, "duration": float, "rows": int}
"""What `features.json` says of a video."""


@dataclass
class FeatureFolder:
    """A folder of features.

    Attributes:
      root: the folder.
      stated: what `features.json` says of all of them.
      finished: what it says of every video whose features are there: file, bytes, frames, duration, rows.
    """

    root: Path
    stated: dict[str, Any]
    finished: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, stated: dict[str, Any]) -> FeatureFolder:
        """The folder with what is in it; a new one states how its features are made at once.

        Raises:
          DataError: it states that they are made otherwise.
        """
        path = root / "features.json"
        if not path.exists():
            if root.is_dir() and any(p.suffix == ".npy" for p in root.rglob("*")):
                raise DataError(f"{root}: has features, but no features.json that says of what; choose another folder")
            folder = cls(root, stated)
            folder._write()
            return folder
        try:
            there = read_json(path, {"videos": dict}, remedy="choose another folder")
            finished = there["videos"]
            for video, own in finished.items():
                check_form(own, ENTRY, f"{path}: video {video!r}", remedy="choose another folder")
        except DataError as error:
            raise DataError(f"{path}: is not by casejax: {str(error).removeprefix(f'{path}: ')}") from error
        for name in sorted((stated.keys() | there.keys()) - set(FREE)):
            if there.get(name) != stated.get(name):
                raise DataError(
                    f"{path}: features there have {name} {there.get(name)!r}, those asked for {stated.get(name)!r}; "
                    "choose another folder, or the same options and weights"
                )
        for video in finished:  # stopped between its last file and this
            shutil.rmtree(root / ".parts" / video, ignore_errors=True)
        return cls(root, stated, finished)

    def check(self, videos: Mapping[str, Path]) -> None:
        """Refuse videos that are finished by their id, but are not the same file.

        Raises:
          DataError: it names the first.
        """
        for video, path in videos.items():
            own = self.finished.get(video)
            if own is not None and path.is_file() and own["bytes"] != path.stat().st_size:
                raise DataError(
                    f"{path}: {self.root} has features of {video} from a file of {own['bytes']} bytes, this one has "
                    f"{path.stat().st_size}; rename it, or remove {video} from features.json to make them anew"
                )

    def parts(self, video: str, path: Path, batch: int) -> Parts:
        """The rows of a video that an earlier call has written; none where it worked otherwise, or on another file."""
        about = path.stat()
        same = {k: v for k, v in self.stated.items() if k not in FREE}
        origin = same | {"file": path.name, "bytes": about.st_size, "modified": about.st_mtime_ns}
        return Parts(self, video, origin, self.root / ".parts" / video, batch)

    def add(self, video: str, about: dict[str, Any]) -> None:
        """Count a video as finished."""
        self.finished[video] = about
        self._write()

    def _write(self) -> None:
        write_json(self.root / "features.json", self.stated | {"videos": dict(sorted(self.finished.items()))})


class Parts:
    """Rows of one video on their way into its files.

    Attributes:
      rows: how many there are.
      batch: windows at a time that they are made with; that of the earlier call, so that bits are the same.
    """

    def __init__(self, folder: FeatureFolder, video: str, origin: dict[str, Any], place: Path, batch: int) -> None:
        self.folder, self.video, self.origin, self.place = folder, video, origin, place
        self.rows, self.batch = 0, batch
        written = _read_json(place / "origin.json")
        if written is not None and written.get("origin") == origin:
            self.batch = written.get("batch", batch)
            while (found := self._read(self.rows)) is not None:
                self.rows += len(found[0])
        if not self.rows:
            self.batch = batch
            shutil.rmtree(place, ignore_errors=True)
            write_json(place / "origin.json", {"origin": origin, "batch": batch})

    def add(self, first: int, rows: Sequence[Float[np.ndarray, "rows _"]]) -> None:
        """Keep some rows, an array a stream."""
        assert first == self.rows
        with whole_file(self._path(first), "wb") as file:
            np.savez(file, *rows)
        self.rows += len(rows[0])

    def finish(self, about: dict[str, Any]) -> None:
        """Join the rows into the files of the video, and count it as finished.

        Args:
          about: what else `features.json` says of it.
        """
        for i, (stream, dim) in enumerate(self.folder.stated["streams"].items()):
            with whole_file(self.folder.root / stream / f"{self.video}.npy", "wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, dim)}
                np.lib.format.write_array_header_1_0(file, header)
                done = 0
                while done < self.rows:
                    rows = self._read(done)
                    assert rows is not None
                    file.write(np.ascontiguousarray(rows[i], "<f4").tobytes())
                    done += len(rows[i])
        file_about = {"file": self.origin["file"], "bytes": self.origin["bytes"]}
        self.folder.add(self.video, file_about | about | {"rows": self.rows})
        shutil.rmtree(self.place, ignore_errors=True)

    def _path(self, first: int) -> Path:
        return self.place / f"{first:09d}.npz"

    def _read(self, first: int) -> list[np.ndarray] | None:
        """The arrays of a part; None where it is missing or damaged."""
        try:
            return list(read_npz(self._path(first), remedy="make it again").values())
        except DataError:
            return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path, dict)
    except DataError:
        return None
