"""The programs that every trial runs: a perturbation's draws, and what it makes of the leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import Mesh

from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.layers import Layer, Leaf
from jaxrobust.perturbations.base import Amounts, Leaves, Perturbation, fold_in_name
from jaxrobust.perturbations.compiled import Argument, program_for_trials
from jaxrobust.perturbations.linear import Affine, PerUnit
from jaxrobust.perturbations.random.threefry import written_out
from jaxrobust.runtime.meshes import TRIALS, WHOLE, divided, on_mesh


def trial_key(root: Any, perturbation: str, layer: str, seed: Any) -> Any:
    """The random key of one (root, perturbation, layer, seed), whatever else is run.

    Args:
        root: the root seed of the whole sweep; may be traced.
        seed: an int or an integer array [n], for n keys.
    """
    if isinstance(root, Tracer):
        key = _layer_key(root, perturbation, layer)
    else:
        key = _known_layer_key(root, perturbation, layer)
    return _fold_in_all(key, seed) if getattr(seed, "ndim", 0) else jax.random.fold_in(key, seed)


def _layer_key(root: Any, perturbation: str, layer: str) -> Any:
    key = jax.random.key(root, impl="threefry2x32")
    return fold_in_name(fold_in_name(key, perturbation), layer)


@lru_cache(maxsize=4096)
def _known_layer_key(root: int, perturbation: str, layer: str) -> Any:
    # Never a traced value, which would end with the trace that it was made in.
    with jax.ensure_compile_time_eval():
        return _layer_key(root, perturbation, layer)


_fold_in_all = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


@lru_cache(maxsize=4096)
def draw_program(
    perturbation: Perturbation, layer: Layer, mesh: Mesh | None = None
) -> Callable[[Array], Any]:
    """The compiled program `keys [seeds] -> noise [seeds, …]` of a layer without values.

    On a mesh every device draws for its part of the keys.
    """
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    return program_for_trials(_draw_of(perturbation, layer), (Argument(key, True, TRIALS),), mesh)


def _draw_of(perturbation: Perturbation, layer: Layer) -> Callable[[Any], Any]:
    def draw(key: Any) -> Any:
        if perturbation.draw is None:
            return ()
        # A few functions of `jax.random` take JAX's own keys only, and a user's draw may call them.
        own = written_out(key) if perturbation.is_built_in else key
        with jax.threefry_partitionable(True):
            return perturbation.draw(own, layer)

    return draw


def _apply(
    perturbation: Perturbation,
    mesh: Mesh | None,
    shared: Leaves,
    own: Leaves,
    noise: Any,
    rows: Any,
    amounts: Amounts,
) -> dict[str, Array]:
    """The damaged leaves of several trials, [trials, …] each.

    Leaves, amounts and results are dictionaries by path.

    Args:
        perturbation, mesh: what is done, and where. On a mesh every device has its part of the
            trials and of the noise, of which its rows are.
        shared: leaves that all trials share.
        own: leaves that each trial has its own of, [trials, …], because another layer of its group
            has damaged them already.
        noise: [seeds, …] of each array.
        rows: int32 [trials], which row of the noise a trial uses.
        amounts: [trials] of each leaf.
    """
    given = (shared, own, noise, rows, amounts)
    leaves, structure = jax.tree.flatten(given)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _apply_program(perturbation, mesh, structure, shapes)(*given)


@lru_cache(maxsize=4096)
def _apply_program(
    perturbation: Perturbation,
    mesh: Mesh | None,
    structure: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
) -> Callable[..., dict[str, Array]]:
    shared, own, noise, rows, amounts = jax.tree.unflatten(structure, shapes)

    def one_trial(shared: Leaves, own: Leaves, noise: Any, row: Any, amounts: Amounts) -> Any:
        noise = jax.tree.map(lambda rows: rows[row], noise)
        return dict(perturbation.apply({**shared, **own}, noise, amounts))

    def one(x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    def of_one_device(x: Any) -> Any:
        devices = 1 if mesh is None else mesh.shape["trial"]
        return jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype)

    arguments = (
        Argument(shared, False, WHOLE),
        Argument(jax.tree.map(one, own), True, TRIALS),
        Argument(jax.tree.map(of_one_device, noise), False, TRIALS),
        Argument(one(rows), True, TRIALS),
        Argument(jax.tree.map(one, amounts), True, TRIALS),
    )
    return program_for_trials(one_trial, arguments, mesh)


def draw_shapes(perturbation: Perturbation, layer: Layer) -> Any:
    """Shapes and dtypes of one seed's noise, without drawing it."""
    return _draw_shapes(perturbation, layer.without_values())


