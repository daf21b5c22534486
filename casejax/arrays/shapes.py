"""Which sizes the arrays of a function share, as its annotations name them: `Float[Array, "b t c"]`.

The annotations are jaxtyping's, but read as text: what they say holds for callers without jaxtyping too.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

_ARRAY = re.compile(r"""(?:\w+ \| )?(Sequence\[)?(Float|Int|Bool)\[([^,]*), *['"]([^'"]*)['"]\]""")


class Wanted(NamedTuple):
    """What an argument shall be."""

    kind: str  # Float, Int or Bool
    sizes: tuple[str, ...]  # as jaxtyping has them; without one it is a single number
    several: bool  # a sequence of such arrays
    numpy: bool  # an array of NumPy will do

    def leads(self, other: Wanted) -> bool:
        """Whether these are the first sizes of the other."""
        own, others = ([size.replace("#", "") for size in sizes] for sizes in (self.sizes, other.sizes))
        return own == others[: len(own)]


def wanted(signature: inspect.Signature) -> dict[str, Wanted]:
    """The arguments that are arrays, by name."""
    found = {}
    for name, parameter in signature.parameters.items():
        if match := _ARRAY.match(str(parameter.annotation)):
            several, kind, holder, sizes = match.groups()
            of_numpy = "np.ndarray" in holder or "ArrayLike" in holder
            found[name] = Wanted(kind, tuple(sizes.split()), several is not None, of_numpy)
    return found


def check_shape(shape: tuple[Any, ...], name: str, sizes: tuple[str, ...], known: dict[str, Any]) -> None:
    """Refuse a shape that the sizes don't allow; those of names that are not known yet are noted."""
    if "..." in sizes:
        return
    axis = next((i for i, size in enumerate(sizes) if size[0] == "*"), None)
    parts: list[Any] = list(shape)
    if axis is not None and len(shape) >= len(sizes) - 1:
        behind = len(shape) - (len(sizes) - 1 - axis)
        parts[axis:behind] = [shape[axis:behind]]
    if len(parts) != len(sizes) or not all(_agrees(*pair, known) for pair in zip(sizes, parts, strict=True)):
        raise ValueError(f"{name} must be {_words(sizes, known)}, got {shape}")
    spread = {size for size, part in zip(sizes, parts, strict=True) if "#" in size and (size[0] == "*" or part == 1)}
    known.update({_name(size): part for size, part in zip(sizes, parts, strict=True) if size not in spread})


def _agrees(size: str, part: Any, known: dict[str, Any]) -> bool:
    if size.isdigit():
        return bool(part == int(size))
    found = known.get(_name(size), part)
    if "#" not in size or part == found:
        return bool(part == found)
    if not isinstance(part, tuple):
        return bool(part == 1)
    return len(part) <= len(found) and all(a in (1, b) for a, b in zip(part[::-1], found[::-1], strict=False))


def _words(sizes: tuple[str, ...], known: dict[str, Any]) -> str:
    """Sizes with their names and, where they are known, numbers: (2, T=6, C)."""
    words: list[str] = []
    for size in sizes:
        name = _name(size)
        if "*" in size:
            words += map(str, known[name]) if name in known else ["..."]
        else:
            words.append(f"{name.upper()}={known[name]}" if name in known else name.upper())
    if not sizes:
        return "a single number"
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _name(size: str) -> str:
    return size.lstrip("*#")
