"""What the members of an `.npz` archive claim to be, held against what they can be."""

from __future__ import annotations

import io
import zipfile
from typing import IO

import numpy as np
from numpy.lib import format as npy

# NumPy writes headers of a few hundred bytes; a hostile one may claim to be gigabytes long.
_LONGEST_HEADER = 65536
# Deflate cannot shrink anything further than this, so a larger claim is a lie.
_DEFLATE_LIMIT = 1032


def member_header(
    stream: IO[bytes], member: zipfile.ZipInfo, size: int
) -> tuple[tuple[int, ...], np.dtype]:
    """Reads the header of an array, without setting memory aside for the array itself.

    Args:
        stream: The opened member.
        member: What the archive says about it.
        size: Bytes of the whole archive.

    Returns:
        Its shape and type.

    Raises:
        ValueError: If it is no array of plain numbers, or claims more than is there.
    """
    name = f"{member.filename!a:.80}"
    if member.file_size > _DEFLATE_LIMIT * size:
        raise ValueError(f"{name} claims {member.file_size:,} bytes, the file has {size:,}")
    start = io.BytesIO(stream.read(_LONGEST_HEADER))
    version = npy.read_magic(start)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(start)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(start)
    else:
        raise ValueError(f"{name} is in version {version} of the array format")
    if dtype.kind not in "biufc":
        raise ValueError(f"{name} holds {dtype!s:.80}, not plain numbers")
    held, claimed = member.file_size - start.tell(), dtype.itemsize
    for length in shape:  # Python's whole numbers do not overflow
        claimed *= length
    if min(shape, default=0) < 0 or claimed != held:
        raise ValueError(
            f"{name} holds {held:,} bytes, which are not a {dtype} array of shape {shape!s:.80}"
        )
    return shape, dtype
