"""Reads weights from Caffe's binary files (`.caffemodel`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.porting.readers.checks import refusing, shown
from jaxrobust.porting.weights import Header, Weights

# Protocol buffers cannot be larger.
_LARGEST_FILE = 2**31 - 1

# Far more than any network has. Without these bounds, a file of nothing but empty parts would
# become hundreds of times larger in memory.
_MOST_LAYERS = 10_000
_MOST_PARTS = 32

_SUFFIXES = {0: "w", 1: "b"}


@dataclass(frozen=True)
class _Blob:
    """The numbers of a blob as they lie in the file, its shape, and the mask of what it keeps."""

    data: bytes
    header: Header
    mask: _Blob | None = None

    def array(self) -> np.ndarray:
        array = np.frombuffer(self.data, self.header.dtype).reshape(self.header.shape)
        if self.mask is None:
            return array.copy()
        mask = self.mask.array()
        if not np.isin(mask, (0, 1)).all():
            raise ValueError("a blob that should be a mask holds other numbers than 0 and 1")
        return np.where(mask, array, 0)


def open_caffemodel(path: Path) -> Weights:
    """Opens a network that Caffe has saved.

    Both generations of layers (V1 and the present one) and both ways to write a blob's shape are
    read. A layer's first blob is called `LAYER/w`, its second `LAYER/b`, further ones by their
    number: `LAYER/2`. In the older way all shapes have four axes; here a bias has one and a dense
    layer's kernel two. Where a pruned layer's blobs are followed by as many masks of the same
    shapes, the masks are applied.

    Args:
        path: The file; it is read now, and its numbers are kept in memory.

    Returns:
        Its blobs by name.

    Raises:
        SpecificationError: If the file is damaged, or holds no layers with blobs.
    """
    from jaxrobust.porting.readers.caffe_schema import Network

    with refusing(path, ".caffemodel"):
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError("it is larger than 2 GB, which Caffe's files cannot be")
        network = Network.FromString(path.read_bytes())
        blobs = {}
        if len(network.layer) + len(network.layers) > _MOST_LAYERS:
            raise ValueError(f"it has more than {_MOST_LAYERS:,} layers")
        for layer in chain(network.layer, network.layers):
            for name, blob in _blobs(layer):
                if name in blobs:
                    raise ValueError(f"it holds {shown(name)} twice")
                blobs[name] = blob
        if not blobs:
            raise ValueError("it has no layers with blobs (V1 or later)")

    def read(name: str) -> np.ndarray:
        with refusing(path, ".caffemodel"):
            return blobs[name].array()

    return Weights(str(path), {name: blob.header for name, blob in blobs.items()}, read)


def _blobs(layer: Any) -> Iterator[tuple[str, _Blob]]:
    """The blobs of a layer by name, with their masks."""
    layer_name = layer.name.decode()
    if len(layer.blobs) > _MOST_PARTS:
        raise ValueError(f"its layer {shown(layer_name)} has {len(layer.blobs):,} blobs")
    blobs = []
    for index, blob in enumerate(layer.blobs):
        try:
            blobs.append(_blob(blob, index))
        except ValueError as error:
            raise ValueError(f"blob {index} of its layer {shown(layer_name)} {error}") from error
    half = len(blobs) // 2
    kept, masks = blobs[:half], blobs[half:]
    # The two blobs of a normalisation's scale have one shape too, but only one axis.
    if kept and [b.header.shape for b in kept] == [b.header.shape for b in masks]:
        if len(kept[0].header.shape) > 1:
            blobs = [_Blob(b.data, b.header, mask) for b, mask in zip(kept, masks, strict=True)]
    for index, blob in enumerate(blobs):
        yield f"{layer_name}/{_SUFFIXES.get(index, index)}", blob


def _blob(blob: Any, index: int) -> _Blob:
    pieces, kind = (blob.data, "<f4") if blob.data else (blob.double_data, "<f8")
    if len(pieces) > _MOST_PARTS:
        raise ValueError(f"is split into {len(pieces):,} pieces")
    data = b"".join(pieces)
    if len(blob.shape.dim) > _MOST_PARTS:
        raise ValueError(f"has {len(blob.shape.dim):,} axes")
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = _without_padding((blob.num, blob.channels, blob.height, blob.width), index)
    header = Header(shape, np.dtype(kind))
    if min(shape, default=0) < 0 or header.nbytes != len(data):
        raise ValueError(f"has {len(data):,} bytes of packed numbers for shape {shape!s:.80}")
    return _Blob(data, header)


def _without_padding(shape: tuple[int, ...], index: int) -> tuple[int, ...]:
    """The shape without the leading ones by which fewer than four axes were filled up."""
    if shape[:2] != (1, 1):
        return shape
    return shape[3:] if index and shape[2] == 1 else shape[2:]
