"""Checks of the path in a source string."""

from __future__ import annotations

from pathlib import Path

from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.ground.paths import is_remote, path_of


def existing_file(path: str) -> Path:
    """The path of a file that exists (`~` is the home folder); else a `SpecificationError`."""
    file = existing(path)
    if not file.is_file():
        raise SpecificationError("is not a file; for a folder of class folders, use folder:PATH")
    return file


def existing_folder(path: str) -> Path:
    """The path of a folder that exists (`~` is the home folder); else a `SpecificationError`."""
    folder = existing(path)
    if not folder.is_dir():
        raise SpecificationError("is not a folder; for an archive, use tar:PATH or npz:PATH")
    return folder


def existing(path: str) -> Path:
    """A path that exists (`~` is the home folder); else a `SpecificationError`."""
    try:
        expanded = path_of(path).expanduser()
        there = expanded.exists()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no such home folder
        reason = getattr(error, "strerror", None) or first_line(error)
        raise SpecificationError(f"cannot be looked at ({reason})") from error
    if not there:
        shown = expanded if is_remote(expanded) else expanded.absolute()
        raise SpecificationError(f"there is no such path ({shown})")
    return expanded
