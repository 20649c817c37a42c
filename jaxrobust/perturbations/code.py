"""What a perturbation computes: a part of the identity of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

import jax

from jaxrobust.layers import Layer
from jaxrobust.perturbations.base import Perturbation
from jaxrobust.perturbations.trials import amounts_of, draw_shapes
from jaxrobust.program.digests import digest, digest_of

Code = tuple[tuple[str, str, str], ...]
"""What has code, which part of it, and the digest of what that computes."""


def code_of(
    perturbation: Perturbation, layers: Iterable[Layer], strengths: Sequence[Decimal]
) -> Code:
    """The parts of a perturbation and what each computes on some layers.

    Those of a built-in one have a version together; others are traced, none of them is run.

    Args:
        perturbation: one that fits these layers (`check_fits`).
        layers, strengths: of a sweep.
    """
    what = f"perturbation {perturbation.name}"
    if perturbation.is_built_in:
        return ((what, "version", str(perturbation.version)),)
    amounts, draws, applied = [], [], [str(perturbation.identity), str(perturbation.acts)]
    for layer in layers:
        found = amounts_of(perturbation, layer, strengths)
        amounts.append(found)
        draws.append(_draw(perturbation, layer.without_values()))
        touched = {
            leaf.path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            for leaf in perturbation.leaves(layer)
        }
        one_trial = jax.tree.map(lambda values: values[0], found)
        noise = draw_shapes(perturbation, layer)
        applied.append(
            digest_of(lambda *given: dict(perturbation.apply(*given)), touched, noise, one_trial)
        )
    parts = {"amount": amounts, "draw": draws, "apply": applied}
    return tuple((what, part, digest(found)) for part, found in parts.items())


def _draw(perturbation: Perturbation, layer: Layer) -> str:
    draw = perturbation.draw
    if draw is None:
        return "deterministic"
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    with jax.threefry_partitionable(True):
        return digest_of(lambda key: draw(key, layer), key)
