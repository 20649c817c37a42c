"""Paths on this machine and in object stores."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast


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


def open_file(path: Path, mode: str = "rb") -> BinaryIO:
    """Opens a file in binary; what is no file is refused: a named pipe would be waited for.

    Args:
        path: On this machine or in an object store.
        mode: "rb", or "ab" to append, where the file is made if there is none.

    Raises:
        OSError: If it cannot be opened, or is no file.
    """
    if is_remote(path):
        return cast(BinaryIO, path.open(mode))
    flags = os.O_RDONLY if mode == "rb" else os.O_RDWR | os.O_CREAT | os.O_APPEND
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a file", str(path))
    return cast(BinaryIO, open(descriptor, mode))


def read_file(path: Path) -> bytes:
    """The bytes of a file, as `open_file` opens it."""
    with open_file(path) as file:
        return file.read()
