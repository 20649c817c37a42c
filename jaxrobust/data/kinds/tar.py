"""The source `tar:PATH`."""

from __future__ import annotations

import os
import posixpath
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from jaxrobust.data.kinds.encoded import EncodedStore, class_folders, is_image
from jaxrobust.data.paths import existing_file
from jaxrobust.data.registry import register
from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.ground.paths import open_file

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"PK\x03\x04": ("zip", "unzip"),
}


@register("tar:PATH")
def open_tar(path: str) -> EncodedStore:
    """An uncompressed tar archive of class folders, read in place."""
    names, read = read_in_place(existing_file(path))
    return EncodedStore(class_folders(names), read)


def read_in_place(file: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """Lists the images of a tar archive without extracting any.

    Args:
        file: An uncompressed archive.

    Returns:
        The images' names, and a function that reads the bytes of one; any thread may call it.

    Raises:
        SpecificationError: If it is no such archive, is compressed, damaged or incomplete, or an
            image in it is a link or sparse.
    """
    extents = _image_extents(file)

    def read(name: str) -> bytes:
        offset, size = extents[name]
        # A file object of its own for each read: no lock, and nothing to close at the end.
        with open_file(file) as archive:
            archive.seek(offset)
            return archive.read(size)

    return list(extents), read


def _image_extents(file: Path) -> dict[str, tuple[int, int]]:
    """Where each image's bytes begin, and how many there are; of two with one name, the last."""
    extents = {}
    try:
        with open_file(file) as opened:
            _check_not_compressed(opened.read(6))
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            archive = tarfile.open(fileobj=opened, mode="r:")
            for member in archive:
                _check_extent(member, archive.offset, size)
                name = posixpath.normpath(member.name)
                if is_image(name) and not member.isdir():
                    _check_plain(member, name)
                    extents[name] = (member.offset_data, member.size)
            _check_end(opened, archive.offset)
    except SpecificationError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise SpecificationError(
            f"cannot be read as an uncompressed, complete tar archive ({first_line(error)})"
        ) from error
    return extents


def _check_not_compressed(start: bytes) -> None:
    for magic, (kind, command) in _COMPRESSED.items():
        if start.startswith(magic):
            raise SpecificationError(
                f"is compressed ({kind}), so nothing in it can be read in place; possible: unpack "
                f"it once ({command}), then tar:PATH of what comes out, or folder:PATH of its files"
            )


def _check_extent(member: tarfile.TarInfo, following: int, size: int) -> None:
    """A member lies in the file, and the next one behind it: else the search might never end."""
    end = member.offset_data + (member.size if member.isreg() else 0)
    if member.size < 0 or not member.offset < following or end > size and not _is_sparse(member):
        raise ValueError(
            f"{member.name!r} claims {member.size:,} bytes from {member.offset_data:,}, the file "
            f"has {size:,}"
        )


def _check_plain(member: tarfile.TarInfo, name: str) -> None:
    if member.islnk() or member.issym():
        raise SpecificationError(
            f"{name!r} is a link; possible: an archive written with "
            "tar --dereference --hard-dereference"
        )
    if _is_sparse(member):
        raise SpecificationError(
            f"{name!r} is stored in pieces (sparse); possible: an archive written without --sparse"
        )
    if not member.isreg():
        raise SpecificationError(f"{name!r} is no file of bytes; possible: an archive without it")


def _is_sparse(member: tarfile.TarInfo) -> bool:
    # What Python does not know as sparse it would read as a file that begins with the map.
    return member.issparse() or any(key.startswith("GNU.sparse.") for key in member.pax_headers)


def _check_end(opened: BinaryIO, offset: int) -> None:
    """The archive ends here: Python takes a damaged header for its end, without a word."""
    opened.seek(offset)
    if opened.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise ValueError(f"what stands at byte {offset:,} is neither a file's header nor the end")
