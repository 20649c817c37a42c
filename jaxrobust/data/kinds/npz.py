"""The source `npz:PATH`."""

from __future__ import annotations

import os
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

from jaxrobust.data.kinds.arrays import ArrayStore
from jaxrobust.data.paths import existing_file
from jaxrobust.data.registry import register
from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.ground.npz import member_header
from jaxrobust.ground.paths import open_file
from jaxrobust.ground.text import binary_size

_NAMES = ("images", "labels")


@register("npz:PATH")
def open_npz(path: str) -> ArrayStore:
    """A NumPy file with the arrays `images` (uint8) and `labels` (class indices)."""
    file = existing_file(path)
    try:
        with open_file(file) as opened:
            if opened.read(6) == npy.MAGIC_PREFIX:
                raise SpecificationError(
                    "is a single array, not an .npz file with images and labels"
                )
            size = opened.seek(0, os.SEEK_END)
            with zipfile.ZipFile(opened) as archive:
                return ArrayStore(*_arrays(archive, size))
    except SpecificationError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise SpecificationError(f"cannot be read as an .npz file ({first_line(error)})") from error


def _arrays(archive: zipfile.ZipFile, size: int) -> list[np.ndarray]:
    """The images and the labels, once all claims about them are checked."""
    held = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    missing = [name for name in _NAMES if name not in held]
    if missing:
        raise SpecificationError(
            f"has no array {' and no array '.join(missing)}; "
            f"it holds {', '.join(held) or 'nothing'}"
        )
    members = [held[name] for name in _NAMES]
    for member in members:
        with archive.open(member) as stream:
            member_header(stream, member, size)
    needed = sum(member.file_size for member in members)
    if needed > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise SpecificationError(
            f"holds {binary_size(needed)} unpacked, more than this machine's memory "
            f"({binary_size(memory)}); possible: fewer images, or folder:PATH"
        )
    return [_read(archive.open(member)) for member in members]


def _read(stream: IO[bytes]) -> np.ndarray:
    with stream:
        array = npy.read_array(stream, allow_pickle=False)
        stream.read(1)  # the checksum is verified at the end of the member
        return array
