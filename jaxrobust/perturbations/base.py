"""What a perturbation is, and the registry of them."""

from __future__ import annotations

import hashlib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import jax
import numpy as np
from jax import Array

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.ground.importing import imported
from jaxrobust.ground.names import check_name
from jaxrobust.layers import Layer, Leaf
from jaxrobust.perturbations.linear import WAYS, Affine, PerUnit
from jaxrobust.perturbations.shares import floor_share, scale

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
            exact `Decimal`. Counts are Python ints, scales Python floats. Under `jax.jit`, `vmap`
            and `grad` over a strength it is a traced float32, and so may the amounts be.
        draw: `(key, layer) -> noise`, a pytree of arrays that does not depend on the strength;
            the layer carries shapes but no values there. None: the perturbation is deterministic.
        apply: `(leaves, noise, amounts) -> leaves`, on dictionaries by leaf path; pure.
        low, high: the range of strengths.
        strengths: a default grid, `start:stop:step`, both ends included.
        identity: the strength that changes nothing; it is never run.
        leaves: which leaves of a layer it touches.
        acts: how it acts on a leaf, if linearly, so that trials can share a product with the
            damaged kernel: "affine" if `apply` adds `amounts[path] * noise[path]`, "units" if it
            multiplies all entries of an output unit by one factor. Each leaf must then be treated
            on its own, whichever others are given. None is always right.
        warning: `(layer) -> text`: what a user should know about this layer, or "".
        import_path: `module:attribute` for one that isn't built in, so that results can name it.
        version: of a built-in one, changes when its numbers do; what others compute is traced.
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
    acts: Literal["affine", "units"] | None = None
    warning: Callable[[Layer], str] = lambda layer: ""
    import_path: str | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        check_name("perturbation", self.name)
        if not self.name:
            raise SpecificationError("a perturbation needs a name")
        if self.acts not in (None, *WAYS):
            raise SpecificationError(unknown("way to act", str(self.acts), WAYS))

    @property
    def linear(self) -> Affine | PerUnit | None:
        """How it acts on a leaf, if linearly."""
        return None if self.acts is None else WAYS[self.acts]

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of jaxrobust's own, and not another one of the same name."""
        own = self.version is not None and self.import_path is None
        return own and REGISTRY.get(self.name) is self

    @property
    def description(self) -> str:
        """The documentation of what it does: the docstring of `apply`."""
        return inspect.getdoc(self.apply) or ""

    def touched(self, layers: Iterable[Layer]) -> tuple[str, ...]:
        """The paths of all leaves that it changes in these layers, sorted."""
        return tuple(sorted({leaf.path for layer in layers for leaf in self.leaves(layer)}))

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
    if not all(wanted.partition(":")):
        raise SpecificationError(
            unknown("perturbation", wanted, REGISTRY) + ", or the import path module:attribute"
        )
    found = imported("perturbation", wanted)
    if not isinstance(found, Perturbation):
        raise SpecificationError(
            f"{wanted!r} is a {type(found).__name__}, not a jaxrobust.Perturbation"
        )
    return found


def decimal(strength: Any) -> Decimal:
    """A strength as the decimal number that its shortest notation says: 0.29 is 29/100.

    A float that arithmetic has left beside a short decimal number, within its rounding, is that
    number: of `np.arange(0, 1, 0.1)` the fourth is 0.30000000000000004, but 3/10 here.

    Raises:
        SpecificationError: not a finite number.

    Example:
        >>> str(decimal(0.1 + 0.2)), str(decimal(np.float32(0.7) + np.float32(6e-8)))
        ('0.3', '0.7')
        >>> str(decimal("0.30000000000000004")), str(decimal(1 / 3))
        ('0.30000000000000004', '0.3333333333333333')
    """
    try:
        if not isinstance(strength, str | numbers.Number):
            strength = np.asarray(strength)[()]
        exact = Decimal(str(strength))
    except (InvalidOperation, TypeError, ValueError):
        raise SpecificationError(f"strength {strength!r} is not a number") from None
    if not (exact.is_finite() and math.isfinite(float(exact))):
        raise SpecificationError(f"strength {strength!r} is not a finite number")
    return (
        _without_rounding(exact, strength) if isinstance(strength, float | np.floating) else exact
    )


def _without_rounding(exact: Decimal, value: float | np.floating) -> Decimal:
    """The decimal of at most 10 (in float32 4) digits that a float is within rounding of, if any.

    A float that was written down has few digits; one with all that its type can hold came from
    arithmetic, a few steps of which leave four units in the last place at most. In float64 these
    may be of numbers up to 1 of which it is the difference.
    """
    kind = np.finfo(np.asarray(value).dtype)
    if len(exact.as_tuple().digits) < kind.precision:
        return exact
    rounding, size = 4 * Decimal(float(kind.eps)), abs(exact)
    if kind.bits == 64 and size < rounding:
        return Decimal(0)
    if kind.bits == 64 and size > Decimal("0.001"):
        size = max(size, Decimal(1))
    short = Decimal(str(float(f"{exact:.{kind.precision * 2 // 3 - 1}e}")))
    return short if abs(short - exact) <= rounding * size else exact


def entry_counts(layer: Layer, strength: Any) -> Amounts:
    """floor(strength · entries) of each leaf, exactly; of a traced strength exact to float32."""
    return {leaf.path: floor_share(strength, leaf.size) for leaf in layer.leaves}


def unit_counts(layer: Layer, strength: Any) -> Amounts:
    """floor(strength · output units) for each leaf, exactly; of a traced one exact to float32."""
    count = floor_share(strength, layer.units)
    return dict.fromkeys((leaf.path for leaf in layer.leaves), count)


def scales(layer: Layer, strength: Any) -> Amounts:
    """The strength itself for each leaf."""
    return dict.fromkeys((leaf.path for leaf in layer.leaves), scale(strength))


def fold_in_name(key: Any, name: str) -> Any:
    """Folds a name into a key through a hash that is the same everywhere and for ever."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return jax.random.fold_in(key, int.from_bytes(digest, "little"))
