"""Reads weights from the HDF5 files of Keras."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.porting.readers.checks import check_total, refusing, shown
from jaxrobust.porting.weights import Header, Weights

if TYPE_CHECKING:
    import h5py

# Where a file keeps the weights when it holds more than them: Keras 1 and 2 with the whole model,
# Keras 3 beside the optimizer.
_WEIGHTS_GROUPS = ("model_weights", "layers")

_DEEPEST = 8

# What Keras 1 called the arrays of a layer; TensorFlow counted further ones of the same name.
_FIRST_NAMES = {"W": "kernel", "b": "bias"}


def open_hdf5(path: Path) -> Weights:
    """Opens a file of weights that Keras has saved.

    Keras 1 (and 0.3), 2 and 3 are read, with or without the rest of the model. An array is called
    `LAYER/ARRAY`, whatever Keras has put around that: `block1_conv1/kernel` may be
    `block1_conv1/block1_conv1_W_1:0` or `block1_conv1/block1_conv1/kernel:0` in the file. Keras 3
    numbers the arrays of a layer: `conv2d/0`.

    Links to other places, compression and everything else that weights don't need is refused
    unread. An array is read when it is asked for.

    Args:
        path: The file.

    Returns:
        Its arrays by name.

    Raises:
        SpecificationError: If the file is damaged, or holds anything but groups of plain arrays.
    """
    import h5py

    with refusing(path, path.suffix), h5py.File(path, "r") as file:
        root = next((name for name in file if name in _WEIGHTS_GROUPS), "/")
        headers, places = {}, {}
        for place, dataset in _datasets(_child(file, root), (), set()):
            name = _plain_name(place)
            if name in headers:
                raise ValueError(f"it holds {shown(name)} twice")
            headers[name] = _header(dataset, name)
            places[name] = "/".join((root, *place))
        if not headers:
            raise ValueError("it holds no arrays")
        check_total(headers.values(), path.stat().st_size)

    def read(name: str) -> np.ndarray:
        with refusing(path, path.suffix), h5py.File(path, "r") as file:
            dataset = file[places[name]]
            if not isinstance(dataset, h5py.Dataset) or _header(dataset, name) != headers[name]:
                raise ValueError("it has changed since it was opened")
            return np.asarray(dataset[()])

    return Weights(str(path), headers, read)


def arrays_of(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every array that lies in a file, with its name; nothing that leads out of it is followed.

    Raises:
        ValueError: there is a link to another place.
    """
    for place, dataset in _datasets(file, (), set()):
        yield "/".join(place), dataset


def _child(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """What a group holds under a name, if that is in this very file."""
    import h5py
    from h5py import h5l  # pyright: ignore[reportAttributeAccessIssue]

    if name == "/":
        return group
    # A name with a slash in it, which no program writes, would be followed like a path; and
    # h5py's own questions about a link, such as `in`, open what it leads to.
    link = None if "/" in name else group.id.links.get_info(name.encode(errors="surrogateescape"))
    if link is None or link.type != h5l.TYPE_HARD:
        raise ValueError(f"{shown(name)} is a link to another place")
    child = group[name]
    if not isinstance(child, h5py.Group | h5py.Dataset):
        raise ValueError(f"{shown(name)} is neither a group nor an array")
    return child


def _datasets(
    item: h5py.Group | h5py.Dataset, place: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], h5py.Dataset]]:
    """All arrays under a group with the names that lead to them."""
    import h5py
    from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

    address = h5o.get_info(item.id).addr
    if address in seen or len(place) > _DEEPEST:
        raise ValueError("its groups hold each other, or one thing under two names")
    seen.add(address)
    if isinstance(item, h5py.Dataset):
        yield place, item
        return
    for name in map(str, item):
        yield from _datasets(_child(item, name), (*place, name), seen)


def _plain_name(place: tuple[str, ...]) -> str:
    *groups, array = (part for part in place if part != "vars")
    if not groups:
        return array
    layer, *inner = groups
    inner = [part for part in inner if not re.fullmatch(re.escape(layer) + r"(_\d+)?", part)]
    array = array.partition(":")[0].removeprefix(f"{layer}_")
    first = re.fullmatch(r"([Wb])(_\d+)?", array)
    return "/".join([layer, *inner, _FIRST_NAMES[first[1]] if first else array])


def _header(dataset: h5py.Dataset, name: str) -> Header:
    """Checks that an array lies in the file as it is, so that reading it takes what it claims."""
    from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]

    if dataset.shape is None or dataset.dtype.kind not in "biufc":
        raise ValueError(f"{shown(name)} holds {dataset.dtype!s:.80}, not plain numbers")
    plist = dataset.id.get_create_plist()
    if plist.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS):
        raise ValueError(
            f"{shown(name)} is in chunks or compressed; `h5repack -f NONE -l CONTI` undoes that"
        )
    if plist.get_nfilters() or plist.get_external_count():
        raise ValueError(f"{shown(name)} is compressed or lies in another file")
    header = Header(dataset.shape, dataset.dtype)
    end = (dataset.id.get_offset() or 0) + header.nbytes
    stored = dataset.id.get_storage_size(), dataset.id.get_type().get_size()
    if stored != (header.nbytes, header.dtype.itemsize) or end > dataset.file.id.get_filesize():
        raise ValueError(
            f"{shown(name)} has {stored[0]:,} bytes in the file, which are not a {header.dtype} "
            f"array of shape {header.shape!s:.80}"
        )
    return header
