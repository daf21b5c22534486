"""Good files made bad: bytes that are changed, and values of JSON that are exchanged."""

import copy
import json
import random

ODD = (None, True, [], {}, "", "x", -1, 0, 2**70, 1e308, float("nan"), [[]], {"x": {}}, "9" * 400, "\ud800", [1, 2, 3])
"""Values that stand where others are expected."""
BYTES = (b"", b"\0", b"\xff", b"\x80\x81", b"\n", b",", b'"', b"{", b"[", b"9" * 40)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few random changes of bytes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del found[at : at + rng.choice((1, 1, 4, 16, len(found)))]
        elif kind == 3:
            found[at:at] = rng.choice(BYTES)
        elif kind == 4:
            other = rng.randrange(len(found) + 1)
            found[at:at] = found[other : other + rng.choice((1, 4, 32))]
        else:
            width = rng.choice((1, 2, 4, 8))
            found[at : at + width] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * width
    return bytes(found)


def exchange(data: bytes, rng: random.Random) -> bytes:
    """JSON with one or two of its values exchanged, moved or removed."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(value))
        if not places:
            return json.dumps(rng.choice(ODD)).encode()
        holder, key = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, from_key = rng.choice(places)
            holder[key] = copy.deepcopy(other[from_key]) if from_key in _keys(other) else None
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD))
    if rng.random() < 0.1:
        value = rng.choice(ODD)
    return json.dumps(value).encode()


def _keys(holder):
    return list(holder) if isinstance(holder, dict) else range(len(holder))


def _places(value):
    if isinstance(value, dict | list):
        for key in _keys(value):
            yield value, key
            yield from _places(value[key])
