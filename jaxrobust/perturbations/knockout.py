"""Knockouts: a fraction of synapses or of nodes set to zero."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import Layer, Leaf
from jaxrobust.perturbations.base import (
    Amounts,
    Leaves,
    entry_counts,
    fold_in_name,
    perturbation,
    unit_counts,
)
from jaxrobust.perturbations.random.ranks import random_ranks


def _zero_below(leaves: Leaves, ranks: dict[str, Array], counts: Amounts) -> Leaves:
    return {
        path: jnp.where(ranks[path] < counts[path], jnp.zeros((), leaf.dtype), leaf)
        for path, leaf in leaves.items()
    }


def _entry_ranks(key: Any, layer: Layer) -> dict[str, Array]:
    return {
        leaf.path: random_ranks(fold_in_name(key, leaf.name), leaf.size).reshape(leaf.shape)
        for leaf in layer.leaves
    }


def _unit_ranks(key: Any, layer: Layer, leaves: tuple[Leaf, ...]) -> dict[str, Array]:
    ranks = random_ranks(key, layer.units)
    for leaf in leaves:
        if leaf.units != layer.units:
            raise SpecificationError(
                f"layer {layer.name}: {leaf.path} has {leaf.units} output units, but the layer "
                f"has {layer.units}: nodes cannot be knocked out in both; leave the layer out, or "
                "make it two layers with leaves_of"
            )
    return {leaf.path: leaf.per_unit(ranks) for leaf in leaves}


@perturbation("synapse_knockout", amount=entry_counts, draw=_entry_ranks, version=1)
def synapse_knockout(leaves: Leaves, noise: dict[str, Array], amounts: Amounts) -> Leaves:
    """Sets floor(p · size) entries of each leaf, chosen without replacement, to zero.

    Kernel W and bias b are each treated on their own: W[i] = 0 where rank(i) < floor(p · size(W)),
    the ranks a random permutation; what is gone at one fraction is gone at every larger one.
    Source: Cheney, Schrimpf and Kreiman (2017), synapse knockout.
    """
    return _zero_below(leaves, noise, amounts)


def _before_normalisation(layer: Layer) -> str:
    if not layer.normalisation:
        return ""
    norm = layer.normalisation[0].path.rsplit("/", 1)[0]
    return (
        f"node_knockout on {layer.name}: the normalisation {norm} that follows turns the zeros of "
        "knocked-out units into other constants; unit_silencing silences them"
    )


@perturbation(
    "node_knockout",
    amount=unit_counts,
    draw=lambda key, layer: _unit_ranks(key, layer, layer.leaves),
    acts="units",
    warning=_before_normalisation,
    version=1,
)
def node_knockout(leaves: Leaves, noise: dict[str, Array], amounts: Amounts) -> Leaves:
    """Sets all incoming weights and the bias of floor(p · units) output units to zero.

    W[…, u] = 0 and b[u] = 0 where rank(u) < floor(p · units): one random order of the units for
    both. Source: Cheney, Schrimpf and Kreiman (2017), node knockout.
    """
    return _zero_below(leaves, noise, amounts)


def _with_normalisation(layer: Layer) -> tuple[Leaf, ...]:
    return layer.leaves + layer.normalisation


def _unit_counts_with_normalisation(layer: Layer, strength: Any) -> Amounts:
    count = next(iter(unit_counts(layer, strength).values()))
    return dict.fromkeys((leaf.path for leaf in _with_normalisation(layer)), count)


@perturbation(
    "unit_silencing",
    amount=_unit_counts_with_normalisation,
    draw=lambda key, layer: _unit_ranks(key, layer, _with_normalisation(layer)),
    leaves=_with_normalisation,
    acts="units",
    version=1,
)
def unit_silencing(leaves: Leaves, noise: dict[str, Array], amounts: Amounts) -> Leaves:
    """Node knockout that also zeroes scale and bias of the normalisation that follows.

    W[…, u] = 0, b[u] = 0, and γ[u] = 0, β[u] = 0 of a normalisation layer that reads this layer
    alone, where rank(u) < floor(p · units): a knocked-out unit before batch normalisation would
    otherwise still send on a constant.
    """
    return _zero_below(leaves, noise, amounts)
