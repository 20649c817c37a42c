"""Overwriting weights with other weights of the same tensor."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxrobust.layers import Layer
from jaxrobust.perturbations.base import Amounts, Leaves, entry_counts, fold_in_name, perturbation
from jaxrobust.perturbations.random.ranks import random_ranks


def _positions_and_sources(key: Any, layer: Layer) -> dict[str, tuple[Array, Array]]:
    def of(key: Any, size: int) -> tuple[Array, Array]:
        return (
            random_ranks(fold_in_name(key, "positions"), size),
            random_ranks(fold_in_name(key, "sources"), size),
        )

    return {leaf.path: of(fold_in_name(key, leaf.name), leaf.size) for leaf in layer.leaves}


@perturbation("resample", amount=entry_counts, draw=_positions_and_sources, version=1)
def resample(leaves: Leaves, noise: dict[str, tuple[Array, Array]], amounts: Amounts) -> Leaves:
    """Overwrites floor(p · size) entries of each leaf with values drawn from the same leaf.

    W'[i] = W[σ(i)] where rank(i) < floor(p · size(W)), with rank and σ two independent random
    permutations: positions and values are both drawn without replacement, the values from the
    unmodified tensor. Source: Cheney, Schrimpf and Kreiman (2017), "draw".
    """

    def overwritten(path: str, leaf: Array) -> Array:
        ranks, sources = noise[path]
        flat = leaf.reshape(-1)
        return jnp.where(ranks < amounts[path], flat[sources], flat).reshape(leaf.shape)

    return {path: overwritten(path, leaf) for path, leaf in leaves.items()}
