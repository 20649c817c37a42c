"""`read_weights`: picks the reader of a weight file by the ending of its name."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting.readers.caffemodel import open_caffemodel
from jaxrobust.porting.readers.hdf5 import open_hdf5
from jaxrobust.porting.readers.npz import open_npz
from jaxrobust.porting.readers.pth import open_pth
from jaxrobust.porting.readers.safetensors import open_safetensors
from jaxrobust.porting.weights import Weights

READERS: dict[str, Callable[[Path], Weights]] = {
    ".npz": open_npz,
    ".pth": open_pth,
    ".pt": open_pth,
    ".th": open_pth,
    ".caffemodel": open_caffemodel,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".safetensors": open_safetensors,
}


def read_weights(path: str | PathLike[str]) -> Weights:
    """Opens a weight file.

    Args:
        path: The file; the ending of its name tells the format.

    Returns:
        The arrays by the names that they have in the file, each read when it is asked for.

    Raises:
        SpecificationError: If there is no such file, its format is unknown, or it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "not there"
        raise SpecificationError(f"the weight file {path} is {found}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise SpecificationError(
            f"the weight file {path} has no known ending; possible: {', '.join(READERS)}"
        )
    return reader(path)
