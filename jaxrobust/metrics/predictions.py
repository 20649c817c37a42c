"""Which class a network sees in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from jaxrobust.metrics.base import metric

if TYPE_CHECKING:
    from jaxtyping import Array, Bool


@metric(
    "top1", label="top-1 accuracy", share=True, chance=lambda n: 1 / n, best="high", low=0, high=1
)
def top1(logits: Any, labels: Any, clean_logits: Any) -> Bool[Array, " images"]:
    """Whether the label has the greatest logit; of equal ones the first class counts."""
    return _is_within(1, logits, labels)


@metric(
    "top5",
    label="top-5 accuracy",
    share=True,
    chance=lambda n: min(1.0, 5 / n),
    best="high",
    low=0,
    high=1,
)
def top5(logits: Any, labels: Any, clean_logits: Any) -> Bool[Array, " images"]:
    """Whether the label is among the five greatest logits; of equal ones the first classes are."""
    return _is_within(5, logits, labels)


def _is_within(count: int, logits: Any, labels: Any) -> Bool[Array, " images"]:
    """Whether so few classes come before the label; never in a row that is not finite.

    Before it come the classes with a greater logit, and those with an equal one and a lower index.
    """
    own = jnp.take_along_axis(logits, labels[:, None], 1)
    earlier = jnp.arange(logits.shape[1])[None] < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return jnp.isfinite(logits).all(1) & (rank < count)


@metric("changed", label="changed predictions", share=True, best="low", low=0, high=1)
def changed(logits: Any, labels: Any, clean_logits: Any) -> Bool[Array, " images"]:
    """Whether the predicted class is not the undamaged network's, or a logit is not finite."""
    different = jnp.argmax(logits, 1) != jnp.argmax(clean_logits, 1)
    return different | ~jnp.isfinite(logits).all(1)


@metric("margin", label="margin of the label", finite=True, best="high")
def margin(logits: Any, labels: Any, clean_logits: Any) -> Any:
    """The label's logit minus the greatest other one; above 0 where the label wins."""
    own = jnp.take_along_axis(logits, labels[:, None], 1)
    others = jnp.arange(logits.shape[1])[None] != labels[:, None]
    return own[:, 0] - jnp.max(logits, axis=1, where=others, initial=-jnp.inf)
