"""Paths on this machine and in object stores."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from jaxrobust.ground.errors import SpecificationError

# Orbax finds the files of a checkpoint by a pattern that begins with the folder's name.
_PATTERN = "*?[\\"
_LONGEST, _BELOW = 4096, 200  # bytes of a path, and what a checkpoint's files need of them


def path_of(text: str | Path) -> Path:
    """A local path; of `gs://…` and its like one of etils, which has the same methods.

    Needs the package for that store beside it, such as `gcsfs` for `gs://`.

    Raises:
        SpecificationError: If it is neither text nor a path.
    """
    if not isinstance(text, str | os.PathLike):
        raise SpecificationError(
            f"the name of a file or folder is text or a path, not {text!r:.80}"
        )
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


def check_name(folder: str | Path) -> None:
    """Makes sure that checkpoints can be written to a folder of this name, or of those above it.

    Raises:
        SpecificationError: in words that can be shown on any terminal.
    """
    text = str(folder)
    if not is_remote(folder):
        with suppress(ValueError):  # a null character, or what no file system takes
            text = str(Path(folder).resolve())
    wrong = next((f"the character {each}" for each in _PATTERN if each in text), "")
    try:
        if len(text.encode()) > _LONGEST - _BELOW:
            wrong = f"more than {_LONGEST - _BELOW} bytes"
    except UnicodeEncodeError:
        wrong = "bytes that are not UTF-8"
    if "\0" in text:
        wrong = "a null character"
    if wrong:
        raise SpecificationError(
            f"folder {text!r}: its whole name holds {wrong}, and Orbax, which writes checkpoints, "
            "cannot take that: choose another name"
        )
