"""Pickles, interpreted opcode by opcode without executing anything.

A pickle can make numbers, strings, lists, tuples and dictionaries here, and what the reader of a file gives it for the
few classes and functions that such a file needs. Every other class or function that it names, and every other opcode,
is refused.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np

from casejax.errors import DataError

NEWEST_PROTOCOL = 5

OPCODES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
WIDTHS = {"BININT1": 1, "BININT2": 2, "BINGET": 1, "LONG_BINGET": 4, "BINPUT": 1, "LONG_BINPUT": 4} | {
    "SHORT_BINUNICODE": 1,
    "BINUNICODE": 4,
    "BINUNICODE8": 8,
}
"""Bytes of the count, index or length that follows an opcode."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

GREATEST_KEY = 2**60
"""Numbers from here on can share their hash with one another, which makes a dictionary of them slow without end."""


class Machine:
    """Interpreter of pickles that follow each other in `data`.

    Args:
      data: the pickles.
      named: gives what stands for a class or function, by module and name, or refuses it. Functions are what a pickle
        may call, with a tuple of arguments; all else can only be an argument.
      refused: makes the error for what is not read; its message ends in a remedy.
      opcodes: further opcodes, by name, with the functions that interpret them.
    """

    def __init__(
        self,
        data: memoryview,
        named: Callable[[str, str], Any],
        refused: Callable[[str], DataError],
        opcodes: Mapping[str, Callable[[Any], None]],
    ) -> None:
        self.data, self.position = data, 0
        self.named, self.refused, self.opcodes = named, refused, opcodes

    def run(self) -> Any:
        """The value of the next pickle."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks beneath open marks
        self.memo: dict[int, Any] = {}
        while self.step():
            pass
        if len(self.stack) != 1 or self.below:
            raise self.error("ends with other than one value")
        self.check_values(self.stack[0])
        return self.stack[0]

    def step(self) -> bool:
        """Interpret one opcode; false if it was the last."""
        op = OPCODES.get(self.take(1)[0], "unknown")
        if op in self.opcodes:
            self.opcodes[op](self)
            return True
        match op:
            case "STOP":
                return False
            case "PROTO":
                if (protocol := self.uint(1)) > NEWEST_PROTOCOL:
                    raise self.error(f"is of unknown protocol {protocol}")
            case "FRAME":
                self.uint(8)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append(CONSTANTS[op])
            case "BININT1" | "BININT2":
                self.stack.append(self.uint(WIDTHS[op]))
            case "BININT":
                self.stack.append(int.from_bytes(self.take(4), "little", signed=True))
            case "LONG1":
                self.stack.append(int.from_bytes(self.take(self.uint(1)), "little", signed=True))
            case "BINFLOAT":
                self.stack.append(struct.unpack(">d", self.take(8))[0])
            case "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                self.stack.append(self.text(self.take(self.uint(WIDTHS[op]))))
            case "EMPTY_DICT":
                self.stack.append({})
            case "EMPTY_LIST":
                self.stack.append([])
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop(TUPLES[op])))
            case "TUPLE":
                items = self.pop_mark()
                self.stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = self.pop(1) if op == "APPEND" else self.pop_mark()
                self.top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.pop(2) if op == "SETITEM" else self.pop_mark()
                self.set_items(self.top(dict), items)
            case "BINPUT" | "LONG_BINPUT":
                self.remember(self.uint(WIDTHS[op]))
            case "MEMOIZE":
                self.remember(len(self.memo))
            case "BINGET" | "LONG_BINGET":
                if (index := self.uint(WIDTHS[op])) not in self.memo:
                    raise self.error("refers to a value that it does not have")
                self.stack.append(self.memo[index])
            case "GLOBAL":
                self.stack.append(self.named(self.line(), self.line()))
            case "STACK_GLOBAL":
                module, name = self.pop(2)
                if type(module) is not str or type(name) is not str:
                    raise self.error("names a class by something else than strings")
                self.stack.append(self.named(module, name))
            case "REDUCE":
                builder, args = self.pop(2)
                if not isinstance(builder, FunctionType) or type(args) is not tuple:
                    raise self.error("calls what cannot be called")
                self.stack.append(builder(args))
            case "INST":
                target = f"{self.line()}.{self.line()}"
                raise self.refused(f"refused: its pickle makes (INST) {target[:80]!r}, which no such file needs")
            case _:
                raise self.refused(
                    f"refused: opcode {op} in its pickle (byte {self.position}), which no such file needs"
                )
        return True

    def remember(self, index: int) -> None:
        """Give the topmost item a number by which it can be had again."""
        value = self.memo[index] = self.top(object)
        if isinstance(value, Unfinished):
            value.index = index

    def set_items(self, target: dict[Any, Any], items: list[Any]) -> None:
        """Put alternating keys and values into a dictionary."""
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, (str, int, float, type(None))) for key in keys):
            raise self.error("has a dictionary with a missing value or an unusual key")
        if any(isinstance(key, (int, float)) and abs(key) >= GREATEST_KEY for key in keys):
            raise self.error("has a dictionary with a number beyond all counts for a key")
        target.update(zip(keys, values, strict=True))

    def take(self, count: int) -> memoryview:
        """The next bytes."""
        if count > len(self.data) - self.position:
            raise self.error("is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def uint(self, width: int) -> int:
        """The next unsigned integer, little-endian."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """The next line of text."""
        start = self.position
        while self.take(1) != b"\n":
            pass
        return self.text(self.data[start : self.position - 1])

    def text(self, encoded: memoryview) -> str:
        """A string from its UTF-8 bytes."""
        try:
            return str(encoded, "utf-8")
        except UnicodeDecodeError:
            raise self.error("holds a string that is not UTF-8") from None

    def pop(self, count: int) -> list[Any]:
        """The topmost items, taken off the stack."""
        split = len(self.stack) - count
        if split < 0:
            raise self.error("takes from an empty stack")
        items = self.stack[split:]
        del self.stack[split:]
        return items

    def pop_mark(self) -> list[Any]:
        """All items above the last mark, taken off."""
        if not self.below:
            raise self.error("lacks a mark")
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        """The topmost item, which must be of a type."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise self.error(f"expects a {kind.__name__} where there is none")
        return self.stack[-1]

    def error(self, what: str) -> DataError:
        """The error for a damaged pickle, with the place in it."""
        return damaged(f"its pickle {what} (byte {self.position})")

    def check_values(self, value: Any) -> None:
        """Refuse everything but plain values and arrays of them, whatever they are in."""
        waiting, seen = [value], set[int]()
        while waiting:
            value = waiting.pop()
            objects = isinstance(value, np.ndarray) and value.dtype.hasobject
            if objects or isinstance(value, (list, tuple, dict)):
                if id(value) not in seen:
                    seen.add(id(value))
                    waiting.extend(value.flat if objects else value.values() if isinstance(value, dict) else value)
            elif not (value is None or isinstance(value, (str, int, float, np.ndarray))):
                raise self.refused("it holds a class, a function, or contents without an array")


class Unfinished:
    """What is on the stack before it has its contents; `index` is its newest number in the memo."""

    index: int | None = None


def damaged(what: str) -> DataError:
    """The error for a file that cannot be what its program wrote."""
    return DataError(f"{what}; the file is damaged or incomplete, fetch it again")
