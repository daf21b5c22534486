"""Names of videos in files of different origin: "v_" in front, an extension behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

EXTENSIONS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".npy", ".npz")
"""What names of videos and of their feature files end with."""


def bare_name(name: str) -> str:
    """The name without a known extension, whatever its case, and without a leading "v_"."""
    for extension in EXTENSIONS:
        if name.lower().endswith(extension):
            name = name[: -len(extension)]
            break
    return name.removeprefix("v_")


def match_names(names: Iterable[str], videos: Sequence[str]) -> dict[str, int]:
    """Which video each name means: that of the same name, else that of the same bare name where this is unique.

    A name that several videos could have, or that shares its video with another name, is left out.

    Args:
      names: as a file has them.
      videos: names of the videos.

    Returns:
      By the names that mean one of the videos, its index.
    """
    index = {name: v for v, name in enumerate(videos)}
    names = list(dict.fromkeys(names))
    matched = {name: index[name] for name in names if name in index}
    taken = set(matched.values())
    rest = {name: bare_name(name) for name in names if name not in matched}
    theirs = Counter(rest.values())
    bare: dict[str, list[int]] = {}
    for v, name in enumerate(videos):
        bare.setdefault(bare_name(name), []).append(v)
    for name, short in rest.items():
        places = bare.get(short, [])
        if theirs[short] == len(places) == 1 and places[0] not in taken:
            matched[name] = places[0]
    return matched
