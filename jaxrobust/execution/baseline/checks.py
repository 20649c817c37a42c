"""Whether what a network and a metric say of an image depends on that image alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.metrics import Metric
from jaxrobust.program.rounding import PrecisionMode

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

# Images that are looked at again, and the sizes of the batches in which they are, of which that is
# taken which no step has.
_FEW, _SIZES = 3, (8, 5)
# Of the largest number: batches of other sizes are summed up in another order, and what is rounded
# after that shows more of it.
_TOLERANCE = {"float32": 1e-3, "tensorfloat32": 1e-2, "bfloat16": 3e-2}
_OF_METRICS = 1e-4


def check_network(
    name: str,
    logits_of: Callable[[np.ndarray], np.ndarray],
    inputs: Float[Array, "1 step h w c"],
    logits: Float[np.ndarray, "step classes"],
    precision: PrecisionMode,
) -> None:
    """Some images of a step once more: twice, in other places, beside others and in a small batch.

    Args:
        name: of the network.
        logits_of: the compiled network for any number of images, [1, images, …].
        inputs, logits: of the step.
        precision: of matrix products and convolutions.

    Raises:
        SpecificationError: an image has other logits then.
    """
    step = len(logits)
    size = small_batch(step)
    index = _some(step, size)
    batch = np.asarray(jnp.take(inputs, index, axis=1))
    blank = np.where(_first(batch[0]), batch, 0)
    expected = logits_of(batch)[:_FEW]
    ways = {
        "the second time": logits_of(batch)[:_FEW],
        "in another place": logits_of(_moved(batch[0])[None])[-_FEW:],
        "beside blank images": logits_of(blank)[:_FEW],
        f"in a batch of {step} images than in one of {size}": logits[index[:_FEW]],
    }
    for how, found in ways.items():
        if not alike(found, expected, _TOLERANCE[precision]):
            raise SpecificationError(
                f"{name} gives an image other logits {how}: normalisation in training "
                "mode or live dropout? Pass the network in evaluation mode"
            )


def check_metrics(
    metrics: Sequence[Metric],
    logits: Float[np.ndarray, "step classes"],
    labels: Int[np.ndarray, " step"],
) -> None:
    """Some images of a step as each metric sees them: in other places, and beside others.

    Args:
        metrics: what is measured of each image; built-in ones need no check.
        logits, labels: of the step.

    Raises:
        SpecificationError: an image has another number then.
    """
    metrics = [each for each in metrics if not each.is_built_in]
    if not metrics:
        return

    @jax.jit
    def numbers(*given: Array) -> dict[str, Array]:
        return {each.name: jnp.asarray(each.function(*given)) for each in metrics}

    index, step = _some(len(logits), _SIZES[0]), [np.roll(logits, 1, axis=1), labels, logits]
    few = [each[index] for each in step]
    # Beside other images of other labels, and beside images of the same label.
    beside = [np.concatenate([each[:_FEW], np.zeros_like(each)]) for each in few]
    alike_labels = [few[0], np.repeat(few[1][:1], len(index)), few[2]]
    moved_on = (few[1] + np.arange(len(index), dtype=labels.dtype)) % logits.shape[1]
    other_labels = [few[0], moved_on, few[2]]
    expected = numbers(*few)
    ways_of = {
        "in another place": (numbers(*map(_moved, few)), slice(-_FEW, None)),
        "beside other images": (numbers(*beside), slice(_FEW)),
        f"in a batch of {len(logits)} images than in one of {len(index)}": (
            numbers(*step),
            index[:_FEW],
        ),
        "beside images of the same label": (numbers(*alike_labels), slice(1)),
        "beside images of other labels": (numbers(*other_labels), slice(1)),
    }
    for name, values in expected.items():
        for how, (found, where) in ways_of.items():
            own = np.asarray(found[name])[where]
            if not alike(own, values[: len(own)], _OF_METRICS):
                raise SpecificationError(
                    f"metric {name!r} gives an image another number {how}: it must look at each "
                    "image on its own, since images are counted in batches of any size"
                )


def small_batch(step: int) -> int:
    """How many images a check takes: another number than those of a step."""
    return next(size for size in _SIZES if size != step)


def _some(step: int, size: int) -> np.ndarray:
    """A few images from all parts of a step, and others beside them."""
    few = np.linspace(0, step - 1, _FEW).round().astype(int)
    return np.concatenate([few, np.arange(1, size - _FEW + 1) % step])


def _first(batch: np.ndarray) -> np.ndarray:
    return (np.arange(len(batch)) < _FEW).reshape(-1, *[1] * (batch.ndim - 1))


def _moved(batch: np.ndarray) -> np.ndarray:
    return np.roll(batch, -_FEW, axis=0)


def alike(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether arrays are the same within a tolerance, a share of the largest finite number."""
    found, expected = (np.asarray(each, np.float64) for each in (found, expected))
    size = np.abs(expected[np.isfinite(expected)]).max(initial=0.0) + 1e-6
    return np.allclose(found, expected, rtol=0, atol=tolerance * size, equal_nan=True)
