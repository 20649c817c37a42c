"""The images on the host, and the undamaged network's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.engine.score import score
from jaxrobust.engine.spec import Metric
from jaxrobust.errors import SpecificationError
from jaxrobust.hoist import split
from jaxrobust.network import Network

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class Images:
    """Cropped images and their labels, held on the host.

    Attributes:
        pixels: uint8 [images, height, width, channels].
        labels: int32 [images].
    """

    pixels: np.ndarray
    labels: np.ndarray

    @staticmethod
    def decode(network: Network, source: Any) -> Images:
        """Reads all images of a source whose labels are the network's classes."""
        return Images(*source.decode(0, len(source), network.preprocessing.crop))

    def batch(self, network: Network, start: int, size: int) -> tuple[Array, Array, Array]:
        """`size` images from `start`: input, labels, and which of them exist (not padding)."""
        index = np.minimum(np.arange(start, start + size), len(self.labels) - 1)
        inputs = network.preprocessing.normalise(self.pixels[index])
        present = np.arange(start, start + size) < len(self.labels)
        return jnp.asarray(inputs), jnp.asarray(self.labels[index]), jnp.asarray(present)


@dataclass(frozen=True)
class Clean:
    """The undamaged network's answers, on the host.

    Attributes:
        logits: float32 [images, classes].
        sums: quantity -> [blocks], as in `State.clean`.
    """

    logits: Float[np.ndarray, "images classes"]
    sums: dict[str, np.ndarray]

    @property
    def predictions(self) -> Int[np.ndarray, " images"]:
        """The class of the greatest logit; of equal ones the first."""
        return self.logits.argmax(1).astype(np.int32)


def evaluate_clean(
    network: Network, images: Images, block: int, metrics: Mapping[str, Metric]
) -> Clean:
    """Runs the undamaged network once over all images.

    Raises:
        SpecificationError: an image's logits depend on the images beside it or on its place.
    """
    whole = split(network, (), block)

    @jax.jit
    def logits_of(params: Any, batch: Array) -> Array:
        shared = whole.shared(params)
        return whole.suffix({}, params, shared, whole.prefix(params, shared, batch))

    @jax.jit
    def sums_of(logits: Array, labels: Array, present: Array) -> dict[str, Array]:
        predictions = jnp.argmax(logits, 1).astype(jnp.int32)
        return score(logits, labels, present, predictions, logits, 1, metrics)

    rows, sums = [], []
    for start in range(0, len(images.labels), block):
        batch, labels, present = images.batch(network, start, block)
        logits = logits_of(network.params, batch)
        if start == 0:
            _check_independent(network.name, logits_of, network.params, batch, logits)
        rows.append(np.asarray(logits, np.float32))
        sums.append(jax.tree.map(np.asarray, sums_of(logits, labels, present)))
    joined = {name: np.concatenate([each[name] for each in sums]) for name in sums[0]}
    return Clean(np.concatenate(rows)[: len(images.labels)], joined)


def _check_independent(
    name: str, logits_of: Callable, params: Any, batch: Array, logits: Array
) -> None:
    """Three images alone, among others and twice must give the same logits."""
    few = min(3, len(batch))
    last = np.arange(len(batch)) >= len(batch) - few
    moved = jnp.roll(batch, -few, axis=0)
    alone = jnp.where(last[:, None, None, None], moved, 0.0)
    expected = np.asarray(logits[:few])
    tolerance = 1e-3 * (np.abs(expected[np.isfinite(expected)]).max(initial=0.0) + 1e-6)
    for how, other in (("twice", batch), ("in another place", moved), ("alone", alone)):
        rows = logits_of(params, other)
        found = np.asarray(rows[:few] if how == "twice" else rows[-few:])
        if not np.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True):
            raise SpecificationError(
                f"{name} gives an image other logits {how}: normalisation in training mode or "
                "live dropout? Pass the network in evaluation mode"
            )
