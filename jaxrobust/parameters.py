"""A network's parameters as everything computes with them: finite arrays, floats of 32 bits."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import leaf_paths

# Entries that are looked at together, so that they stay in a processor's cache.
_RUN = 2**20


def as_arrays(params: Any, name: str) -> Any:
    """The same pytree with what is computed with in the place of numbers and wider arrays.

    float64 becomes float32, everywhere and whether JAX has 64 bits switched on or not; other types
    become what `jnp.asarray` makes of them. Leaves that are right already are the same objects.

    Args:
        params: any pytree of arrays and numbers; leaves may be traced.
        name: what the network is called.

    Raises:
        SpecificationError: a leaf that is no array of numbers, or that holds a number too large
            for the narrower type.

    Warns:
        UserWarning: float64 becomes float32 although JAX has 64 bits switched on.
    """
    leaves, structure = jax.tree.flatten(params)
    paths = leaf_paths(params)
    made = [_as_array(leaf, f"{name}: {path}") for path, leaf in zip(paths, leaves, strict=True)]
    changed = [
        (path, leaf) for path, leaf, new in zip(paths, leaves, made, strict=True) if leaf is not new
    ]
    if not changed:
        return params
    wide = [path for path, leaf in changed if getattr(leaf, "dtype", None) == np.float64]
    if wide and jax.config.read("jax_enable_x64"):
        warnings.warn(
            f"{name}: {len(wide)} float64 parameter leaves, such as {wide[0]!r}, become float32, "
            "as which all networks are computed",
            stacklevel=4,
        )
    return jax.tree.unflatten(structure, made)


def _as_array(leaf: Any, where: str) -> Any:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
        return leaf  # random keys
    array = leaf if dtype is not None else np.asarray(leaf)
    try:
        kind = np.dtype(array.dtype)
    except TypeError:  # another framework's
        kind = np.dtype(object)
    if not (jnp.issubdtype(kind, np.number) or kind == np.bool_):
        raise SpecificationError(
            f"{where} is a {type(leaf).__name__}: arrays of numbers are needed, of NumPy or JAX"
        )
    target = _computed_as(kind)
    if target == kind:
        return array
    if isinstance(leaf, Tracer):
        return leaf.astype(target)
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, target)
    return _narrowed(np.asarray(array), target, where)


def _computed_as(kind: np.dtype) -> np.dtype:
    if jnp.issubdtype(kind, np.floating) and kind.itemsize > 4:
        return np.dtype(np.float32)
    if jnp.issubdtype(kind, np.complexfloating) and kind.itemsize > 8:
        return np.dtype(np.complex64)
    return np.dtype(jax.dtypes.canonicalize_dtype(kind))


def _narrowed(array: np.ndarray, target: np.dtype, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is counted below
        made = array.astype(target)
    if target.kind in "iu":
        lost = int(np.count_nonzero(made != array))
    else:
        lost = nonfinite(made) - nonfinite(array)
    if lost:
        raise SpecificationError(
            f"{where} holds {lost:,} of {array.size:,} values that are too large for {target}, as "
            "which it is computed"
        )
    return made


def check_finite(params: Any, name: str) -> None:
    """Makes sure that undamaged parameters are finite; what is traced passes.

    Raises:
        SpecificationError: they are not; it names each such leaf and counts its values.
    """
    found = []
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if count := nonfinite(leaf):
            found.append(f"{path} ({count:,} of {leaf.size:,})")
    if found:
        more = f" and {len(found) - 6} more leaves" if len(found) > 6 else ""
        raise SpecificationError(
            f"{name} has undamaged parameters that are NaN or infinite: {', '.join(found[:6])}"
            f"{more}; if they are meant to be, give allow_nonfinite=True"
        )


def nonfinite(leaf: Any) -> int:
    """How many values of an array are NaN or infinite; 0 of one that has no values yet."""
    if isinstance(leaf, Tracer | jax.ShapeDtypeStruct) or not hasattr(leaf, "dtype"):
        return 0
    if not jnp.issubdtype(leaf.dtype, np.inexact):
        return 0
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        # Of an array that several hosts hold: what this one has.
        return sum(nonfinite(np.asarray(each.data)) for each in leaf.addressable_shards)
    flat = np.asarray(leaf).reshape(-1)
    runs = (flat[start : start + _RUN] for start in range(0, flat.size, _RUN))
    return sum(run.size - int(np.count_nonzero(np.isfinite(run))) for run in runs)
