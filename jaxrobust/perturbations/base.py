"""What a perturbation is, the registry of them, and the programs that every trial runs."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.layers import Layer, Leaf

Leaves = Mapping[str, Array]
Amounts = dict[str, Any]
Draw = Callable[[Any, Layer], Any]


def own_leaves(layer: Layer) -> tuple[Leaf, ...]:
    """The damageable leaves of the layer itself: what a perturbation touches by default."""
    return layer.leaves


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A kind of damage, as three pure functions.

    Attributes:
        name: what results call it; its draws depend on it.
        amount: `(layer, strength) -> {leaf path: count or scale}`, on the host, the strength an
            exact `Decimal`. Counts are Python ints, scales Python floats.
        draw: `(key, layer) -> noise`, a pytree of arrays that does not depend on the strength;
            the layer carries shapes but no values there. None: the perturbation is deterministic.
        apply: `(leaves, noise, amounts) -> leaves`, on dictionaries by leaf path; pure.
        low, high: the range of strengths.
        strengths: a default grid, `start:stop:step`, both ends included.
        identity: the strength that changes nothing; it is never run.
        leaves: which leaves of a layer it touches.
        warning: `(layer) -> text`: what a user should know about this layer, or "".
        import_path: `module:attribute` for one that isn't built in, so that results can name it.
    """

    name: str
    amount: Callable[[Layer, Decimal], Amounts]
    draw: Draw | None
    apply: Callable[[Leaves, Any, Amounts], Leaves]
    low: float = 0.0
    high: float = 1.0
    strengths: str = "0:0.9:0.1"
    identity: float = 0.0
    leaves: Callable[[Layer], tuple[Leaf, ...]] = own_leaves
    warning: Callable[[Layer], str] = lambda layer: ""
    import_path: str | None = None

    @property
    def description(self) -> str:
        """The documentation of what it does: the docstring of `apply`."""
        return inspect.getdoc(self.apply) or ""

    def check(self, strength: Decimal) -> None:
        """Raises SpecificationError for a strength outside the range."""
        if not Decimal(str(self.low)) <= strength <= Decimal(str(self.high)):
            raise SpecificationError(
                f"strength {strength} of {self.name} is outside its range "
                f"{self.low:g} to {self.high:g}"
            )


REGISTRY: dict[str, Perturbation] = {}


def perturbation(
    name: str, *, amount: Callable[[Layer, Decimal], Amounts], draw: Draw | None, **options: Any
) -> Callable[[Callable[[Leaves, Any, Amounts], Leaves]], Perturbation]:
    """Registers a perturbation; decorates its `apply`.

    Args:
        name: its name in the registry, on the command line and in results.
        amount, draw: see `Perturbation`.
        options: further fields of `Perturbation`.

    Example:
        >>> from jaxrobust.perturbations import REGISTRY, perturbation, scales
        >>> @perturbation("shrink", amount=scales, draw=None, high=1)
        ... def shrink(leaves, noise, amounts):
        ...     "Every entry times 1 - strength."
        ...     return {path: leaf * (1 - amounts[path]) for path, leaf in leaves.items()}
        >>> REGISTRY.pop("shrink").description
        'Every entry times 1 - strength.'
    """

    def register(apply: Callable[[Leaves, Any, Amounts], Leaves]) -> Perturbation:
        built_in = apply.__module__.startswith("jaxrobust.")
        if not built_in and name in REGISTRY and REGISTRY[name].import_path is None:
            raise SpecificationError(f"{name} is a built-in perturbation: choose another name")
        path = None if built_in else f"{apply.__module__}:{apply.__qualname__}"
        made = Perturbation(name, amount, draw, apply, import_path=path, **options)
        REGISTRY[name] = made
        return made

    return register


def find(wanted: str | Perturbation) -> Perturbation:
    """A perturbation by its name in the registry or its import path `module:attribute`.

    Raises:
        SpecificationError: nothing of that name.
    """
    if isinstance(wanted, Perturbation):
        return wanted
    if wanted in REGISTRY:
        return REGISTRY[wanted]
    module, _, attribute = wanted.partition(":")
    if not attribute:
        raise SpecificationError(
            unknown("perturbation", wanted, REGISTRY) + ", or the import path module:attribute"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SpecificationError(f"cannot import the perturbation {wanted!r}: {error}") from None
    if not isinstance(found, Perturbation):
        raise SpecificationError(
            f"{wanted!r} is a {type(found).__name__}, not a jaxrobust.Perturbation"
        )
    return found


def decimal(strength: Any) -> Decimal:
    """A strength as the decimal number that its shortest notation says: 0.29 is 29/100.

    Raises:
        SpecificationError: not a finite number.
    """
    try:
        if not isinstance(strength, str | numbers.Number):
            strength = np.asarray(strength)[()]
        exact = Decimal(str(strength))
    except (InvalidOperation, TypeError, ValueError):
        raise SpecificationError(f"strength {strength!r} is not a number") from None
    if not exact.is_finite():
        raise SpecificationError(f"strength {strength!r} is not a finite number")
    return exact


def entry_counts(layer: Layer, strength: Decimal) -> Amounts:
    """floor(strength · entries) of each leaf, exactly."""
    return {leaf.path: _floor(strength * leaf.size) for leaf in layer.leaves}


def unit_counts(layer: Layer, strength: Decimal) -> Amounts:
    """floor(strength · output units) for each leaf, exactly."""
    return dict.fromkeys((leaf.path for leaf in layer.leaves), _floor(strength * layer.units))


def scales(layer: Layer, strength: Decimal) -> Amounts:
    """The strength itself for each leaf."""
    return dict.fromkeys((leaf.path for leaf in layer.leaves), float(strength))


def _floor(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_FLOOR))


