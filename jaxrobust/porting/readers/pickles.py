"""Reads pickles without running anything that they name.

A pickle is a program for a small stack machine, and Python's own machine lets it import and call
whatever it likes. Here the standard library's `pickletools` takes the pickle apart, and a machine
of our own carries out only the operations that data need: what the pickle names is never imported,
the caller says what stands for it, and objects that nobody wants are skipped.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from jaxrobust.porting.readers.checks import shown

# A state dictionary takes about 30 operations for each tensor, an optimizer's as many again.
_MOST_OPERATIONS = 1_000_000

_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Stream(Protocol):
    """What a pickle is read from; a read sets aside no more memory than the stream has left."""

    def read(self, size: int, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


@dataclass(frozen=True)
class Skipped:
    """Stands for what isn't read: a class or function, and every object that it would make.

    Args:
        name: What the pickle calls it.
    """

    name: str

    def __call__(self, *_: object) -> Skipped:
        return self


Names = Callable[[str, str], Any]
"""What stands for a name in a module; None if a pickle may not mention it."""


def load(stream: Stream, names: Names, persistent: Callable[[Any], Any]) -> Any:
    """Reads one pickle of data.

    Sets come back as `Skipped`, and dictionaries with the items under strings only: nothing is
    hashed that a hostile pickle could make slow to hash.

    Args:
        stream: Where the pickle begins; it is left where the pickle ends.
        names: The functions among what it gives are all that the pickle can call.
        persistent: Gives the object that stands for an identifier kept outside the pickle.

    Returns:
        The object.

    Raises:
        ValueError: If the pickle is damaged, too long, or names or does anything else.
    """
    machine = _Machine(names, persistent)
    operations = pickletools.genops(cast("IO[bytes]", stream))
    try:
        for count, (operation, argument, _) in enumerate(operations):
            if count == _MOST_OPERATIONS:
                raise ValueError(f"its pickle has more than {count:,} operations")
            machine.run(operation.name, argument)
        return machine.stack.pop()
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError("its pickle is damaged: its operations don't fit together") from error


class _Machine:
    """The stack, what lies below each mark on it, and the objects that the pickle has numbered."""

    def __init__(self, names: Names, persistent: Callable[[Any], Any]) -> None:
        self.names = names
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.numbered: dict[int, Any] = {}
        self.handed_over = 0

    def run(self, operation: str, argument: Any) -> None:
        """Carries out one operation."""
        if operation in _LITERALS:
            self.stack.append(argument)
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation])
        elif operation in _TUPLES:
            self.stack.append(tuple(self.pop(_TUPLES[operation])))
        else:
            self.run_other(operation, argument)

    def run_other(self, operation: str, argument: Any) -> None:
        """Carries out one operation that isn't a plain value."""
        match operation:
            case "BINGET" | "LONG_BINGET" | "GET":
                self.stack.append(self.numbered[argument])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.numbered[argument] = self.stack[-1]
            case "MEMOIZE":
                self.numbered[len(self.numbered)] = self.stack[-1]
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = tuple(self.pop_to_mark())
                self.stack.append(items)
            case "REDUCE" | "NEWOBJ":
                self.stack.append(self.call(*self.pop(2)))
            case "NEWOBJ_EX":
                function, arguments, _ = self.pop(3)
                self.stack.append(self.call(function, arguments))
            case "BINPERSID":
                self.stack.append(self.persistent(self.stack.pop()))
            case "GLOBAL":
                self.stack.append(self.named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                self.stack.append(self.named(*self.pop(2)))
            case "EMPTY_DICT":
                self.stack.append({})
            case "SETITEM":
                self.set_items(self.pop(2))
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "EMPTY_LIST":
                self.stack.append([])
            case "APPEND":
                self.extend(self.pop(1))
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "EMPTY_SET":
                self.stack.append(Skipped("set"))
            case "FROZENSET":
                self.pop_to_mark()
                self.stack.append(Skipped("frozenset"))
            case "ADDITEMS" | "POP_MARK":
                self.pop_to_mark()
            case "POP":
                self.pop(1)
            case "BUILD":
                self.pop(1)  # attributes, such as a state dictionary's _metadata
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise ValueError(f"its pickle does what weights don't need: {operation}")

    def call(self, function: Any, arguments: Any) -> Any:
        """Calls what the pickle names, with as much in all calls together as it has operations.

        A pickle of a few bytes more could otherwise have a large list copied once more.
        """
        if not isinstance(arguments, tuple):
            raise TypeError("arguments come as a tuple")
        sized = (len(each) for each in arguments if isinstance(each, list | tuple | dict))
        self.handed_over += len(arguments) + sum(sized)
        if self.handed_over > _MOST_OPERATIONS:
            raise ValueError(f"its pickle calls with more than {_MOST_OPERATIONS:,} items")
        return function(*arguments)

    def pop(self, count: int) -> list[Any]:
        start = len(self.stack) - count
        if start < 0:
            raise IndexError("the stack is too short")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Skipped):
            return
        if not isinstance(target, list):
            raise TypeError("only a list can be extended")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Skipped):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("only a dictionary has items, and each has a key and a value")
        target.update(
            (key, value)
            for key, value in zip(items[::2], items[1::2], strict=True)
            if isinstance(key, str)
        )

    def named(self, module: Any, name: Any) -> Any:
        qualified = f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else ""
        found = self.names(module, name) if qualified else None
        if found is None:
            raise ValueError(f"it asks for {shown(qualified)}, which weights don't need")
        return found
