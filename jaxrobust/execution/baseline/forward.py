"""The undamaged network's forward pass, in faster ways where these give what it defines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrobust.execution.baseline.checks import alike, small_batch
from jaxrobust.execution.routes import cut_of
from jaxrobust.execution.steps.chain import Chain
from jaxrobust.network import Network
from jaxrobust.perturbations.linear import RANGE
from jaxrobust.program.rounding import PrecisionMode
from jaxrobust.runtime.meshes import mesh_of, shared_by_trials

if TYPE_CHECKING:
    from jaxtyping import Array

# Of the greatest logit: above what faster ways of an ordinary network add to rounding errors.
_TOLERANCE = 1e-4


def forward(
    network: Network,
    size: int,
    device: Any,
    *,
    segmented: bool,
    precision: PrecisionMode,
    plain: bool = False,
) -> tuple[Callable[[Any], Array], bool]:
    """The compiled undamaged network, and whether it is as it is defined.

    It takes float32 [1, images, height, width, channels] and gives [1, images, classes].

    Args:
        network: any network.
        size: the number of images.
        device: what it runs on.
        segmented: as for `route_of`.
        precision: of matrix products and convolutions.
        plain: in no faster way than the network itself.
    """
    how = {"segmented": segmented, "reformulate": not plain, "precision": precision}
    cut = cut_of(network, size, platform=device.platform, **how)
    mesh = mesh_of((device,), 1)
    chain = Chain(cut, shared_by_trials(jax.tree.leaves(network.params), mesh), mesh)
    return chain.logits, not cut.inexact


class Forward:
    """Gives the undamaged network's logits, and says whether faster ways of them can be trusted.

    The first call compares a few images with the definition. If they differ, or if later images
    have logits that are out of range, the definition is computed instead.

    Args:
        network: any network.
        size: how many images each call takes.
        device: what it runs on.
        segmented: as for `route_of`.
        precision: of matrix products and convolutions.

    Attributes:
        ordinary: the faster ways can be trusted on this network.
    """

    def __init__(
        self,
        network: Network,
        size: int,
        device: Any,
        segmented: bool,
        precision: PrecisionMode,
    ) -> None:
        how = {"device": device, "precision": precision}
        self._fast, self._exact = forward(network, size, segmented=segmented, **how)
        # For few images; on accelerators each program more takes a second to compile.
        how |= {"segmented": segmented and device.platform == "cpu", "plain": True}
        self._plain = cache(lambda images: forward(network, images, **how)[0])
        self._limit: float | None = None
        self.ordinary = True

    def __call__(self, inputs: Array) -> np.ndarray:
        """The logits of `size` images [1, images, …], float32 [images, classes]."""
        if not self.ordinary:
            return self.by_definition(inputs)
        logits = np.asarray(self._fast(inputs), np.float32)[0]
        if self._exact:
            return logits
        if self._limit is None:
            index = np.arange(small_batch(len(logits))) % len(logits)
            expected = self.by_definition(np.asarray(inputs)[:, index])
            self.ordinary = alike(logits[index], expected, _TOLERANCE)
            self._limit = RANGE * float(np.abs(expected).max(initial=0))
        if self.ordinary and not np.all(np.abs(logits) <= self._limit):
            self.ordinary = False
        return logits if self.ordinary else self.by_definition(inputs)

    def by_definition(self, inputs: Array | np.ndarray) -> np.ndarray:
        """The logits of any number of images, in no faster way than the network itself."""
        return np.asarray(self._plain(inputs.shape[1])(inputs), np.float32)[0]
