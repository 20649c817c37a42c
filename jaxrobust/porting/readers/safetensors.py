"""Reads weights from `.safetensors` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrobust.porting.readers.checks import refusing, shown
from jaxrobust.porting.weights import Header, Weights

_TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.float32,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def open_safetensors(path: Path) -> Weights:
    """Opens a `.safetensors` file.

    The library checks that the arrays fill the file without gaps or overlaps. bfloat16 numbers
    are read as float32. An array is read when it is asked for.

    Args:
        path: The file.

    Returns:
        Its arrays by name.

    Raises:
        SpecificationError: If the file is damaged, or holds numbers of another type.
    """
    # NumPy knows bfloat16, as which the library hands it over, only once this is imported.
    import ml_dtypes  # noqa: F401
    from safetensors import safe_open

    headers = {}
    with refusing(path, ".safetensors"), safe_open(path, framework="numpy") as file:
        for name in file.keys():
            described = file.get_slice(name)
            kind = described.get_dtype()
            if kind not in _TYPES:
                raise ValueError(
                    f"{shown(name)} holds {kind} numbers; possible: {', '.join(_TYPES)}"
                )
            headers[name] = Header(tuple(described.get_shape()), np.dtype(_TYPES[kind]))

    def read(name: str) -> np.ndarray:
        with refusing(path, ".safetensors"), safe_open(path, framework="numpy") as file:
            return file.get_tensor(name).astype(headers[name].dtype, copy=False)

    return Weights(str(path), headers, read)
