"""Shares of whole numbers: exact, also of a strength that JAX traces, as far as float32 tells."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer


def floor_share(strength: Any, total: int) -> Any:
    """floor(strength · total).

    Args:
        strength: a Decimal, or a traced float32 from 0 to 1.
        total: how many there are, below 2^32.

    Returns:
        An int, exactly. Of a traced strength a traced uint32: the largest count whose share of the
        total is no greater than the strength as float32 numbers. That is the exact count wherever
        strength · total is a whole number, and elsewhere too, but for a few in ten million.
    """
    if isinstance(strength, Tracer):
        return _traced_share(strength, total)
    return int((strength * total).to_integral_value(ROUND_FLOOR))


def scale(strength: Any) -> Any:
    """A strength as a float, or as it is where it is traced."""
    return float(strength) if isinstance(strength, Decimal) else strength


def _traced_share(strength: Array, total: int) -> Array:
    """floor(total · (strength + half of its last bit)) in whole numbers, the same on every device.

    With a strength of mantissa m and exponent e that is total · (2m + 1) >> (-e + 1), of which the
    product has up to 57 bits.
    """
    bits = jax.lax.bitcast_convert_type(jnp.clip(strength, 0.0, 1.0), jnp.uint32)
    odd = ((bits & _u32(0x7FFFFF)) | _u32(0x800000)) * _u32(2) + _u32(1)
    shift = _u32(151) - jnp.minimum(bits >> _u32(23), _u32(127))
    high, low = _product(odd, total)
    # The shift is 24 or more; one by 32 bits or more is not defined.
    few, many = jnp.minimum(shift, _u32(31)), jnp.clip(shift, _u32(32), _u32(63)) - _u32(32)
    count = jnp.where(shift < _u32(32), (high << (_u32(32) - few)) | (low >> few), high >> many)
    count = jnp.where((shift < _u32(32)) & (high >> few > _u32(0)), _u32(total), count)
    count = jnp.where(shift < _u32(64), jnp.minimum(count, _u32(total)), _u32(0))
    return jnp.where(strength > 0, count, _u32(0))


def _product(value: Array, total: int) -> tuple[Array, Array]:
    """The upper and the lower 32 bits of a product."""
    ones, sixteen = _u32(0xFFFF), _u32(16)
    value_high, value_low = value >> sixteen, value & ones
    total_high, total_low = _u32(total >> 16), _u32(total & 0xFFFF)
    first = total_high * value_low + (total_low * value_low >> sixteen)
    second = total_low * value_high + (first & ones)
    high = total_high * value_high + (first >> sixteen) + (second >> sixteen)
    return high, value * _u32(total)


def _u32(number: int) -> Array:
    return jnp.uint32(number)
