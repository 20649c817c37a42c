"""Flax Linen modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxrobust.adapters.modules import described
from jaxrobust.adapters.pure import Pure
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import leaf_paths


def from_linen(
    module: Any, variables: Mapping[str, Any] | None, arguments: Mapping[str, Any]
) -> Pure:
    """Makes a pure function of a Linen module.

    Args:
        module, variables, arguments: see `Network.from_linen`.

    Raises:
        SpecificationError: not a Linen module, or no collection `params` in the variables.
    """
    import flax.linen
    from flax.linen import meta

    if not isinstance(module, flax.linen.Module):
        raise SpecificationError(f"from_linen needs a Flax Linen module, not {described(module)}")
    if not isinstance(variables, Mapping) or "params" not in variables:
        mapping = isinstance(variables, Mapping)
        found = ", ".join(map(str, variables)) if mapping else described(variables)
        raise SpecificationError(
            "from_linen needs the variables of module.init, a mapping with the collection params "
            f"such as {{'params': …, 'batch_stats': …}}; found {found!s:.80}"
        )
    variables = meta.unbox(dict(variables))
    return Pure(
        lambda params, images: module.apply(params, images, **arguments),
        variables,
        frozenset(path for path in leaf_paths(variables) if not path.startswith("params/")),
    )
