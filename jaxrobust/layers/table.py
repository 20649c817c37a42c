"""Leaves, layers and the table of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.text import aligned

Role = Literal["kernel", "bias", "scale", "statistic"]

# Entries that are widened to float64 at one time.
_RUN = 2**20


@dataclass(frozen=True)
class Leaf:
    """One parameter array of a layer.

    Attributes:
        name: its name inside the layer: `kernel`.
        path: its name in the whole pytree: `conv1/kernel`.
        shape, dtype: of the array.
        role: `kernel`, `bias`, `scale` or `statistic` (never damaged).
        output_axes: the axes that count output units: for a kernel those that its convolution or
            product leaves standing, for any other leaf all of them.
        groups: feature groups of the convolution that uses the kernel.
        assumed: the output axes could not be followed to a product; the last axis is assumed.
        value: the array itself; not part of equality.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    role: Role
    output_axes: tuple[int, ...]
    groups: int = 1
    assumed: bool = False
    value: Any = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        """The number of output units that the leaf holds."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape in which one number per unit broadcasts against the leaf."""
        return tuple(n if axis in self.output_axes else 1 for axis, n in enumerate(self.shape))

    @cached_property
    def std(self) -> Any:
        """The standard deviation of all entries (population), in float64 on the host.

        Inside a JAX transformation, where there are no values yet, it is traced in float32.
        """
        if isinstance(self.value, Tracer):
            return jnp.std(self.value.astype(jnp.float32))
        flat = np.asarray(self.value).reshape(-1)
        runs = [flat[start : start + _RUN] for start in range(0, flat.size, _RUN)]
        mean = sum(float(run.sum(dtype=np.float64)) for run in runs) / flat.size
        squares = sum(float(((run.astype(np.float64) - mean) ** 2).sum()) for run in runs)
        return math.sqrt(squares / flat.size)


@dataclass(frozen=True)
class Layer:
    """A named group of parameter leaves that are damaged together.

    Attributes:
        name: `conv1`.
        leaves: its damageable leaves, kernels first.
        normalisation: scales and biases of the normalisation layers that read this layer's output
            and nothing else; empty if there is none.
        output: the variable of the traced program that holds the layer's output; None if the
            table was made without a network.
        output_shape: of that variable for one image, without the batch axis.
        uses: in how many places of the program its kernels (or other leaves) are used.
        loop: `scan`, `while` or `cond` if it is used inside one, else None.
    """

    name: str
    leaves: tuple[Leaf, ...]
    normalisation: tuple[Leaf, ...] = ()
    output: int | None = None
    output_shape: tuple[int, ...] | None = None
    uses: int = 1
    loop: str | None = None

    @property
    def kernel(self) -> Leaf | None:
        """The first kernel of rank 2 or more."""
        return next((x for x in self.leaves if x.role == "kernel" and len(x.shape) > 1), None)

    @property
    def units(self) -> int:
        """The number of output units."""
        return (self.kernel or self.leaves[0]).units

    def without_values(self) -> Layer:
        """The same layer as a key for compiled programs: no arrays in it."""
        return replace(
            self,
            leaves=tuple(replace(leaf, value=None) for leaf in self.leaves),
            normalisation=tuple(replace(leaf, value=None) for leaf in self.normalisation),
        )


class LayerTable(Mapping[str, Layer]):
    """The layers of a network by name, in order of first use; prints as a table."""

    def __init__(self, layers: Iterable[Layer]) -> None:
        self._layers = {layer.name: layer for layer in layers}

    def __getitem__(self, name: str) -> Layer:
        if name not in self._layers:
            raise SpecificationError(unknown("layer", name, self._layers))
        return self._layers[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def __contains__(self, name: object) -> bool:
        return name in self._layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        rows = [("layer", "leaves", "entries", "units", "output", "note")]
        for layer in self.values():
            leaves = ", ".join(
                f"{leaf.name} {'×'.join(map(str, leaf.shape)) or 'scalar'}" for leaf in layer.leaves
            )
            entries = sum(leaf.size for leaf in layer.leaves)
            output = "×".join(map(str, layer.output_shape or ())) or "-"
            notes = [f"used {layer.uses} times"] * (layer.uses > 1)
            notes += [f"inside {layer.loop}: not hoisted"] * (layer.loop is not None)
            groups = layer.kernel.groups if layer.kernel else 1
            notes += [f"{groups} groups"] * (groups > 1)
            notes += ["last axis assumed to count units"] * any(x.assumed for x in layer.leaves)
            row = (layer.name, leaves, f"{entries:,}", f"{layer.units:,}", output, "; ".join(notes))
            rows.append(row)
        return aligned(rows)
