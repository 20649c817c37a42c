"""Saying in an error what it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxrobust.ground.errors import SpecificationError


@contextmanager
def about(*subjects: str) -> Iterator[None]:
    """Puts the subjects in front of the message of a `SpecificationError` from the block."""
    try:
        yield
    except SpecificationError as error:
        raise SpecificationError(": ".join((*subjects, str(error)))) from error