@lru_cache(maxsize=4096)
def _draw_shapes(perturbation: Perturbation, layer: Layer) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    return jax.eval_shape(_draw_of(perturbation, layer), key)


def check_fits(perturbation: Perturbation, layer: Layer, strengths: Sequence[Decimal]) -> None:
    """Checks, without running it, that a perturbation can be applied to a layer.

    Raises:
        SpecificationError: it touches nothing there, or its functions don't fit each other.
    """
    where = f"{perturbation.name} on layer {layer.name}"
    touched = {
        leaf.path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for leaf in perturbation.leaves(layer)
    }
    if not touched:
        raise SpecificationError(f"{where} touches no parameters: leave one of them out")
    amounts = [perturbation.amount(layer, strength) for strength in strengths]
    for path in {path for amount in amounts for path in amount} | set(touched):
        if not all(path in amount for amount in amounts) or path not in touched:
            raise SpecificationError(
                f"{where}: amounts must be for exactly the leaves that it touches, "
                f"{', '.join(touched)}; {path} is not in both"
            )
        if len({_is_count(amount[path]) for amount in amounts}) > 1:
            raise SpecificationError(
                f"{where}: amounts of {path} must be all whole numbers or all floats"
            )
    noise = draw_shapes(perturbation, layer)
    first = jax.tree.map(lambda values: values[0], _stack(amounts))
    made = jax.eval_shape(lambda *given: dict(perturbation.apply(*given)), touched, noise, first)
    for path in touched.keys() | made.keys():
        before, after = touched.get(path), made.get(path)
        if before is None or after is None or _kind(before) != _kind(after):
            raise SpecificationError(
                f"{where}: apply was given {path} as {before} and returned {after}; "
                "the same leaves, shapes and dtypes are needed"
            )
    if perturbation.linear:
        leaves = {leaf.path: leaf for leaf in perturbation.leaves(layer)}

        def made_of(units: Any) -> Any:
            return jax.eval_shape(perturbation.apply, units, noise, first)

        perturbation.linear.check(where, leaves, noise, made_of)


def _kind(array: Any) -> tuple[Any, Any]:
    return array.shape, array.dtype


def draw(
    perturbation: Perturbation,
    layers: Sequence[Layer],
    root: Any,
    seeds: Array | np.ndarray,
    mesh: Mesh | None = None,
) -> list[Any]:
    """The noise [seeds, …] of each layer for several seeds, int [seeds].

    On a mesh the seeds of its first device along `trial` come first, and so on.
    """
    return [
        draw_program(perturbation, layer.without_values(), mesh)(
            trial_key(root, perturbation.name, layer.name, seeds)
        )
        for layer in layers
    ]


def damage(
    perturbation: Perturbation,
    layers: Sequence[Layer],
    noise: Sequence[Any],
    seed_of: np.ndarray,
    strengths: Sequence[Decimal],
    mesh: Mesh | None = None,
) -> dict[str, Array]:
    """The damaged leaves of several trials, each on all the given layers.

    Args:
        perturbation: what is done.
        layers: what it is done to, one after the other.
        noise: what `draw` gave for these layers.
        seed_of: for each trial the row of the noise, int32 [trials]; on a mesh of its device's.
        strengths: for each trial its strength.
        mesh: the devices among which trials and noise are divided.

    Returns:
        Path -> damaged leaf [trials, …], for every leaf that the perturbation touches.
    """
    damaged: dict[str, Array] = {}
    for layer, rows in zip(layers, noise, strict=True):
        touched = {leaf.path: leaf for leaf in perturbation.leaves(layer)}
        shared = {path: leaf.value for path, leaf in touched.items() if path not in damaged}
        own = {
            path: _part(leaf.place, mesh)(damaged[path]) if leaf.place else damaged[path]
            for path, leaf in touched.items()
            if path in damaged
        }
        amounts = amounts_of(perturbation, layer, strengths)
        given = divided((seed_of, amounts), mesh, TRIALS)
        made = _apply(perturbation, mesh, shared, own, rows, *given)
        for path, part in made.items():
            if place := touched[path].place:
                before = damaged.get(path)
                put = _put_back(place, before is not None, mesh)
                made[path] = put(touched[path].whole if before is None else before, part)
        damaged |= made
    return damaged


