"""From logits to the sums that a sweep keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxrobust.engine.spec import Metric

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def score(
    logits: Float[Array, "images classes"],
    labels: Int[Array, " images"],
    present: Bool[Array, " images"],
    clean_predictions: Int[Array, " images"],
    clean_logits: Float[Array, "images classes"],
    block_of: Int[Array, " images"],
    blocks: int,
    metrics: Mapping[str, Metric],
) -> dict[str, Array]:
    """Sums over each block of images.

    A label's rank is the number of classes with a greater logit, plus those with an equal one and
    a lower index; it is a top-k hit if its rank is below k. A row with a logit that isn't finite
    is wrong, changed, counted in `nonfinite` and left out of the loss. The loss is the cross
    entropy, -log softmax(logits)[label], in nats.

    Args:
        logits, labels: of the network under test.
        present: False for the padding behind the last image.
        clean_predictions, clean_logits: of the undamaged network on the same images.
        block_of: the block that each image belongs to, counted from the first one.
        blocks: how many blocks the images can belong to.
        metrics: name -> f(logits, labels, clean_logits) -> one number per image.

    Returns:
        Quantity -> [blocks]; counts in int32, sums in float32.
    """
    logits = logits.astype(jnp.float32)
    finite = jnp.isfinite(logits).all(1)
    own = jnp.take_along_axis(logits, labels[:, None], 1)
    earlier = jnp.arange(logits.shape[1])[None] < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    loss = jax.nn.logsumexp(logits, 1) - own[:, 0]
    values = {
        "images": jnp.ones_like(finite),
        "top1": finite & (rank < 1),
        "top5": finite & (rank < 5),
        "changed": ~finite | (jnp.argmax(logits, 1).astype(jnp.int32) != clean_predictions),
        "nonfinite": ~finite,
        "loss": jnp.where(finite, loss, 0.0),
    }
    for name, metric in metrics.items():
        values[name] = jnp.asarray(metric(logits, labels, clean_logits)).astype(jnp.float32)

    counted = present[None] & (jnp.arange(blocks)[:, None] == block_of[None])

    def total(value: Array) -> Array:
        kind = jnp.int32 if value.dtype == bool else jnp.float32
        return jnp.where(counted, value.astype(kind)[None], 0).sum(1)

    return {name: total(value) for name, value in values.items()}
