"""What commands print: names of files and layers may be anybody's."""

from __future__ import annotations

import sys

from jaxrobust.ground.text import printable


def show(what: object) -> None:
    """Prints lines of a result."""
    print("\n".join(map(printable, str(what).split("\n"))))


def say(text: str) -> None:
    """Prints a line beside the result: a note or an error."""
    print(f"jaxrobust: {printable(text)}", file=sys.stderr)
