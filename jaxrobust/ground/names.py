"""Names that files can hold and terminals can show."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from jaxrobust.ground.errors import SpecificationError

_LONGEST = 200  # bytes; netCDF takes 256, and variables have prefixes
# What h5netcdf puts before names of its own making, and takes away again.
_HIDDEN = "_nc4_"


def check_name(kind: str, name: Any) -> None:
    """Makes sure that results can hold a name: as a label or an attribute.

    Args:
        kind: what it is the name of, for the message.
        name: what should be text, perhaps empty.

    Raises:
        SpecificationError: it is something else, or has control characters or lone surrogates,
            which come from file names that are not UTF-8.
    """
    if not isinstance(name, str):
        raise SpecificationError(f"{kind} {name!r}: a name is text, not {type(name).__name__}")
    bad = next((each for each in name if unicodedata.category(each) in ("Cc", "Cs")), None)
    if bad is not None:
        raise SpecificationError(
            f"{kind} {name!r}: no result can hold a name with {bad!r} in it: use another name"
        )


def check_variable_names(kind: str, names: Iterable[Any]) -> None:
    """Makes sure that netCDF can hold variables of these names.

    It takes letters, digits and _ first, then any printable characters but /, no space at the end;
    equal names are those that Unicode calls canonically equivalent.

    Raises:
        SpecificationError: what is wrong with the first name that it cannot hold.
    """
    seen: dict[str, str] = {}
    for name in names:
        check_name(kind, name)
        first = name[:1]
        if not name:
            wrong = "an empty one is none"
        elif not name.isprintable() or "/" in name:
            odd = next(each for each in name if each == "/" or not each.isprintable())
            wrong = f"{odd!r} cannot be in it"
        elif not (first.isalnum() or first == "_" or not first.isascii()):
            wrong = "it begins with a letter, a digit or _"
        elif name != name.strip():
            wrong = "it cannot end with a space"
        elif name.startswith(_HIDDEN):
            wrong = f"netCDF keeps names with {_HIDDEN} for itself"
        elif len(name.encode()) > _LONGEST:
            wrong = f"it has at most {_LONGEST} bytes"
        elif (same := unicodedata.normalize("NFC", name)) in seen:
            wrong = f"netCDF cannot tell it from {seen[same]!r}"
        else:
            seen[same] = name
            continue
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        raise SpecificationError(
            f"{kind} {shown!r}: results have a variable of that name: {wrong}; choose another name"
        )
