"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from jaxrobust.ground.paths import is_remote


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file in one piece; until then the one that was there stays.

    Args:
        path: in a folder of this machine or of an object store.
        content: all of it.

    Raises:
        OSError: it could not be written; nothing of it is left behind.
    """
    if is_remote(path):  # an object appears whole or not at all
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb", buffering=0) as file:
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def digest_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes a new name in a folder last, on file systems that can be told to."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
