"""Which trials may be computed in faster ways: those whose numbers are ordinary.

Winograd's convolutions, and products that trials share, are as accurate as the definition while no
number is far greater than the undamaged network's, or cancelled to far less. A bit flip can make a
weight of 1e38: such a trial is strange, which its damaged leaves or its logits tell, and it is run
again plainly.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxrobust.layers import Leaf
from jaxrobust.perturbations.linear import RANGE, Overlaps
from jaxrobust.runtime.meshes import TRIALS, WHOLE, network_on_mesh

if TYPE_CHECKING:
    from jaxtyping import Bool


class Limits(NamedTuple):
    """How great the numbers of a trial may be.

    Attributes:
        leaves: those of each damaged leaf, by path.
        logits: the logits.
    """

    leaves: Mapping[str, np.float32]
    logits: np.float32

    @staticmethod
    def of(leaves: Mapping[str, Any], logits: np.ndarray) -> Limits:
        """By the undamaged leaves and logits; for a leaf of zeros the greatest leaf counts."""
        # On the host, where nothing has to be compiled for each shape.
        greatest = {path: float(np.abs(leaf).max(initial=0)) for path, leaf in leaves.items()}
        most = max(greatest.values(), default=0.0)
        return Limits(
            {path: np.float32(RANGE * (own or most)) for path, own in greatest.items()},
            np.float32(RANGE * np.abs(logits).max(initial=0)),
        )


def is_strange(array: Any, limit: Any) -> Bool[Array, ""]:
    """Whether some number is beyond a limit, or not a number."""
    return jnp.any(~(jnp.abs(jnp.asarray(array, jnp.float32)) <= limit))


def overlaps(kernel: Leaf, directions: Array, mesh: Mesh) -> Overlaps:
    """How the directions in which trials change a kernel lie to it.

    Args:
        kernel: with its value.
        directions: [seeds, …], those of each device one after the other.
        mesh: the devices.
    """
    return _overlaps(kernel.output_axes, mesh)(kernel.value, directions)


@cache
def _overlaps(unit_axes: tuple[int, ...], mesh: Mesh) -> Any:
    def of_all(kernel: Array, directions: Array) -> Overlaps:
        others = tuple(axis for axis in range(kernel.ndim) if axis not in unit_axes)

        def inner(left: Array, right: Array) -> Array:
            return jnp.sum(left * right, axis=others, dtype=jnp.float32).ravel()

        square = inner(kernel, kernel)

        def of_one(direction: Array) -> Overlaps:
            return Overlaps(square, inner(kernel, direction), inner(direction, direction))

        return jax.vmap(of_one)(directions)

    # Without the options these sums take five times as long on a CPU.
    return network_on_mesh(of_all, mesh, [WHOLE, TRIALS], TRIALS)
