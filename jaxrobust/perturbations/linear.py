"""Damage that is linear in a kernel, so that trials can share a product with it.

A trial's damaged kernel follows from the undamaged one, and so does its product with whatever
reaches the layer: by adding a multiple of a direction (`Affine`), or by scaling each output unit
(`PerUnit`). Where that would be less accurate than the damaged kernel's own product, the trial is
strange: it has to be computed as it is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import Leaf

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

RANGE = 64.0
"""How many times the undamaged network's largest number an ordinary number is at most.

Rounding errors grow as much: to 64 millionths of the largest output in Winograd's convolutions."""

# Squares of smaller norms are no longer numbers of full precision in float32.
_LEAST_SQUARE = 1e-30


class Overlaps(NamedTuple):
    """Inner products for each output unit, float32 [seeds, units]: how directions lie to a kernel.

    Attributes:
        kernel: of the undamaged kernel with itself.
        mixed: of the kernel with the direction in which a seed changes it.
        direction: of the direction with itself.
    """

    kernel: Array
    mixed: Array
    direction: Array

    def of(self, seed: Any) -> Overlaps:
        """Those of one seed, [units]."""
        return Overlaps(*(each[seed] for each in self))


@dataclass(frozen=True)
class Affine:
    """`kernel + scale · direction`: the direction is the seed's noise, the scale the amount."""

    name = "affine"
    directions_per_seed = 1

    def check(self, where: str, leaves: Mapping[str, Leaf], noise: Any, made: Any) -> None:
        """Raises SpecificationError where a leaf has no direction of its shape."""
        for path, leaf in leaves.items():
            direction = noise.get(path) if isinstance(noise, Mapping) else None
            if getattr(direction, "shape", None) != leaf.shape:
                raise SpecificationError(
                    f"{where}: it acts affinely, so that noise[{path!r}] must have the leaf's "
                    f"shape, {leaf.shape}; found {direction}"
                )

    def stand_in(self, kernel: Leaf) -> dict[str, Array]:
        """What `apply` is given in place of the kernel, by path: nothing."""
        return {}

    def own(self, kernel: Leaf, leaves: dict[str, Array], amounts: Mapping[str, Any]) -> Any:
        """What each trial has of its own: the scale, float32 [trials]."""
        return amounts[kernel.path]

    def product(self, undamaged: Array, direction: Any, scale: Any, unit_axis: int) -> Array:
        """The product with one trial's damaged kernel.

        Args:
            undamaged, direction: the products with the kernel and with the direction.
            scale: of the trial.
            unit_axis: the axis of the product that counts output units.
        """
        return undamaged + scale * direction

    def is_strange(self, overlaps: Any, scale: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether the sum may be less accurate than the damaged kernel's product.

        The norm of each unit of the damaged kernel follows from the overlaps: it must neither be
        far greater than those of the undamaged kernel, nor far less than its own, as where they
        cancel.

        Args:
            overlaps: of one seed, [units] each.
            scale: of one trial.
        """
        kernel, mixed, direction = overlaps
        squares = kernel + 2 * scale * mixed + jnp.square(scale) * direction
        greatest = jnp.max(kernel, initial=0)
        within = (squares <= RANGE**2 * greatest) & (squares * RANGE**2 >= kernel)
        return ~(jnp.all(within) & (greatest >= _LEAST_SQUARE))


@dataclass(frozen=True)
class PerUnit:
    """`kernel · factor`: one factor for each output unit, 0 for one that is silent."""

    name = "units"
    directions_per_seed = 0

    def check(self, where: str, leaves: Mapping[str, Leaf], noise: Any, made: Any) -> None:
        """Raises SpecificationError where `made` cannot scale leaves of one entry for each unit."""
        units = {
            path: jax.ShapeDtypeStruct(leaf.unit_shape, leaf.dtype) for path, leaf in leaves.items()
        }
        try:
            found = made(units)
            fits = all(found[path].shape == one.shape for path, one in units.items())
        except (TypeError, ValueError):
            fits = False
        if not fits:
            most = max(leaf.units for leaf in leaves.values())
            raise SpecificationError(
                f"{where}: it acts on units, so that apply must also take leaves with one entry "
                f"for each of the {most} units"
            )

    def stand_in(self, kernel: Leaf) -> dict[str, Any]:
        """What `apply` is given in place of the kernel, by path: a 1 for each unit."""
        return {kernel.path: np.ones(kernel.unit_shape, kernel.dtype)}

    def own(self, kernel: Leaf, leaves: dict[str, Array], amounts: Mapping[str, Any]) -> Any:
        """What each trial has of its own: what became of the ones, [trials, …]; taken out."""
        return leaves.pop(kernel.path)

    def product(self, undamaged: Array, direction: Any, factor: Any, unit_axis: int) -> Array:
        """The product with one trial's damaged kernel; of what is silent nothing is left."""
        shape = [1] * undamaged.ndim
        shape[unit_axis] = -1
        factor = factor.reshape(shape)
        return jnp.where(factor == 0, jnp.zeros((), undamaged.dtype), undamaged * factor)

    def is_strange(self, overlaps: Any, factors: Array) -> Bool[Array, ""]:
        """Whether `product · factor` may be less accurate than the damaged kernel's product."""
        magnitude = jnp.abs(factors)
        usual = (magnitude >= 1 / RANGE) & (magnitude <= RANGE)
        return ~jnp.all((factors == 0) | usual)


WAYS: dict[str, Affine | PerUnit] = {each.name: each for each in (Affine(), PerUnit())}
"""How a perturbation can act linearly, by name."""
