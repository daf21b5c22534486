"""What any long computation needs of its machine, whatever it computes.

    files        written whole or not at all
    reading      read by what their kind can be
    npy          NumPy's files, without pickles
    hdf5         arrays in HDF5 files
    apart        libraries that damaged files can crash, in a process of their own
    lock         one run in a folder at a time
    checkpoint   the state of a run, kept and restored (Orbax)
    interrupt    signals as a request to stop between two steps
    mesh         devices, and which part of an array each of them holds
    distributed  one run in several processes

A name is loaded when it is asked for, so whoever only writes a file does not load JAX or Orbax.
"""

from importlib import import_module
from typing import Any

_MODULE_OF = {
    "whole_file": "files",
    "whole_folder": "files",
    "write_text": "files",
    "write_bytes": "files",
    "write_json": "files",
    "sweep": "files",
    "open_plain": "reading",
    "read_text": "reading",
    "read_json": "reading",
    "own_folder": "lock",
    "Checkpoints": "checkpoint",
    "State": "checkpoint",
    "StopRequest": "interrupt",
    "make_mesh": "mesh",
    "replicated": "mesh",
    "over_videos": "mesh",
    "state_shardings": "mesh",
    "place": "mesh",
    "local": "mesh",
    "check_placement": "mesh",
    "join": "distributed",
    "is_first": "distributed",
    "own_part": "distributed",
    "wait_for_all": "distributed",
    "largest": "distributed",
    "total_of_parts": "distributed",
    "from_first": "distributed",
    "raise_peer_lost": "distributed",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
