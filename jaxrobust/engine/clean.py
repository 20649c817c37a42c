"""The images on the host, and the undamaged network's answers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.crops import Crops
from jaxrobust.data.progress import Report
from jaxrobust.data.source import ImageSource
from jaxrobust.engine.compiling import network_options
from jaxrobust.engine.ordinary import RANGE
from jaxrobust.engine.plan import free_memory, images_per_step
from jaxrobust.engine.score import score
from jaxrobust.engine.spec import Keep, Metric
from jaxrobust.errors import SpecificationError
from jaxrobust.hoist import split
from jaxrobust.network import Network
from jaxrobust.rounding import PrecisionMode

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

# Images on which the network and the ways of computing it are checked.
_FEW = 8
# Of the greatest logit: far above rounding errors, far below what another image does.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Batch:
    """Some consecutive images as the network takes them.

    Attributes:
        index: int [batch], their positions.
        inputs: float32 [batch, height, width, channels], on the device.
        labels: int32 [batch].
        present: bool [batch], False for the padding at the end.
        first_block: the block of the first image.
        place_of: int32 [batch], the place of each, counted from the first one of its block.
    """

    index: np.ndarray
    inputs: Array
    labels: np.ndarray
    present: np.ndarray
    first_block: int
    place_of: np.ndarray


def blocks_per_step(images: int, block: int) -> int:
    """In how many blocks some consecutive images can lie at most."""
    return (images - 2) // block + 2


@dataclass(frozen=True)
class Images:
    """Cropped images and their labels, on the host.

    Attributes:
        pixels: uint8 [images, height, width, channels], perhaps on the disk.
        labels: int32 [images].
    """

    pixels: Crops | np.ndarray
    labels: np.ndarray

    @staticmethod
    def decode(network: Network, source: ImageSource, report: Report) -> Images:
        """Decodes all images of a source whose labels are the network's classes.

        Args:
            network: says how to crop them.
            source: the images.
            report: called with what is being done, images done and all of them.
        """
        return Images(source.crops(network.preprocessing, report), source.labels)

    def batch(
        self, network: Network, start: int, size: int, block: int, stop: int | None = None
    ) -> Batch:
        """`size` images from `start`, the last one repeated; those from `stop` are padding."""
        index = np.arange(start, start + size)
        present, first = index < (stop or len(self.labels)), start // block
        place_of = (index - first * block).astype(np.int32)
        index = np.minimum(index, len(self.labels) - 1)
        # On the device, where it is faster, and where bytes are four times quicker to bring.
        inputs = jax.jit(network.preprocessing.normalise)(self.pixels[index])
        return Batch(index, inputs, self.labels[index], present, first, place_of)


@dataclass(frozen=True)
class Clean:
    """The undamaged network's answers, on the host.

    Attributes:
        logits: float32 [images, classes].
        sums: quantity -> [blocks] or [blocks, bytes], as in `State.clean`.
        ordinary: faster ways of computing it give what the definition gives.
        limits: float32, of each of `Split.watched`, what its largest number may be in a trial.
    """

    logits: Float[np.ndarray, "images classes"]
    sums: dict[str, np.ndarray]
    ordinary: bool
    limits: Float[np.ndarray, " watched"]

    @cached_property
    def predictions(self) -> Int[np.ndarray, " images"]:
        """The class of the greatest logit; of equal ones the first."""
        return self.logits.argmax(1).astype(np.int32)


def evaluate_clean(
    network: Network,
    images: Images,
    block: int,
    *,
    metrics: Mapping[str, Metric] = MappingProxyType({}),
    keep: Keep = "counts",
    precision: PrecisionMode = "float32",
    memory: int | None = None,
) -> Clean:
    """Runs the undamaged network once over all images.

    Args:
        network, images: what is evaluated.
        block: consecutive images that are counted together.
        metrics: the user's own metrics by name.
        keep: of the specification.
        precision: of matrix products and convolutions.
        memory: bytes that it may use; by default half of what is free.

    Raises:
        SpecificationError: an image's logits depend on the images beside it or on its place.
    """
    count = len(images.labels)
    memory = memory or free_memory() // 2
    whole = split(network, (), block)
    size = images_per_step(whole, block, images=count, memory=memory)
    expected, greatest = _check_independent(network, images)
    logits_of = _Trusted(network, size, precision, expected, greatest)
    blocks = blocks_per_step(size, block)

    @jax.jit
    def sums_of(logits: Array, labels: Array, present: Array, place_of: Array) -> dict[str, Array]:
        predictions = jnp.argmax(logits, 1).astype(jnp.int32)
        given = (logits, labels, present, predictions, logits, place_of)
        return score(*given, block=block, blocks=blocks, metrics=metrics, keep=keep)

    rows = []
    sums: dict[str, np.ndarray] = {}
    for start in range(0, count, size):
        batch = images.batch(network, start, size, block)
        logits = logits_of(batch.inputs)
        rows.append(np.asarray(logits, np.float32))
        found = sums_of(logits, batch.labels, batch.present, batch.place_of)
        for name, values in found.items():
            kind = np.float64 if values.dtype == jnp.float32 else values.dtype
            nothing = np.zeros((-(-count // block), *values.shape[1:]), kind)
            own = sums.setdefault(name, nothing)[batch.first_block :]
            own[:blocks] += np.asarray(values)[: len(own)]
    limits = np.float32(RANGE) * logits_of.greatest
    return Clean(np.concatenate(rows)[:count], sums, logits_of.ordinary, limits)


class _Trusted:
    """The undamaged network's logits, in faster ways where these give what the definition gives.

    Args:
        network, precision: see `evaluate_clean`.
        size: how many images each call takes.
        expected: the logits of the first images, by the definition in float32.
        greatest: float32, the largest magnitude there of each of `Split.watched`.

    Attributes:
        ordinary: the faster ways can be trusted on this network.
        greatest: the same in all calls.
    """

    def __init__(
        self,
        network: Network,
        size: int,
        precision: PrecisionMode,
        expected: np.ndarray,
        greatest: np.ndarray,
    ) -> None:
        self._network, self._size = network, size
        self._precision: PrecisionMode = precision
        self._fast = forward(network, size, precision)
        self._expected = expected
        # Numbers that are rounded are computed in no faster way: there is nothing to watch.
        self.greatest = greatest if precision == "float32" else np.zeros(0, np.float32)
        self._limits = np.float32(RANGE) * self.greatest
        self.ordinary, self._checked = True, not self._limits.size

    @cached_property
    def _plain(self) -> Callable[[Any, Array], tuple[Array, Array]]:
        return forward(self._network, self._size, self._precision, plain=True)

    def __call__(self, inputs: Array) -> Array:
        """The logits of `size` images, at first those from the first image on."""
        params = self._network.params
        found, greatest = self._fast(params, inputs)
        if not self._checked:
            few = min(self._size, len(self._expected))
            self.ordinary = agree(np.asarray(found)[:few], self._expected[:few])
            self._checked = True
        if not self.ordinary or not np.all(greatest <= self._limits):
            found, greatest = self._plain(params, inputs)
        self.greatest = np.maximum(self.greatest, greatest)
        return found


def agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether logits [images, classes] are the same up to rounding errors."""
    finite = expected[np.isfinite(expected)]
    tolerance = _ROUNDING * (np.abs(finite).max(initial=0.0) + 1e-6)
    return np.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


