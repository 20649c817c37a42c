"""The order in which class folders count, and whether their names leave doubt about it."""

from __future__ import annotations

import re
from collections.abc import Collection

# Text around one number; more digits than a file system's names ever need are text.
_NUMBERED = re.compile(r"(\D*)([0-9]{1,18})(\D*)")


def class_order(folders: Collection[str]) -> tuple[tuple[str, ...], str | None]:
    """Sorts the names of class folders as the classes of a network are sorted.

    Folders named by exactly the whole numbers from 0 take these indices; all others are sorted as
    text, as every framework does.

    Args:
        folders: Names, each once.

    Returns:
        The names in order, and what leaves doubt about it, such as numbers from 1 or numbers of
        which text makes another order; None if nothing does.

    Example:
        >>> class_order(["2", "10", *"013456789"])[0]
        ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10')
        >>> class_order(["b10", "b2"])[0]
        ('b10', 'b2')
    """
    as_text = tuple(sorted(folders))
    found = [_NUMBERED.fullmatch(folder) for folder in as_text]
    numbers = [int(each[2]) for each in found if each]
    around = {(each[1], each[3]) for each in found if each}
    if len(numbers) < len(as_text) or len(around) != 1:
        return as_text, None
    by_number = tuple(folder for _, folder in sorted(zip(numbers, as_text, strict=True)))
    if around == {("", "")}:
        alike = len({len(folder) for folder in as_text}) == 1
        plain = all(folder == str(int(folder)) for folder in as_text)
        if sorted(numbers) == list(range(len(numbers))) and (alike or plain):
            return by_number, None
        return as_text, (
            f"are numbers, from {by_number[0]} to {by_number[-1]}, but not exactly 0 to "
            f"{len(numbers) - 1}, padded alike or not at all"
        )
    if by_number == as_text and len(set(numbers)) == len(numbers):
        return as_text, None
    return as_text, "are numbered in several widths: sorted as text and by number they differ"
