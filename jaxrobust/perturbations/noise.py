"""Gaussian noise on the weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrobust.layers import Layer, Leaf
from jaxrobust.perturbations.base import Amounts, Leaves, fold_in_name, perturbation
from jaxrobust.perturbations.shares import scale


def _standard_deviations(layer: Layer, strength: Any) -> Amounts:
    return {leaf.path: scale(strength) * leaf.std for leaf in layer.leaves}


def _directions(key: Any, layer: Layer) -> dict[str, Array]:
    # Flat, then reshaped: the compiler takes four times as long over random arrays of rank 4.
    def direction(leaf: Leaf) -> Array:
        flat = jax.random.normal(fold_in_name(key, leaf.name), (leaf.size,), jnp.float32)
        return flat.reshape(leaf.shape)

    return {leaf.path: direction(leaf) for leaf in layer.leaves}


@perturbation(
    "weight_noise",
    amount=_standard_deviations,
    draw=_directions,
    high=10.0,
    strengths="0:2:0.2",
    acts="affine",
    version=1,
)
def weight_noise(leaves: Leaves, noise: dict[str, Array], amounts: Amounts) -> Leaves:
    """Adds Gaussian noise whose standard deviation is a multiple of the tensor's own.

    W + s · std(W) · N and b + s · std(b) · N with N of independent standard normal entries, the
    same N at every strength s; std is the population standard deviation of the whole tensor, so a
    constant tensor stays as it is.
    Source: Cheney, Schrimpf and Kreiman (2017), weight perturbation ("mutate Gaussian").
    """
    return {
        path: (leaf.astype(jnp.float32) + amounts[path] * noise[path]).astype(leaf.dtype)
        for path, leaf in leaves.items()
    }
