"""The undamaged network's forward pass, in faster ways where these give what it defines."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrobust.engine.checks import alike, small_batch
from jaxrobust.engine.compiling import network_options
from jaxrobust.engine.ordinary import RANGE
from jaxrobust.hoist import split
from jaxrobust.network import Network
from jaxrobust.rounding import PrecisionMode

if TYPE_CHECKING:
    from jaxtyping import Array

# Of the greatest logit: above what faster ways of an ordinary network add to rounding errors.
_TOLERANCE = 1e-4


def forward(
    network: Network, size: int, precision: PrecisionMode = "float32", *, plain: bool = False
) -> Callable[[Any, Any], tuple[Array, Array]]:
    """The compiled undamaged network `(params, inputs) -> (logits, peaks of Split.watched)`.

    Args:
        network: any network.
        size: the number of images.
        precision: of matrix products and convolutions.
        plain: in no faster way than the network itself.
    """
    parts = split(network, (), size, precision=precision, reformulate=False if plain else None)
    return jax.jit(parts.whole, compiler_options=network_options())


class Forward:
    """Gives the undamaged network's logits, and learns what its ordinary numbers are.

    The first call compares a few images with the definition. If they differ, or if later images
    make numbers that are out of range, the definition is computed instead.

    Args:
        network: any network.
        size: how many images each call takes.
        precision: of matrix products and convolutions.

    Attributes:
        ordinary: the faster ways can be trusted on this network.
    """

    def __init__(self, network: Network, size: int, precision: PrecisionMode) -> None:
        self._params, self._size = network.params, size
        self._fast = forward(network, size, precision)
        self._plain = cache(lambda images: forward(network, images, precision, plain=True))
        self._greatest: np.ndarray | None = None
        self.ordinary = True

    def __call__(self, inputs: Array) -> Array:
        """The logits [images, classes] of `size` images."""
        logits, greatest = self._fast(self._params, inputs)
        if self._greatest is None:
            self._greatest = self._check(inputs, logits)
        if not self.ordinary or not np.all(greatest <= self.limits):
            logits, greatest = self._plain(self._size)(self._params, inputs)
        self._greatest = np.maximum(self._greatest, greatest)
        return logits

    def by_definition(self, inputs: Array | np.ndarray) -> np.ndarray:
        """The logits of any number of images, in no faster way than the network itself."""
        return np.asarray(self._plain(len(inputs))(self._params, inputs)[0], np.float32)

    @property
    def limits(self) -> np.ndarray:
        """Float32, of each of `Split.watched`: its largest number in a trial that is ordinary."""
        return np.float32(RANGE) * np.asarray(self._greatest)

    def _check(self, inputs: Array, logits: Array) -> np.ndarray:
        size = small_batch(len(inputs))
        index = np.arange(size) % len(inputs)
        few = np.asarray(inputs)[index]
        expected, greatest = self._plain(size)(self._params, few)
        self.ordinary = alike(np.asarray(logits)[index], expected, _TOLERANCE)
        return np.asarray(greatest)
