"""The source `folder:PATH`."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxrobust.data.kinds.encoded import EncodedStore, class_folders
from jaxrobust.data.paths import existing_folder
from jaxrobust.data.registry import register
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.paths import is_remote, read_file


@register("folder:PATH")
def open_folder(path: str) -> EncodedStore:
    """A folder with one sub-folder of image files per class."""
    root = existing_folder(path)
    return EncodedStore(class_folders(files_below(root)), lambda name: read_file(root / name))


def files_below(root: Path) -> list[str]:
    """The paths of all files in a folder and its sub-folders, relative to it."""
    if is_remote(root):
        return list(_objects_below(root))
    return [
        (Path(parent).relative_to(root) / name).as_posix()
        for parent, _, names in os.walk(root, onerror=_unreadable, followlinks=True)
        for name in names
    ]


def _objects_below(root: Any) -> Iterator[str]:
    # Whether the protocol is a part of what etils finds depends on the store.
    tail = str(root).partition("://")[2]
    for parent, _, names in root.walk():
        inside = str(parent).partition(tail)[2].strip("/")
        yield from (posixpath.join(inside, name) for name in names)


def _unreadable(error: OSError) -> None:
    # os.walk would leave the folder out without a word.
    raise SpecificationError(f"cannot read {error.filename!r} ({error.strerror})") from error
