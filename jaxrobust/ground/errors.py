"""The error for a request that cannot be carried out as asked."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from jaxrobust.ground.text import printable


class SpecificationError(ValueError):
    """Bad input, in one printable line: what was asked, what was found, what is possible."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ProcessLostError(RuntimeError):
    """Another process of the sweep has ended or cannot be reached; all have to be started again."""


def unknown(kind: str, asked: str, known: Iterable[str]) -> str:
    """The one-line message for a name that is not known, with the closest names first."""
    known = list(known)
    close = difflib.get_close_matches(asked, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    listed = ", ".join(known[:30]) + (f", … ({len(known)} in all)" if len(known) > 30 else "")
    return f"unknown {kind} {asked!r}: {hint}possible: {listed}"


def first_line(error: Exception) -> str:
    """What another library's error says, as a part of one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_can_be_made(folder: Path) -> None:
    """Makes sure that a folder can be made, before the work whose result goes there.

    Raises:
        SpecificationError: If what it would lie in is a file, or may not be written to.
    """
    above = next(parent for parent in folder.absolute().parents if os.path.exists(parent))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        found = "may not be written to" if above.is_dir() else "is a file"
        raise SpecificationError(f"{folder} cannot be made: {above} {found}")