def forward(
    network: Network, size: int, precision: PrecisionMode = "float32", *, plain: bool = False
) -> Callable[[Any, Array], tuple[Array, Array]]:
    """The compiled undamaged network `(params, inputs) -> (logits, peaks of Split.watched)`.

    Args:
        network: any network.
        size: the number of images.
        precision: of matrix products and convolutions.
        plain: in no faster way than the network itself.
    """
    parts = split(network, (), size, precision=precision, reformulate=False if plain else None)
    return jax.jit(parts.whole, compiler_options=network_options())


def _check_independent(network: Network, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Three images beside others, in other places, among blank images and twice.

    Returns:
        Logits of the first images by the definition, and the largest of each of `Split.watched`.
    """
    few, size = 3, _FEW
    program = forward(network, size, plain=True)
    batch = images.batch(network, 0, size, size).inputs
    moved = jnp.roll(batch, -few, axis=0)
    blank = jnp.zeros_like(batch).at[-few:].set(batch[:few])
    expected, greatest = map(np.asarray, program(network.params, batch))
    ways = {"the second time": batch, "in another place": moved, "beside blank images": blank}
    for how, other in ways.items():
        rows = np.asarray(program(network.params, other)[0])
        found = rows[:few] if other is batch else rows[-few:]
        if not agree(found, expected[:few]):
            raise SpecificationError(
                f"{network.name} gives an image other logits {how}: normalisation in training "
                "mode or live dropout? Pass the network in evaluation mode"
            )
    return expected, greatest