def _index(place: tuple[int | None, ...]) -> tuple[Any, ...]:
    return tuple(slice(None) if taken is None else taken for taken in place)


@lru_cache(maxsize=4096)
def _part(place: tuple[int | None, ...], mesh: Mesh | None) -> Callable[[Array], Array]:
    """The compiled program that takes what lies at a place out of each trial's array."""
    return on_mesh(lambda whole: whole[:, *_index(place)], mesh, [TRIALS], TRIALS)


@lru_cache(maxsize=4096)
def _put_back(
    place: tuple[int | None, ...], own: bool, mesh: Mesh | None
) -> Callable[[Array, Array], Array]:
    """The compiled program that puts each trial's part back to its place in the whole array.

    Args:
        place: see `Leaf`.
        own: each trial has a whole array of its own, [trials, …].
        mesh: as in `damage`.
    """

    def put(whole: Array, parts: Array) -> Array:
        return whole.at[_index(place)].set(parts)

    every = jax.vmap(put, (0 if own else None, 0))
    return on_mesh(every, mesh, [TRIALS if own else WHOLE, TRIALS], TRIALS)


@dataclass(frozen=True)
class LinearDamage:
    """What several trials do to a layer whose kernel is damaged linearly.

    Attributes:
        acts: how each trial's product follows from that of the undamaged kernel.
        leaves: path -> damaged leaf [trials, …], of all touched leaves but the kernel.
        own: what each trial has of its own for that, [trials, …].
    """

    acts: Affine | PerUnit
    leaves: dict[str, Array]
    own: Any


def linear_damage(
    perturbation: Perturbation,
    layer: Layer,
    kernel: Leaf,
    noise: Any,
    seed_of: np.ndarray,
    strengths: Sequence[Decimal],
    mesh: Mesh | None = None,
) -> LinearDamage:
    """The damage of several trials, without their damaged kernels.

    Args:
        perturbation: one that `acts` linearly.
        layer: what it is done to.
        kernel: the leaf of the layer that enters a product.
        noise: what `draw` gave for the layer.
        seed_of, strengths, mesh: as for `damage`.
    """
    acts = perturbation.linear
    if acts is None:
        raise ValueError(f"{perturbation.name} does not act linearly")
    leaves = {leaf.path: leaf.value for leaf in perturbation.leaves(layer)}
    del leaves[kernel.path]
    leaves |= acts.stand_in(kernel)
    amounts = amounts_of(perturbation, layer, strengths)
    if leaves:
        given = divided((seed_of, amounts), mesh, TRIALS)
        leaves = _apply(perturbation, mesh, leaves, {}, noise, *given)
    return LinearDamage(acts, leaves, acts.own(kernel, leaves, amounts))


def amounts_of(
    perturbation: Perturbation, layer: Layer, strengths: Sequence[Decimal]
) -> dict[str, Any]:
    """For each leaf what several trials change: uint32 counts or float32 scales, [trials].

    Raises:
        SpecificationError: a strength is traced, and the perturbation needs exact ones.
    """
    if any(isinstance(strength, Tracer) for strength in strengths):
        return _stack([_traced_amount(perturbation, layer, strength) for strength in strengths])
    by_strength = {s: perturbation.amount(layer, s) for s in dict.fromkeys(strengths)}
    return _stack([by_strength[strength] for strength in strengths])


def _traced_amount(perturbation: Perturbation, layer: Layer, strength: Any) -> Amounts:
    try:
        return perturbation.amount(layer, strength)
    except (TypeError, ValueError, AttributeError) as error:
        raise SpecificationError(
            f"the amount of {perturbation.name} takes exact strengths (Decimal), and under jit, "
            f"vmap or grad a strength is a traced float32 ({first_line(error):.80}): give a "
            "number, or compute amounts with jax.numpy, entry_counts, unit_counts or scales"
        ) from error


def _stack(amounts: Sequence[Amounts]) -> dict[str, Any]:
    """Amounts of several trials as arrays [trials]: uint32 counts or float32 scales."""

    def stack(values: list[Any]) -> Any:
        kind = np.uint32 if _is_count(values[0]) else np.float32
        if any(isinstance(value, Tracer) for value in values):
            return jnp.stack(values).astype(kind)
        return np.asarray(values, kind)

    return {path: stack([amount[path] for amount in amounts]) for path in amounts[0]}


def _is_count(amount: Any) -> bool:
    return isinstance(amount, int) or jnp.issubdtype(getattr(amount, "dtype", float), jnp.integer)
