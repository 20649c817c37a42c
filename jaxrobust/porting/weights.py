"""`Weights`: the arrays of a weight file by their names, each read when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Header:
    """What a weight file says about an array before the array is read.

    Args:
        shape: The array's shape.
        dtype: The array's type.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """How many bytes the array takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Weights(Mapping[str, np.ndarray]):
    """The arrays of a weight file, a read-only mapping from the file's own names.

    The headers are known from the start, so a file that doesn't fit a network is refused before
    any of its arrays takes memory; `dict(weights)` reads them all.

    Args:
        source: What error messages call the file.
        headers: Shape and type of each array.
        read: Reads the array of that name.

    Example:
        >>> arrays = {"conv1/b": np.zeros(64, np.float32)}
        >>> weights = Weights.of("an example", arrays)
        >>> weights.headers["conv1/b"].shape, weights["conv1/b"].sum()
        ((64,), np.float32(0.0))
    """

    source: str
    headers: Mapping[str, Header]
    read: Callable[[str], np.ndarray]

    @classmethod
    def of(cls, source: str, arrays: Mapping[str, np.ndarray]) -> Weights:
        """Wraps arrays that are in memory already.

        Args:
            source: What error messages call them.
            arrays: The arrays by name.

        Returns:
            The arrays with their headers.
        """
        headers = {name: Header(array.shape, array.dtype) for name, array in arrays.items()}
        return cls(source, headers, arrays.__getitem__)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.headers:
            raise KeyError(name)
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.headers

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)
