"""Weight files written by hand, from the formats' descriptions: sound ones and impossible ones."""

import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.porting import read_weights

MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Name:
    """A name that a pickle mentions."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """What a pickle asks to be called."""

    function: Name
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Reference:
    """What a pickle refers to by an identifier."""

    identifier: Any


@dataclass(frozen=True)
class Raw:
    """Operations of a pickle as they are."""

    operations: bytes


@dataclass(frozen=True)
class Saved:
    """A tensor: a view of a storage, which is an array of one axis."""

    storage: np.ndarray
    shape: tuple[Any, ...] | None = None
    strides: tuple[Any, ...] | None = None
    offset: Any = 0
    kind: str | None = None
    key: str | None = None


KINDS = {
    "float64": "Double",
    "float32": "Float",
    "float16": "Half",
    "uint16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


def operations(value: Any) -> bytes:
    """The operations of a pickle that put a value on the stack."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            size = value.bit_length() // 8 + 1
            return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case tuple():
            return b"(" + b"".join(map(operations, value)) + b"t"
        case list():
            return b"](" + b"".join(map(operations, value)) + b"e"
        case dict():
            items = b"".join(operations(part) for item in value.items() for part in item)
            return b"}(" + items + b"u"
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return operations(function) + operations(arguments) + b"R"
        case Reference(identifier):
            return operations(identifier) + b"Q"
        case Raw(raw):
            return raw
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + operations(value) + b"."


def _described(value: Any, storages: dict[str, np.ndarray], old: bool) -> Any:
    """A value with each tensor in it as PyTorch pickles it; the storages are collected."""
    if isinstance(value, dict):
        return {key: _described(item, storages, old) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_described(item, storages, old) for item in value)
    if isinstance(value, Call):
        return Call(value.function, _described(value.arguments, storages, old))
    if not isinstance(value, Saved):
        return value
    storage = value.storage
    key = value.key or next((k for k, s in storages.items() if s is storage), str(len(storages)))
    storages[key] = storage
    kind = Name("torch", f"{value.kind or KINDS[storage.dtype.name]}Storage")
    identifier = ("storage", kind, key, "cpu", storage.size, *([None] if old else []))
    shape = storage.shape if value.shape is None else value.shape
    strides = (1,) * len(shape) if value.strides is None else value.strides
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, (Reference(identifier), value.offset, shape, strides, False, {}))


def pth_members(saved: Any, byteorder: str | None = "little") -> dict[str, bytes]:
    """The members of PyTorch's archive."""
    storages: dict[str, np.ndarray] = {}
    members = {"data.pkl": pickled(_described(saved, storages, old=False))}
    if byteorder is not None:
        members["byteorder"] = byteorder.encode()
    order = ">" if byteorder == "big" else "<"
    for key, storage in storages.items():
        members[f"data/{key}"] = storage.astype(storage.dtype.newbyteorder(order)).tobytes()
    return {f"archive/{name}": data for name, data in members.items()} | {"archive/version": b"3"}


def archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return stream.getvalue()


def new_pth(saved: Any) -> bytes:
    """A file of PyTorch's since 1.6."""
    return archive(pth_members(saved))


def old_pth(saved: Any) -> bytes:
    """A file of PyTorch's before 1.6."""
    storages: dict[str, np.ndarray] = {}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    pickles = [MAGIC, 1001, machine, _described(saved, storages, old=True), list(storages)]
    parts = [pickled(value) for value in pickles]
    for storage in storages.values():
        parts += [struct.pack("<q", storage.size), storage.tobytes()]
    return b"".join(parts)


def varint(number: int) -> bytes:
    """A number of a protocol buffer."""
    number %= 2**64
    low = []
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes([*low, number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protocol buffer: fields by number; integers are varints, bytes are length-delimited."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def blob(array: np.ndarray, legacy: bool = False) -> bytes:
    """One of Caffe's blobs, its shape written in the present or the legacy way."""
    data = (8 if array.dtype == np.float64 else 5, array.tobytes())
    if not legacy:
        return message(data, (7, message((1, b"".join(map(varint, array.shape))))))
    padded = (1,) * (4 - array.ndim) + array.shape
    return message(*enumerate(padded, 1), data)


def caffemodel(layers: Iterable[tuple[str, Sequence[bytes]]], v1: bool = False) -> bytes:
    """A network as Caffe saves it: each layer's name and blobs."""
    field, name_field, blobs_field = (2, 4, 6) if v1 else (100, 1, 7)
    written = [
        (field, message((name_field, name.encode()), *((blobs_field, b) for b in blobs)))
        for name, blobs in layers
    ]
    return message((1, b"network"), *written)


def hdf5(path: Path, arrays: Mapping[str, Any], libver: str = "earliest") -> Path:
    """An HDF5 file of arrays by their paths."""
    with h5py.File(path, "w", libver=libver) as file:
        for place, array in arrays.items():
            file[place] = array
    return path


def safetensors(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A `.safetensors` file of a header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refusal(path: Path) -> str:
    """The one line with which a file is refused, however much of it is asked for."""
    with pytest.raises(SpecificationError) as caught:
        dict(read_weights(path))
    text = str(caught.value)
    assert "\n" not in text and text.isprintable() and len(text) < 400 + len(str(path))
    assert str(path) in text
    return text


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fails if Python and NumPy set aside more bytes at a time than that."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak:,} bytes"


def saved(path, content):
    """The path, with this content."""
    path.write_bytes(content)
    return path
