"""Leaves, layers and the table of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.ground.text import aligned

Role = Literal["kernel", "bias", "scale", "statistic"]

# One layer of a stack: `blocks/fc[1]`.
_DEPTH = re.compile(r"(.+)\[(\d+)\]")

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
            product leaves standing, for any other leaf all of them; in the order in which the
            units of all leaves of a layer are numbered.
        groups: feature groups of the convolution that uses the kernel.
        assumed: the output axes could not be followed to a product; the last axis is assumed.
        stack: the axes that count the layers of a stack, if it is one.
        place: of one layer of a stack, where it lies in the array: for each axis of the array an
            index, or None for the whole axis. The other attributes are then those of the part.
        value: the array itself, or the part; not part of equality.
        whole: the array in which a part lies; not part of equality.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    role: Role
    output_axes: tuple[int, ...]
    groups: int = 1
    assumed: bool = False
    stack: tuple[int, ...] = ()
    place: tuple[int | None, ...] = ()
    value: Any = field(default=None, compare=False, repr=False)
    whole: Any = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array, also of the whole one in which a part lies."""
        return math.prod(self._shape_of_whole) * self.dtype.itemsize

    @property
    def _shape_of_whole(self) -> tuple[int, ...]:
        return self.shape if self.whole is None else tuple(self.whole.shape)

    def depth(self, index: int) -> Leaf:
        """One layer of a stack, the stack's first axis gone."""
        axis, *others = self.stack
        free = [
            i for i, taken in enumerate(self.place or (None,) * len(self.shape)) if taken is None
        ]
        place = list(self.place or (None,) * len(self.shape))
        place[free[axis]] = index

        def without(axes: Iterable[int]) -> tuple[int, ...]:
            return tuple(i - (i > axis) for i in axes if i != axis)

        return replace(
            self,
            shape=self.shape[:axis] + self.shape[axis + 1 :],
            output_axes=without(self.output_axes),
            stack=without(others),
            place=tuple(place),
            value=None if self.value is None else self.value[(slice(None),) * axis + (index,)],
            whole=self.value if self.whole is None else self.whole,
        )

    def part(self, whole: Any) -> Any:
        """What lies at the leaf's place in an array of the whole shape."""
        return whole[tuple(slice(None) if taken is None else taken for taken in self.place)]

    @property
    def units(self) -> int:
        """The number of output units that the leaf holds."""
        return math.prod(self.shape[axis] for axis in self.output_axes)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape in which one number per unit broadcasts against the leaf."""
        return tuple(n if axis in self.output_axes else 1 for axis, n in enumerate(self.shape))

    def per_unit(self, values: Any) -> Any:
        """One number for each unit, in the shape in which they broadcast against the leaf.

        Args:
            values: an array [units].
        """
        grid = values.reshape([self.shape[axis] for axis in self.output_axes])
        return grid.transpose(np.argsort(self.output_axes)).reshape(self.unit_shape)

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
        leaves: its damageable leaves, kernels first; none of a layer that can't be damaged.
        normalisation: scales and biases of the normalisation layers that read this layer's output
            and nothing else; empty if there is none.
        output: the variable of the traced program that holds the layer's output; None if the
            table was made without a network, or if it is inside a loop.
        output_shape: the shape of its output for one image, without the batch axis.
        uses: in how many places of the program its kernels (or other leaves) are used.
        loop: `scan`, `while` or `cond` if it is used inside one, else None.
        fixed: leaves that the network uses too but that can't be damaged: no float, or empty.
        refusal: why the layer can't be damaged; "" if it can.
    """

    name: str
    leaves: tuple[Leaf, ...]
    normalisation: tuple[Leaf, ...] = ()
    output: int | None = None
    output_shape: tuple[int, ...] | None = None
    uses: int = 1
    loop: str | None = None
    fixed: tuple[Leaf, ...] = ()
    refusal: str = ""

    @property
    def kernel(self) -> Leaf | None:
        """The first kernel of rank 2 or more."""
        return next((x for x in self.leaves if x.role == "kernel" and len(x.shape) > 1), None)

    @property
    def units(self) -> int:
        """The number of output units."""
        return (self.kernel or self.leaves[0]).units if self.leaves else 0

    @property
    def depths(self) -> int:
        """How many layers are stacked in it, one after the other; 0 if it is no stack."""
        lengths = {leaf.shape[leaf.stack[0]] if leaf.stack else 0 for leaf in self.leaves}
        return lengths.pop() if len(lengths) == 1 else 0

    def depth(self, index: int) -> Layer:
        """One layer of a stack, under the name `blocks/fc[1]`.

        Raises:
            SpecificationError: it is no stack, or has fewer layers.
        """
        depths = self.depths
        if not 0 <= index < depths:
            found = f"a stack of {depths} layers, [0] to [{depths - 1}]" if depths else "no stack"
            raise SpecificationError(f"layer {self.name} has no depth [{index}]: it is {found}")
        after = [x for x in self.normalisation if x.stack and x.shape[x.stack[0]] == depths]
        return replace(
            self,
            name=f"{self.name}[{index}]",
            leaves=tuple(leaf.depth(index) for leaf in self.leaves),
            normalisation=tuple(leaf.depth(index) for leaf in after),
        )

    def without_values(self) -> Layer:
        """The same layer as a key for compiled programs: no arrays in it."""

        def bare(leaves: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
            return tuple(replace(leaf, value=None, whole=None) for leaf in leaves)

        return replace(
            self,
            leaves=bare(self.leaves),
            normalisation=bare(self.normalisation),
            fixed=bare(self.fixed),
        )


class LayerTable(Mapping[str, Layer]):
    """The layers of a network by name, in order of first use; prints as a table.

    Beside the layers that it lists it knows those that are stacked in one: `blocks/fc[1]`.

    Args:
        layers: in order.
        others: names of parameters that are no layers here, each with the reason.
    """

    def __init__(
        self, layers: Iterable[Layer], others: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._others = others
        self._depths: dict[str, Layer] = {}

    def __getitem__(self, name: str) -> Layer:
        if name in self._layers:
            return self._layers[name]
        if name not in self._depths:
            found = _DEPTH.fullmatch(name)
            if name in self._others:
                raise SpecificationError(f"layer {name} can't be damaged: {self._others[name]}")
            if found is None or found[1] not in self:
                raise SpecificationError(unknown("layer", name, self._layers))
            self._depths[name] = self[found[1]].depth(int(found[2]))
        return self._depths[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def __contains__(self, name: object) -> bool:
        if name in self._layers:
            return True
        found = _DEPTH.fullmatch(name) if isinstance(name, str) else None
        return found is not None and found[1] in self and int(found[2]) < self[found[1]].depths

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        rows = [("layer", "leaves", "entries", "units", "output", "note")]
        for layer in self.values():
            leaves = ", ".join(
                [f"{leaf.name} {_size(leaf)}" for leaf in layer.leaves]
                + [f"{leaf.name} {_size(leaf)} {leaf.dtype}" for leaf in layer.fixed]
            )
            entries = sum(leaf.size for leaf in layer.leaves)
            output = "×".join(map(str, layer.output_shape or ())) or "-"
            row = (layer.name, leaves, f"{entries:,}", f"{layer.units:,}", output, _note(layer))
            rows.append(row)
        return aligned(rows)


def _size(leaf: Leaf) -> str:
    return "×".join(map(str, leaf.shape)) or "scalar"


def _note(layer: Layer) -> str:
    notes = [f"can't be damaged: {layer.refusal}"] * bool(layer.refusal)
    kept = ", ".join(leaf.name for leaf in layer.fixed)
    notes += [f"{kept} can't be damaged"] * bool(kept and not layer.refusal)
    notes += [f"stack of {layer.depths}"] * bool(layer.depths)
    notes += [f"used {layer.uses} times"] * (layer.uses > 1)
    notes += [f"inside {layer.loop}: not hoisted"] * (layer.loop is not None)
    groups = layer.kernel.groups if layer.kernel else 1
    notes += [f"{groups} groups"] * (groups > 1)
    notes += ["last axis assumed to count units"] * any(x.assumed for x in layer.leaves)
    return "; ".join(notes)
