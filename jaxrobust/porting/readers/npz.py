"""Reads weights from NumPy's `.npz` archives, trusting nothing that the file says."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from jaxrobust.ground.npz import member_header
from jaxrobust.porting.readers.checks import refusing, shown
from jaxrobust.porting.weights import Header, Weights


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
        _check_members(members)
        headers = {}
        for member in members:
            with archive.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                headers[name] = Header(*member_header(stream, member, path.stat().st_size))

    def read(name: str) -> np.ndarray:
        with refusing(path, ".npz"), zipfile.ZipFile(path) as archive:
            with archive.open(name + ".npy") as stream:
                array = npy.read_array(stream, allow_pickle=False)
                stream.read(1)  # the checksum is verified at the end of the member
                return array

    return Weights(str(path), headers, read)


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    names = set()
    for member in members:
        name = member.filename
        if not name.endswith(".npy"):
            raise ValueError(f"its member {shown(name)} is not an array")
        if name in names:
            raise ValueError(f"it holds {shown(name)} twice")
        names.add(name)
