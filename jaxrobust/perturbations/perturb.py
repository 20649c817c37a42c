"""Damaging a network once, and saying what that does."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.adapters import described, is_module
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.text import aligned
from jaxrobust.layers import Layer, LayerTable, Selector, layer_table, leaf_paths, select
from jaxrobust.network import Network, check_network
from jaxrobust.parameters import as_arrays
from jaxrobust.perturbations.base import Perturbation, decimal, find
from jaxrobust.perturbations.trials import damage, draw


def perturb(
    network: Any,
    perturbation: str | Perturbation,
    *,
    layer: Selector,
    strength: Any,
    seed: Any = 0,
    root: Any = 0,
) -> Any:
    """Damages one layer, or several together, and returns the whole parameter pytree.

    The weights are those of the same trial in a sweep with the same root, to the bit.

    Strength, seed and root may be traced, under `jax.jit`, `jax.vmap` or `jax.grad`. A traced
    strength is a float32 whose range cannot be checked; the count of a knockout is then exact to
    float32: that of the decimal number which the float32 stands for, up to a few entries in ten
    million.

    Args:
        network: a `Network`, or a bare parameter pytree (roles then follow from names and rank;
            float64 becomes float32, as in a `Network`).
        perturbation: a name in the registry, an import path, or a `Perturbation`.
        layer: a layer's name, one depth of a stack (`blocks/fc[1]`) or a selector; all that it
            matches is damaged together.
        strength: a number, a Decimal or its notation, within the perturbation's range.
        seed: the index of the random draw.
        root: the root seed.

    Returns:
        A pytree like `network.params`; leaves that were not damaged are the same objects.

    Raises:
        SpecificationError: an unknown perturbation or layer, a strength outside the range, a traced
            strength of a perturbation whose `amount` needs an exact one, a traced array of several
            strengths, seeds or roots (`jax.vmap` runs several), no network.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)}}
        >>> damaged = perturb(params, "synapse_knockout", layer="dense", strength=0.3)
        >>> int(damaged["dense"]["kernel"].sum()), int(damaged["dense"]["bias"].sum())
        (14, 4)
    """
    if isinstance(network, Network):
        params, table = network.params, network.layers
    elif is_module(network) or isinstance(network, str | PathLike | type) or callable(network):
        raise SpecificationError(
            f"a jaxrobust.Network or its parameters are needed, not {described(network)}"
        )
    else:  # a bare pytree, perhaps Flax Linen's, with its collections on top
        linen = isinstance(network, Mapping) and "params" in network
        params = as_arrays(network, "the parameters")
        table = layer_table(params, collections=linen)
    wanted = find(perturbation)
    damaged = _one_trial(_together(table, layer), wanted, _strength(wanted, strength), seed, root)
    leaves, structure = jax.tree.flatten(params)
    for index, path in enumerate(leaf_paths(params)):
        leaves[index] = damaged.get(path, leaves[index])
    return jax.tree.unflatten(structure, leaves)


def _together(table: LayerTable, selector: Selector) -> list[Layer]:
    names = dict.fromkeys(name for group in select(table, selector).values() for name in group)
    return [table[name] for name in names]


def _strength(perturbation: Perturbation, strength: Any) -> Any:
    """The exact number, within its range, or a traced float32."""
    if isinstance(strength, Tracer):
        _check_one("strength", strength)
        return strength.astype(jnp.float32)
    exact = decimal(strength)
    perturbation.check(exact)
    return exact


def _check_one(name: str, traced: Tracer) -> None:
    """Raises SpecificationError for a traced array: what it would be damaged by is no number."""
    if traced.shape != ():
        raise SpecificationError(
            f"{name}: one number of shape () is needed, not a traced array of shape "
            f"{traced.shape}; jax.vmap over {name} runs several"
        )


def _index(name: str, value: Any) -> Any:
    """A whole number of 32 bits, or a traced one."""
    try:
        if isinstance(value, Tracer) and jnp.issubdtype(value.dtype, jnp.integer):
            _check_one(name, value)
            return value
        number = operator.index(np.asarray(value)[()])
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise SpecificationError(f"{name} {value}: a whole number from 0 to 2^32 - 1 is needed")
    return number


def _one_trial(
    layers: list[Layer], perturbation: Perturbation, strength: Any, seed: Any, root: Any
) -> dict[str, Any]:
    seed, root = _index("seed", seed), _index("root", root)
    if isinstance(strength, Decimal) and strength == decimal(perturbation.identity):
        return {}
    traced = isinstance(seed, Tracer)
    seeds = seed[None] if traced else np.asarray([seed], np.uint32)
    noise = draw(perturbation, layers, root, seeds)
    damaged = damage(perturbation, layers, noise, np.zeros(1, np.int32), [strength])
    return {path: leaf[0] for path, leaf in damaged.items()}


@dataclass(frozen=True)
class Description:
    """What one trial does to a network; prints as a table.

    Attributes:
        title: the trial in words.
        rows: per touched leaf: path, role, entries, amount (a count or a scale), entries that
            differ from the undamaged ones.
        notes: what a user should know.
    """

    title: str
    rows: tuple[tuple[str, str, int, float, int], ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        table = [("leaf", "role", "entries", "amount", "changed")]
        for path, role, entries, amount, changed in self.rows:
            table.append((path, role, f"{entries:,}", f"{amount:.6g}", f"{changed:,}"))
        return "\n".join([self.title, aligned(table), *self.notes])


def describe(
    network: Network,
    perturbation: str | Perturbation,
    *,
    layer: Selector,
    strength: Any,
    seed: int = 0,
    root: int = 0,
) -> Description:
    """Says which leaves a perturbation touches and how many of their entries it changes.

    Args:
        network, perturbation, layer, strength, seed, root: as for `perturb`.

    Raises:
        SpecificationError: as `perturb`.
    """
    check_network(network)
    wanted = find(perturbation)
    exact = _strength(wanted, strength)
    layers = _together(network.layers, layer)
    damaged = _one_trial(layers, wanted, exact, seed, root)
    rows = {}
    for each in layers:
        amounts = wanted.amount(each, exact)
        for leaf in wanted.leaves(each):
            after = np.asarray(
                leaf.part(damaged[leaf.path]) if leaf.path in damaged else leaf.value
            )
            changed = int(np.count_nonzero(after != np.asarray(leaf.value)))
            rows[leaf.path] = (leaf.path, leaf.role, leaf.size, amounts[leaf.path], changed)
    notes = [wanted.warning(each) for each in layers]
    notes += [
        f"{each.name} is used inside {each.loop}: it is damaged, but nothing is hoisted out of it"
        for each in layers
        if each.loop is not None
    ]
    names = ", ".join(each.name for each in layers)
    title = f"{wanted.name} of {names} at strength {exact}, seed {seed}"
    return Description(title, tuple(rows.values()), tuple(note for note in notes if note))
