"""Arrays that TensorStore keeps, read whole to see whether they can be: the work of a process apart (`apart.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from casejax.runtime import apart

THREADS_ROOM = 1 << 30
"""Bytes of memory that TensorStore's threads may take whatever is read."""
METADATA = {".zarray": "zarr", "zarr.json": "zarr3"}
"""The file that describes an array, and the driver that reads it."""


def read_all(path: str, *, remedy: str) -> tuple[int, bytes]:
    """Read every array below a folder, as Orbax writes them; returns their number."""
    import tensorstore as ts

    apart.limit(sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()), room=THREADS_ROOM)
    place: dict[str, Any] = {"driver": "file", "path": f"{path}/"}
    if (Path(path) / "manifest.ocdbt").exists():
        place = {"driver": "ocdbt", "base": place}
    count = 0
    for key in ts.KvStore.open(place).result().list().result():
        folder, _, name = key.decode(errors="replace").rpartition("/")
        if name in METADATA:
            store = {**place, "path": f"{place.get('path', '')}{folder}/"}
            ts.open({"driver": METADATA[name], "kvstore": store}, read=True).result().read().result()
            count += 1
    return count, b""
