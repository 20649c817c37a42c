"""The folder in which decoded images wait for the next sweep."""

from __future__ import annotations

import math
import os
import shutil
import time
import uuid
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.paths import open_file

if TYPE_CHECKING:
    from jaxtyping import UInt8

Outcome = Literal["kept", "full", "unwritable"]

_GIGABYTES = 20.0
# Files that a process may still be working with are left alone: to drop them would only make that
# process decode them again.
_IN_USE = 600  # seconds
_CHECKSUM = 4  # bytes behind the array


def cache_folder() -> Path:
    """The folder of everything that jaxrobust keeps but can make again.

    The variable JAXROBUST_CACHE names it; otherwise it is `$XDG_CACHE_HOME/jaxrobust`, or
    `~/.cache/jaxrobust`.

    Raises:
        SpecificationError: If nobody can say where the home folder is.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if named := os.environ.get("JAXROBUST_CACHE"):
            return Path(named).expanduser().absolute()
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "jaxrobust"
    except RuntimeError as error:
        raise SpecificationError(
            "there is no home folder for the cache; possible: JAXROBUST_CACHE=FOLDER"
        ) from error


def optional_cache_folder() -> Path | None:
    """The same for what can do without: None, with a warning, where there is no home folder."""
    try:
        return cache_folder()
    except SpecificationError as error:
        warnings.warn(f"nothing is kept for the next time: {error}", stacklevel=2)
        return None


class BlockCache:
    """Arrays of pixels in files, found by a key, dropped when there are too many.

    Each file holds the bytes of one array and a checksum. It is written under a name of its own
    and then renamed, so that two processes never see each other's half-written files; a file that
    another process has dropped, or that is damaged, is simply not there.

    Args:
        folder: Where the files lie; it need not exist yet.
        limit: Bytes that the files may take together. The files used longest ago are dropped
            for a new one, but none that was used in the last ten minutes.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.limit = folder, limit
        self._checked: set[str] = set()

    @classmethod
    def default(cls) -> BlockCache | None:
        """The cache that the environment asks for; None if it switches it off or cannot have one.

        The variable JAXROBUST_CACHE_GB sets the limit, 0 switches the cache off. By default it
        is 20 GB, or half of what is free on the disk, if that is less.

        Raises:
            SpecificationError: If JAXROBUST_CACHE_GB is no number from 0.
        """
        text = os.environ.get("JAXROBUST_CACHE_GB")
        try:
            gigabytes = _GIGABYTES if text is None else float(text)
        except ValueError:
            gigabytes = -1.0
        if not gigabytes >= 0:
            raise SpecificationError(
                f"JAXROBUST_CACHE_GB={text!r} must be a number of gigabytes from 0 (no cache)"
            )
        above = optional_cache_folder() if gigabytes else None
        if above is None:
            return None
        folder, limit = above / "images", gigabytes * 1e9
        if text is None:
            limit = min(
                limit, (_free(folder) + sum(file.st_size for file in _files(folder).values())) / 2
            )
        return cls(folder, limit)

    def has(self, key: str, shape: tuple[int, ...]) -> bool:
        """Whether there is a file of a key, of the right length for an array of a shape."""
        return self._open(key, shape) is not None

    def get(self, key: str, shape: tuple[int, ...]) -> UInt8[np.ndarray, ...] | None:
        """The array of a key, mapped into memory; None if there is none or it is damaged.

        The checksum is compared when this object meets the file for the first time.
        """
        mapped = self._open(key, shape)
        if mapped is None:
            return None
        array = mapped[:-_CHECKSUM].reshape(shape)
        if key not in self._checked:
            if mapped[-_CHECKSUM:].tobytes() != _checksum(array):
                return None
            self._checked.add(key)
        return array

    def add(self, key: str, array: UInt8[np.ndarray, ...]) -> Outcome:
        """Keeps an array for later, if there is room or can be made.

        Args:
            key: Letters and digits.
            array: Any shape; not empty.

        Returns:
            "kept"; "full" if the files in use leave no room; "unwritable".
        """
        if not self._make_room(array.nbytes + _CHECKSUM):
            return "full"
        unfinished = self.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(np.ascontiguousarray(array).data)
                file.write(_checksum(array))
            unfinished.replace(self._path(key))
        except OSError:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return "unwritable"
        self._checked.add(key)
        return "kept"

    def _open(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Maps a whole file of the right length, and notes that it was used."""
        path = self._path(key)
        try:
            with open_file(path) as file:
                mapped = np.memmap(file, np.uint8, "r")
        except (OSError, ValueError):  # absent, no file, or empty
            return None
        if len(mapped) != math.prod(shape) + _CHECKSUM:
            return None
        with suppress(OSError):  # the folder may be read-only
            os.utime(path)
        return mapped

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.pixels"

    def _make_room(self, size: int) -> bool:
        """Drops the files used longest ago until there is room; whether there is."""
        files = _files(self.folder)
        total = size + sum(file.st_size for file in files.values())
        for path, file in sorted(files.items(), key=lambda item: item[1].st_mtime):
            if total <= self.limit or time.time() - file.st_mtime < _IN_USE:
                break
            with suppress(OSError):
                path.unlink(missing_ok=True)
            total -= file.st_size
        return total <= self.limit


def _files(folder: Path) -> dict[Path, os.stat_result]:
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another process drops files too
                found[Path(entry.path)] = entry.stat()
    return found


def _free(folder: Path) -> float:
    """Free bytes on the disk that holds, or will hold, a folder; without end if nobody knows."""
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return math.inf


def _checksum(array: np.ndarray) -> bytes:
    return zlib.crc32(np.ascontiguousarray(array).data).to_bytes(_CHECKSUM, "little")
