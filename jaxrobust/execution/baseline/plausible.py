"""Whether the undamaged network's answers look as if network and images belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.statistics import binomial_at_least, binomial_at_most

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Better than chance: what luck would give less often than this.
_LUCK = 0.05
# So few hits that a network would have them less often than this if it were a quarter of the way
# from chance to perfect: until then there are too few images to say anything.
_UNLIKELY, _USEFUL = 0.01, 0.25
# Rows of probabilities that were computed in a short format add up to 1 within this.
_ROUNDING = 0.01


def warnings_of(
    name: str, logits: Float[np.ndarray, "images classes"], labels: Int[np.ndarray, " images"]
) -> tuple[str, ...]:
    """What is suspicious about the undamaged network, a sentence each.

    Outputs that are probabilities are no logits. Top-1 accuracy is compared, by one-sided binomial
    tests, with what the same predictions would get right of shuffled labels, which is at most the
    share of the most frequent class. Top-5 accuracy decides nothing: confusing similar classes, as
    with labels that are shifted by one, can leave it above chance.

    Args:
        name: of the network.
        logits, labels: of all images.
    """
    found = []
    if _are_probabilities(logits):
        found.append(
            f"{name} gives probabilities, rows of numbers that are not negative and sum to 1, as "
            "after a softmax: the loss and metrics of logits are wrong for them, and rounding "
            "makes some of them equal; leave the softmax out"
        )
    count, classes = logits.shape
    right = int(((logits.argmax(1) == labels) & np.isfinite(logits).all(1)).sum())
    chance = _chance(logits.argmax(1), labels, classes)
    useful = chance + _USEFUL * (1 - chance)
    by_luck = binomial_at_least(right, count, chance) > _LUCK
    if by_luck and binomial_at_most(right, count, useful) < _UNLIKELY:
        found.append(
            f"{name} undamaged is no better than chance: top-1 accuracy is {right / count:.1%} of "
            f"{count:,} images, and its predictions would get {chance:.1%} of shuffled labels "
            "right. Usual causes: labels in another order than the network's classes, images of "
            "other classes, another preprocessing than the network was trained with, weights that "
            "were not loaded"
        )
    return tuple(found)


def _are_probabilities(logits: np.ndarray) -> bool:
    sums = logits.sum(1, dtype=np.float64)
    return logits.shape[1] > 1 and bool((logits >= 0).all() and (abs(sums - 1) < _ROUNDING).all())


def _chance(predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """What these predictions would get right of shuffled labels."""
    shares = [np.bincount(each, minlength=classes) / len(each) for each in (predictions, labels)]
    if (shares[1] > 0).sum() == 1:  # shuffled they are the same
        return 1 / classes
    return float(shares[0] @ shares[1])
