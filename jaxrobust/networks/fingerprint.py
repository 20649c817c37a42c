"""Short names for exactly these parameters and exactly this file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.layers import leaf_paths


def fingerprint(params: Any) -> str:
    """Hashes the path, type, shape and bytes of every leaf of a parameter pytree.

    Args:
        params: The parameters.

    Returns:
        128 bits of BLAKE2b in hexadecimal.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def file_sha256(file: Path) -> str:
    """Hashes a file's bytes.

    Args:
        file: The file.

    Returns:
        Their SHA-256 in hexadecimal.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
