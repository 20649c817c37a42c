"""The source `tar:PATH`."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Callable
from pathlib import Path

from jaxrobust.data.encoded import EncodedStore, class_folders, is_image
from jaxrobust.data.paths import existing_file
from jaxrobust.data.registry import register
from jaxrobust.errors import SpecificationError


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
        SpecificationError: If it is no such archive, is incomplete, or an image is a link.
    """
    extents = _image_extents(file)

    def read(name: str) -> bytes:
        offset, size = extents[name]
        # A file object of its own for each read: no lock, and nothing to close at the end.
        with file.open("rb") as archive:
            archive.seek(offset)
            return archive.read(size)

    return list(extents), read


def _image_extents(file: Path) -> dict[str, tuple[int, int]]:
    """Where each image's bytes begin, and how many there are; of two with one name, the last."""
    extents = {}
    try:
        with file.open("rb") as opened, tarfile.open(fileobj=opened, mode="r:") as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                if not is_image(name) or member.isdir():
                    continue
                if not member.isreg():
                    raise SpecificationError(
                        f"{name!r} is a link; possible: an archive written with "
                        "tar --dereference --hard-dereference"
                    )
                extents[name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise SpecificationError(
            f"cannot be read as an uncompressed, complete tar archive ({error})"
        ) from error
    return extents
