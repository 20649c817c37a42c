"""Reads weights from NumPy's `.npz` archives, trusting nothing that the file says."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from jaxrobust.porting.checks import refusing, shown
from jaxrobust.porting.weights import Header, Weights

# NumPy writes headers of a few hundred bytes; a hostile one may claim to be gigabytes long.
_LONGEST_HEADER = 65536
# Deflate cannot shrink anything further than this, so a larger claim is a lie.
_DEFLATE_LIMIT = 1032


def open_npz(path: Path) -> Weights:
    """Opens an `.npz` archive of plain numeric arrays.

    The headers are read and checked now, an array's data when it is asked for. Pickled objects
    are refused, and no memory is set aside for data that the archive is too short to hold.

    Args:
        path: The file.

    Returns:
        Its arrays by name.

    Raises:
        SpecificationError: If the file is damaged or holds anything but numeric arrays.
    """
    with refusing(path, ".npz"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(members, path.stat().st_size)
        headers = {}
        for member in members:
            with archive.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                headers[name] = _header(stream, member)

    def read(name: str) -> np.ndarray:
        with refusing(path, ".npz"), zipfile.ZipFile(path) as archive:
            with archive.open(name + ".npy") as stream:
                array = npy.read_array(stream, allow_pickle=False)
                stream.read(1)  # the checksum is verified at the end of the member
                return array

    return Weights(str(path), headers, read)


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = set()
    for member in members:
        name = member.filename
        if not name.endswith(".npy"):
            raise ValueError(f"its member {shown(name)} is not an array")
        if name in names:
            raise ValueError(f"it holds {shown(name)} twice")
        if member.file_size > _DEFLATE_LIMIT * size:
            raise ValueError(
                f"{shown(name)} claims {member.file_size:,} bytes, the file has {size:,}"
            )
        names.add(name)


def _header(stream: IO[bytes], member: zipfile.ZipInfo) -> Header:
    start = io.BytesIO(stream.read(_LONGEST_HEADER))
    version = npy.read_magic(start)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(start)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(start)
    else:
        raise ValueError(f"{shown(member.filename)} is in version {version} of the array format")
    if dtype.kind not in "biufc":
        raise ValueError(f"{shown(member.filename)} holds {dtype!s:.80}, not plain numbers")
    held = member.file_size - start.tell()
    header = Header(shape, dtype)
    if min(shape, default=0) < 0 or header.nbytes != held:
        raise ValueError(
            f"{shown(member.filename)} holds {held:,} bytes, "
            f"which are not a {dtype} array of shape {shape!s:.80}"
        )
    return header
