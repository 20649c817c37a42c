"""The order in which class names count, and whether they leave doubt about it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

# More digits than a file system's names ever need are text.
_NUMBER = re.compile(r"[0-9]{1,18}")
_PARTS = re.compile(r"[0-9]+|[^0-9]")


def class_order(folders: Collection[str]) -> tuple[str, ...]:
    """Sorts the names of class folders as the classes of a network are sorted.

    Folders named by exactly the whole numbers from 0 take these indices; all others are sorted as
    text, as every framework does.

    Args:
        folders: Names, each once.

    Returns:
        The names in order.

    Example:
        >>> class_order(["2", "10", *"013456789"])
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10')
        >>> class_order(["b10", "b2"])
        ('b10', 'b2')
    """
    return tuple(sorted(folders, key=int if _are_indices(folders) else None))


def indices_in_order(names: Sequence[str]) -> list[int]:
    """The class index of each name, where the order counts: its place, or the number that it is.

    Args:
        names: Names of the classes in the order of the labels: sorted class folders, or those
            that a data set tells, which is sorted as text where it was made from class folders.

    Returns:
        The numbers where the names are exactly the whole numbers from 0, otherwise 0, 1, 2, ...

    Example:
        >>> indices_in_order(["0", "1", "10", *"23456789"])
        [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]
        >>> indices_in_order(["cat", "ant"])
        [0, 1]
    """
    return [int(name) for name in names] if _are_indices(names) else list(range(len(names)))


def doubt(names: Sequence[str]) -> str | None:
    """What leaves doubt about the order of class names, as the end of a sentence about them.

    Names that are sorted as text leave doubt if they are numbers, but not the whole numbers from
    0, or if another order is made when the numbers in them are compared as numbers. Any other
    order is one that somebody chose.

    Args:
        names: As for `indices_in_order`.

    Returns:
        The doubt, or None if there is none.

    Example:
        >>> doubt(["10_fox", "1_yak", "2_cat"])
        "are numbered, but differ in order as text and by number: class 0 is '10_fox' or '1_yak'"
    """
    as_text = sorted(names)
    if list(names) != as_text or _are_indices(names):
        return None
    if all(_NUMBER.fullmatch(name) for name in names):
        by_number = sorted(names, key=int)
        return (
            f"are numbers, from {by_number[0]} to {by_number[-1]}, but not exactly 0 to "
            f"{len(names) - 1}, padded alike or not at all"
        )
    by_number = sorted(reversed(as_text), key=_by_number)  # so that equal numbers differ, too
    for index, (one, other) in enumerate(zip(as_text, by_number, strict=True)):
        if one != other:
            return (
                "are numbered, but differ in order as text and by number: "
                f"class {index} is {one!r:.60} or {other!r:.60}"
            )
    return None


def _are_indices(names: Collection[str]) -> bool:
    """Whether names are exactly the whole numbers from 0, padded alike or not at all."""
    if not all(_NUMBER.fullmatch(name) for name in names):
        return False
    alike = len({len(name) for name in names}) == 1
    plain = all(name == str(int(name)) for name in names)
    return sorted(map(int, names)) == list(range(len(names))) and (alike or plain)


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """Sorts as text does, but whole numbers by their value, however long they are."""
    return [
        (ord("0"), len(digits := part.lstrip("0")), digits)
        if "0" <= part[0] <= "9"
        else (ord(part), 0, "")
        for part in _PARTS.findall(name)
    ]
