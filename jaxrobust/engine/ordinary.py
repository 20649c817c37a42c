"""Which trials may be computed in faster ways: those whose numbers are ordinary.

Winograd's convolutions, and products that trials share, are as accurate as the definition while no
number is far greater than the undamaged network's, or cancelled to far less. A bit flip can make a
weight of 1e38: its trials are recognised by what they compute, and computed again plainly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float

RANGE = 64.0
"""How many times the undamaged network's largest number an ordinary number is at most.

Rounding errors grow as much: to 64 millionths of the largest output in Winograd's convolutions."""


def are_ordinary(
    peaks: Float[Array, " arrays"], limits: Float[Array, " arrays"]
) -> Bool[Array, ""]:
    """Whether the largest magnitude in each array is within its limit."""
    return jnp.all(peaks <= limits)


def unit_peaks(product: Array, unit_axis: int) -> Float[Array, " units"]:
    """The largest magnitude of each output unit; infinite where one is not a number."""
    others = tuple(axis for axis in range(product.ndim) if axis != unit_axis % product.ndim)
    magnitude = jnp.where(jnp.isnan(product), jnp.inf, jnp.abs(product))
    return jnp.max(magnitude, axis=others, initial=0)


def may_be_added(
    mixed: Float[Array, " units"], undamaged: Float[Array, " units"]
) -> Bool[Array, ""]:
    """Whether `product + scale · direction` is as accurate as the product with the damaged kernel.

    Args:
        mixed, undamaged: the `unit_peaks` of that sum, and of the product alone.
    """
    within = jnp.all(mixed <= RANGE * jnp.max(undamaged, initial=0)) & jnp.all(jnp.isfinite(mixed))
    return within & jnp.all(RANGE * mixed >= undamaged)


def may_be_multiplied(
    factors: Float[Array, " units"], undamaged: Float[Array, " units"]
) -> Bool[Array, ""]:
    """Whether `product · factor` is as accurate as the product with the damaged kernel.

    Args:
        factors: of each unit, 0 for one that is silent.
        undamaged: the `unit_peaks` of the product.
    """
    magnitude = jnp.abs(factors)
    usual = (magnitude >= 1 / RANGE) & (magnitude <= RANGE)
    # An infinite number times 0 is not a number; of the product alone it cannot be seen.
    return jnp.all((factors == 0) | usual) & jnp.all(jnp.isfinite(undamaged))