def fold_in_name(key: Any, name: str) -> Any:
    """Folds a name into a key through a hash that is the same everywhere and for ever."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return jax.random.fold_in(key, int.from_bytes(digest, "little"))


def trial_key(root: int, perturbation: str, layer: str, seed: Any) -> Any:
    """The random key of one (root, perturbation, layer, seed), whatever else is run.

    Args:
        root: the root seed of the whole sweep.
        seed: an int or an integer array [n], for n keys.
    """
    key = jax.random.key(root, impl="threefry2x32")
    key = fold_in_name(fold_in_name(key, perturbation), layer)
    if getattr(seed, "ndim", 0):
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(seed)
    return jax.random.fold_in(key, seed)


@lru_cache(maxsize=4096)
def draw_program(perturbation: Perturbation, layer: Layer) -> Callable[[Array], Any]:
    """The compiled program `keys [seeds] -> noise [seeds, …]` of a layer without values."""
    draw = perturbation.draw or (lambda key, layer: ())

    def draws(keys: Array) -> Any:
        with jax.threefry_partitionable(True):
            return jax.vmap(lambda key: draw(key, layer))(keys)

    return jax.jit(draws)


@lru_cache(maxsize=4096)
def apply_program(perturbation: Perturbation) -> Callable[..., dict[str, Array]]:
    """The compiled program `(shared leaves, own leaves, noise, seed_of [trials], amounts)`.

    It returns the damaged leaves, [trials, …] each. Leaves, amounts and results are dictionaries
    by path; `seed_of` says which row of the noise a trial uses. Leaves come in two parts: those
    that all trials share, and those that each trial has its own of, [trials, …], because another
    layer of its group has damaged them already.
    """

    def one_trial(shared: Leaves, own: Leaves, noise: Any, row: Any, amounts: Amounts) -> Any:
        noise = jax.tree.map(lambda rows: rows[row], noise)
        return dict(perturbation.apply({**shared, **own}, noise, amounts))

    return jax.jit(jax.vmap(one_trial, in_axes=(None, 0, None, 0, 0)))


def draw_shapes(perturbation: Perturbation, layer: Layer) -> Any:
    """Shapes and dtypes of one seed's noise, without drawing it."""
    keys = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")[None])
    noise = jax.eval_shape(draw_program(perturbation, layer.without_values()), keys)
    return jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), noise)


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
        if (
            before is None
            or after is None
            or (before.shape, before.dtype)
            != (
                after.shape,
                after.dtype,
            )
        ):
            raise SpecificationError(
                f"{where}: apply was given {path} as {before} and returned {after}; "
                "the same leaves, shapes and dtypes are needed"
            )


def draw(
    perturbation: Perturbation, layers: Sequence[Layer], root: int, seeds: Array | np.ndarray
) -> list[Any]:
    """The noise [seeds, …] of each layer for several seeds, int [seeds]."""
    return [
        draw_program(perturbation, layer.without_values())(
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
) -> dict[str, Array]:
    """The damaged leaves of several trials, each on all the given layers.

    Args:
        perturbation: what is done.
        layers: what it is done to, one after the other.
        noise: what `draw` gave for these layers.
        seed_of: for each trial the row of the noise, int32 [trials].
        strengths: for each trial its strength.

    Returns:
        Path -> damaged leaf [trials, …], for every leaf that the perturbation touches.
    """
    damaged: dict[str, Array] = {}
    for layer, rows in zip(layers, noise, strict=True):
        touched = perturbation.leaves(layer)
        shared = {leaf.path: leaf.value for leaf in touched if leaf.path not in damaged}
        own = {leaf.path: damaged[leaf.path] for leaf in touched if leaf.path in damaged}
        by_strength = {s: perturbation.amount(layer, s) for s in dict.fromkeys(strengths)}
        amounts = _stack([by_strength[strength] for strength in strengths])
        damaged |= apply_program(perturbation)(shared, own, rows, seed_of, amounts)
    return damaged


def _stack(amounts: Sequence[Amounts]) -> dict[str, Any]:
    """Amounts of several trials as arrays [trials]: uint32 counts or float32 scales."""

    def stack(values: list[Any]) -> Any:
        if any(isinstance(value, Tracer) for value in values):
            return jnp.stack(values)
        return np.asarray(values, np.uint32 if _is_count(values[0]) else np.float32)

    return {path: stack([amount[path] for amount in amounts]) for path in amounts[0]}


def _is_count(amount: Any) -> bool:
    return isinstance(amount, int | np.integer)
