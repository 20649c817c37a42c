"""Reads state dictionaries from PyTorch's files, without PyTorch and without running anything."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxrobust.porting.readers.checks import check_total, refusing, shown
from jaxrobust.porting.readers.names import stands_for
from jaxrobust.porting.readers.pickles import Skipped, load
from jaxrobust.porting.readers.tensors import Storage, StorageType, Tensor
from jaxrobust.porting.weights import Weights

# The number with which the format before the archives begins.
_MAGIC = 0x1950A86A20F9469CFC6C

# Where checkpoints keep the state dictionary, beside the epoch, the optimizer and the rest.
_NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")

# Tensors may share storages, as tied layers do; more than this and the file has been made to grow.
_MOST_SHARED = 16


@dataclass(frozen=True)
class _Content:
    """An opened file.

    Args:
        saved: The object that was saved, with `Tensor` in place of tensors.
        byteorder: `<` or `>`.
        read: Gives a number of bytes of a storage from a byte on.
    """

    saved: Any
    byteorder: str
    read: Callable[[Storage, int, int], bytes]


def open_pth(path: Path) -> Weights:
    """Opens a file of `torch.save` that holds a state dictionary.

    Both of PyTorch's formats are read: the archive (since PyTorch 1.6) and the run of pickles and
    raw storages before it. The state dictionary may be the saved object or lie in it under one of
    the usual names, such as `state_dict`; a prefix `module.` that all names have is dropped, and
    what isn't a tensor is skipped: numbers, settings, dates, paths, NumPy's arrays and random
    states, objects of anybody's own classes. bfloat16 numbers are read as float32. A tensor's
    numbers are read when it is asked for.

    Args:
        path: The file.

    Returns:
        Its tensors by the names that they have in the state dictionary.

    Raises:
        SpecificationError: If the file is damaged, holds no state dictionary, or names functions
            that have no business in one; nothing is ever run.
    """
    with refusing(path, path.suffix):
        with path.open("rb") as file:
            archived = file.read(4) == b"PK\x03\x04"
        content = (_open_archive if archived else _open_pickles)(path)
        tensors = _without_prefix(_state_dictionary(content.saved))
        headers = {}
        for name, tensor in tensors.items():
            try:
                headers[name] = tensor.header()
            except ValueError as error:
                raise ValueError(f"its tensor {shown(name)} {error}") from error
        check_total(headers.values(), _MOST_SHARED * path.stat().st_size)

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        itemsize = tensor.storage.type.stored.itemsize
        with refusing(path, path.suffix):
            start, count = tensor.offset * itemsize, tensor.extent() * itemsize
            data = content.read(tensor.storage, start, count)
            return tensor.array(data, content.byteorder)

    return Weights(str(path), headers, read)


def _state_dictionary(saved: Any) -> dict[str, Tensor]:
    """The tensors of the saved dictionary, or of the one that lies in it."""
    if isinstance(saved, Skipped):
        raise ValueError(
            f"it holds an object of {shown(saved.name)}, not a dictionary of tensors: save "
            "module.state_dict()"
        )
    if not isinstance(saved, dict):
        raise ValueError("it does not hold a dictionary of tensors")
    tensors = _tensors_in(saved)
    if not tensors:
        found = ", ".join(shown(name) for name in list(saved)[:6]) or "nothing"
        raise ValueError(
            f"it holds no state dictionary, neither itself nor as {', '.join(_NESTED_UNDER)}; "
            f"it holds {found}"
        )
    return tensors


def _tensors_in(saved: dict[Any, Any], levels: int = 4) -> dict[str, Tensor]:
    """The tensors under the first usual name that holds any, which settings do not; else its own.

    No more levels are gone down, since a dictionary may hold itself.
    """
    for name in _NESTED_UNDER if levels else ():
        inside = saved.get(name)
        if isinstance(inside, dict) and (tensors := _tensors_in(inside, levels - 1)):
            return tensors
    return {name: value for name, value in saved.items() if isinstance(value, Tensor)}


def _without_prefix(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names without the `module.` that `torch.nn.DataParallel` puts before all of them."""
    if not all(name.startswith("module.") for name in tensors):
        return tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


class _Storages(dict[str, Storage]):
    """The storages that a file's pickle refers to, by their keys."""

    def refer(self, identifier: Any) -> Storage:
        """The storage of an identifier in the pickle."""
        match identifier:
            case ("storage", StorageType() as kind, str(key), _, int(length), *view):
                if length >= 0 and view in ([], [None]):
                    storage = self.setdefault(key, Storage(key, kind, length))
                    if storage == Storage(key, kind, length):
                        return storage
        raise ValueError("its pickle refers to a storage that cannot be")


def _open_archive(path: Path) -> _Content:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("it is not an archive that torch.save has written")
        folder = pickles[0].partition("/")[0]
        storages = _Storages()
        saved = load(io.BytesIO(_stored(archive, members[pickles[0]])), stands_for, storages.refer)
        order = members.get(f"{folder}/byteorder")
        order = b"little" if order is None else _stored(archive, order)
        if order not in (b"little", b"big"):
            raise ValueError("its byte order is neither little nor big")
    for key, storage in storages.items():
        member = members.get(f"{folder}/data/{key}")
        if member is None:
            raise ValueError(f"the storage {shown(key)} is missing")
        _check_stored(member)
        if member.file_size != storage.nbytes:
            raise ValueError(
                f"the storage {shown(key)} has {member.file_size:,} bytes, not {storage.nbytes:,}"
            )

    def read(storage: Storage, start: int, count: int) -> bytes:
        with zipfile.ZipFile(path) as archive:
            # All of it, because only then the checksum is verified.
            return archive.read(f"{folder}/data/{storage.key}")[start : start + count]

    return _Content(saved, "<" if order == b"little" else ">", read)


def _check_stored(member: zipfile.ZipInfo) -> None:
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise ValueError(f"its member {shown(member.filename)} is compressed: PyTorch's never are")


def _stored(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_stored(member)
    return archive.read(member)


class _Remainder:
    """A file, of which no more is asked than it has left, whatever a length in it claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline()

    def tell(self) -> int:
        return self.file.tell()


def _open_pickles(path: Path) -> _Content:
    storages = _Storages()
    starts = {}
    with path.open("rb") as file:
        stream = _Remainder(file)
        if load(stream, stands_for, storages.refer) != _MAGIC:
            raise ValueError("it does not begin as a file of torch.save does")
        for _ in ("the protocol's version", "the machine that saved it"):
            load(stream, stands_for, storages.refer)
        saved = load(stream, stands_for, storages.refer)
        keys = load(stream, stands_for, storages.refer)
        listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not listed or sorted(keys) != sorted(storages):
            raise ValueError("the storages that it lists are not those of its tensors")
        for key in keys:
            storage = storages[key]
            length = int.from_bytes(file.read(8), "little")
            if length != storage.length:
                raise ValueError(
                    f"the storage {shown(key)} has {length:,} numbers, not {storage.length:,}"
                )
            starts[key] = file.tell()
            if starts[key] + storage.nbytes > stream.size:
                raise ValueError(f"the storage {shown(key)} ends beyond the file")
            file.seek(storage.nbytes, os.SEEK_CUR)

    def read(storage: Storage, start: int, count: int) -> bytes:
        with path.open("rb") as file:
            file.seek(starts[storage.key] + start)
            return file.read(count)

    # Whatever machine saved it, the storages of this format are little-endian.
    return _Content(saved, "<", read)
