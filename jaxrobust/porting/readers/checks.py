"""What all readers share: one line for whatever fails, and claims held against the file's size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting.weights import Header


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """Turns every error inside it into one line about the file.

    A damaged or hostile file can raise almost anything from the libraries that read it, with text
    that the file itself has chosen.

    Args:
        path: The file.
        kind: What it should have been: `.npz`.

    Raises:
        SpecificationError: If anything inside is raised.
    """
    try:
        yield
    except Exception as error:
        reason = f"{error}".strip().partition("\n")[0] or type(error).__name__
        if not reason.isprintable():
            reason = ascii(reason)[1:-1]
        raise SpecificationError(f"{path} is not a readable {kind} file: {reason:.200}") from error


def check_total(headers: Iterable[Header], most: int) -> None:
    """Refuses arrays that together are larger than what the file can stand for.

    Arrays may overlap in some formats, so that each fits in the file and all of them don't.

    Args:
        headers: All arrays of the file.
        most: The bytes that they may take.

    Raises:
        ValueError: If they take more.
    """
    total = sum(header.nbytes for header in headers)
    if total > most:
        raise ValueError(f"its arrays claim {total:,} bytes, of which it can hold {most:,}")


def shown(name: str) -> str:
    """A name from the file as a short, printable part of an error message."""
    return f"{name!a:.80}"
