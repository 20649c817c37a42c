"""Named arrays as rows of bytes, one for each process that saves, each with its digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_DIGEST = hashlib.sha256().digest_size


class DamagedError(ValueError):
    """A digest was computed and is wrong."""


def pack(
    arrays: Mapping[str, np.ndarray], record: Mapping[str, Any], process: int
) -> tuple[np.ndarray, np.ndarray]:
    """The row of one process, and the text that tells what it holds.

    Args:
        arrays: name -> array, none of them empty; on every process the same names, shapes and
            dtypes, with zeros for what belongs to another process.
        record: for `json`.
        process: index of this one; the text of the first one is saved.

    Returns:
        uint8 [bytes], the arrays one after the other and a SHA-256; uint8 [bytes], the text.
    """
    kinds = [[name, each.dtype.str, list(each.shape)] for name, each in arrays.items()]
    text = json.dumps({"arrays": kinds, "record": record}).encode()
    parts = [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in arrays.values()]
    row = np.concatenate([*parts, np.zeros(_DIGEST, np.uint8)])
    row[-_DIGEST:] = _digest(row[:-_DIGEST], kinds, None if process else text)
    return row, np.frombuffer(text, np.uint8).copy()


def unpack(rows: np.ndarray, text: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays that all processes have saved together, and the record.

    Args:
        rows: uint8 [processes, bytes].
        text: that of the first process, uint8 [bytes].

    Raises:
        DamagedError: a digest is wrong.
        ValueError: these are no rows and text of `pack`.
    """
    if rows.dtype != np.uint8 or rows.ndim != 2 or text.dtype != np.uint8:
        raise ValueError("it holds other arrays than a sweep's")
    content, kinds = None, []
    for process, row in enumerate(rows):
        expected = _digest(row[:-_DIGEST], kinds, None if process else text.tobytes())
        if not np.array_equal(row[-_DIGEST:], expected):
            raise DamagedError("its digest is wrong")
        if content is None:  # the first row's digest is the text's, too
            content = json.loads(text.tobytes())
            kinds = content["arrays"]
    if content is None:
        raise ValueError("it holds no rows")
    # What belongs to one process is zero in the rows of the others.
    whole = np.bitwise_or.reduce(rows[:, :-_DIGEST], axis=0)
    arrays, start = {}, 0
    for name, kind, shape in kinds:
        size = math.prod(shape) * np.dtype(kind).itemsize
        arrays[name] = whole[start : start + size].copy().view(kind).reshape(shape)
        start += size
    return arrays, content["record"]


def _digest(content: np.ndarray, kinds: list[Any], text: bytes | None) -> np.ndarray:
    """SHA-256 of names, dtypes, shapes, the record where there is one, and bytes, as uint8 [32]."""
    digest = hashlib.sha256(json.dumps(kinds).encode() if text is None else text)
    digest.update(np.ascontiguousarray(content).data)
    return np.frombuffer(digest.digest(), np.uint8)
