"""Paths on this machine and in object stores."""

from __future__ import annotations

from pathlib import Path
from typing import cast


def path_of(text: str | Path) -> Path:
    """A local path; of `gs://…` and its like one of etils, which has the same methods.

    Needs the package for that store beside it, such as `gcsfs` for `gs://`.
    """
    if not is_remote(text):
        return Path(text)
    from etils import epath

    return cast(Path, epath.Path(text))


def is_remote(path: str | Path) -> bool:
    """Whether a path is in an object store."""
    return "://" in str(path)
