"""Checks of the path in a source string."""

from __future__ import annotations

from pathlib import Path

from jaxrobust.errors import SpecificationError
from jaxrobust.paths import is_remote, path_of


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
    expanded = path_of(path).expanduser()
    if not expanded.exists():
        shown = expanded if is_remote(expanded) else expanded.absolute()
        raise SpecificationError(f"there is no such path ({shown})")
    return expanded
