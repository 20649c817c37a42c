"""PyTorch's tensors as its files describe them: views of storages, which lie elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxrobust.porting.weights import Header

# NumPy takes 64 axes at most, and no network needs half of that.
_HIGHEST_RANK = 32


@dataclass(frozen=True)
class StorageType:
    """The type of the numbers in a storage.

    Args:
        stored: How one of them lies in the file. A bfloat16 number, for which NumPy has no type,
            is the upper half of a float32.
        read: What it is read as.
    """

    stored: np.dtype
    read: np.dtype


@dataclass(frozen=True)
class Storage:
    """A run of numbers that tensors are views of.

    Args:
        key: What the file calls it.
        type: The type of its numbers.
        length: How many they are.
    """

    key: str
    type: StorageType
    length: int

    @property
    def nbytes(self) -> int:
        """How many bytes of the file it takes."""
        return self.length * self.type.stored.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, with whatever a file claims about it.

    Args:
        storage: The storage.
        offset: Where in the storage its first number is.
        shape: Its shape.
        strides: For each axis, how many numbers further the next one along it is.
    """

    storage: Any
    offset: Any
    shape: Any
    strides: Any

    def header(self) -> Header:
        """Checks the claims.

        Returns:
            The shape and type as which the tensor is read.

        Raises:
            ValueError: If it does not lie in its storage, or repeats numbers of it so often that
                it is larger.
        """
        numbers = (self.offset, *_tuple(self.shape), *_tuple(self.strides))
        if not isinstance(self.storage, Storage) or not all(
            type(number) is int and 0 <= number < 2**63 for number in numbers
        ):
            raise ValueError("is not described as a tensor")
        if len(self.shape) != len(self.strides) or len(self.shape) > _HIGHEST_RANK:
            raise ValueError(f"has {len(self.shape)} axes and {len(self.strides)} strides")
        length = self.storage.length
        if math.prod(self.shape) > length or self.offset + self.extent() > length:
            raise ValueError(f"reaches beyond its storage of {length:,} numbers")
        return Header(self.shape, self.storage.type.read)

    def extent(self) -> int:
        """How many numbers of the storage lie from its first number to its last."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps)

    def array(self, data: bytes, byteorder: str) -> np.ndarray:
        """Makes the array from the numbers from its first to its last.

        Args:
            data: These numbers as they lie in the file.
            byteorder: `<` or `>`, the order of the bytes of each.

        Returns:
            An array of its own, of the type that the header says.

        Raises:
            ValueError: If they are fewer or more than that.
        """
        kind = self.storage.type
        if len(data) != self.extent() * kind.stored.itemsize:
            raise ValueError("it has changed since it was opened")
        numbers = np.frombuffer(data, kind.stored.newbyteorder(byteorder))
        if 0 in self.shape:
            return np.zeros(self.shape, kind.read)
        strides = [stride * numbers.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)
        if kind == _BFLOAT16:
            bits = view.astype(np.uint32, order="C")
            bits <<= 16
            return bits.view(np.float32)
        return view.astype(kind.read, order="C")


_BFLOAT16 = StorageType(np.dtype(np.uint16), np.dtype(np.float32))


def _tuple(claim: Any) -> tuple[Any, ...]:
    return claim if isinstance(claim, tuple) else (None,)


def _storage_types() -> dict[str, StorageType]:
    kinds = {
        "Double": np.float64,
        "Float": np.float32,
        "Half": np.float16,
        "Long": np.int64,
        "Int": np.int32,
        "Short": np.int16,
        "Char": np.int8,
        "Byte": np.uint8,
    }
    types = {name: StorageType(np.dtype(kind), np.dtype(kind)) for name, kind in kinds.items()}
    types["Bool"] = StorageType(np.dtype(np.uint8), np.dtype(np.bool_))
    types["BFloat16"] = _BFLOAT16
    return {f"torch.{name}Storage": kind for name, kind in types.items()}


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> Tensor:
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor: Any, *_: object) -> Any:
    return tensor


def _dictionary(items: Any = ()) -> dict[str, Any]:
    return {key: value for key, value in items if isinstance(key, str)}


def _default_dictionary(_: object = None, items: Any = ()) -> dict[str, Any]:
    return _dictionary(items.items() if isinstance(items, dict) else items)


# Nothing here is what it is called: the functions are the ones above.
KNOWN: Mapping[str, Any] = {
    **_storage_types(),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _default_dictionary,
}
