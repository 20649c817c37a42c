"""Whether what a network and a metric say of an image depends on that image alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.engine.spec import Metric
from jaxrobust.errors import SpecificationError
from jaxrobust.rounding import PrecisionMode

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
    inputs: Float[Array, "step h w c"],
    logits: Float[np.ndarray, "step classes"],
    precision: PrecisionMode,
) -> None:
    """Some images of a step once more: twice, in other places, beside others and in a small batch.

    Args:
        name: of the network.
        logits_of: the compiled network for any number of images.
        inputs, logits: of the step.
        precision: of matrix products and convolutions.

    Raises:
        SpecificationError: an image has other logits then.
    """
    step = len(inputs)
    size = small_batch(step)
    index = _some(step, size)
    batch = np.asarray(jnp.take(inputs, index, axis=0))
    blank = np.where(_first(batch), batch, 0)
    expected = logits_of(batch)[:_FEW]
    ways = {
        "the second time": logits_of(batch)[:_FEW],
        "in another place": logits_of(_moved(batch))[-_FEW:],
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
    metrics: Mapping[str, Metric],
    logits: Float[np.ndarray, "step classes"],
    labels: Int[np.ndarray, " step"],
) -> None:
    """Some images of a step as each metric sees them: in other places, and beside others.

    Args:
        metrics: the user's own by name.
        logits, labels: of the step.

    Raises:
        SpecificationError: an image has another number then.
    """
    if not metrics:
        return

    @jax.jit
    def numbers(*given: Array) -> dict[str, Array]:
        return {name: jnp.asarray(metric(*given)) for name, metric in metrics.items()}

    index = _some(len(logits), _SIZES[0])
    given = [np.roll(logits, 1, axis=1)[index], labels[index], logits[index]]
    # Beside other images, and in a batch of another size.
    others = [np.concatenate([each[:_FEW], np.zeros_like(each)]) for each in given]
    expected, moved, beside = (
        numbers(*batch) for batch in (given, [_moved(each) for each in given], others)
    )
    for name, values in expected.items():
        ways = {
            "in another place": moved[name][-_FEW:],
            "beside other images": beside[name][:_FEW],
        }
        for how, found in ways.items():
            if not alike(found, values[:_FEW], _OF_METRICS):
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
