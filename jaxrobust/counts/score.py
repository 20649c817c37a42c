"""From logits to the sums that a sweep keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxrobust.design.specification import Keep, Metric
from jaxrobust.results import NONFINITE

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def score(
    logits: Float[Array, "images classes"],
    labels: Int[Array, " images"],
    present: Bool[Array, " images"],
    clean_predictions: Int[Array, " images"],
    clean_logits: Float[Array, "images classes"],
    place_of: Int[Array, " images"],
    *,
    block: int,
    blocks: int,
    metrics: Mapping[str, Metric],
    keep: Keep = "counts",
) -> dict[str, Array]:
    """Sums over each block of images.

    A label's rank is the number of classes with a greater logit, plus those with an equal one and
    a lower index; it is a top-k hit if its rank is below k. A row with a logit that isn't finite
    is wrong, changed, counted in `nonfinite` and left out of the loss. The loss is the cross
    entropy, -log softmax(logits)[label], in nats. A value of a user's metric that isn't finite is
    in its sum, which it makes so, and counted in `nonfinite_<metric>`.

    Args:
        logits, labels: of the network under test.
        present: False for the padding behind the last image.
        clean_predictions, clean_logits: of the undamaged network on the same images.
        place_of: the place of each image, counted from the first one of the first block; they are
            consecutive.
        block: how many images make a block.
        blocks: how many blocks the images can belong to.
        metrics: name -> f(logits, labels, clean_logits) -> one number per image.
        keep: "images" for `top1_bits` and `top5_bits`, too.

    Returns:
        Quantity -> [blocks]; counts in int32, sums in float32. Bits are uint8 [blocks, bytes], in
        each block's first byte the greatest bit for its first image: with each image's bit in a
        place of its own, they add up like counts.
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
        value = jnp.asarray(metric(logits, labels, clean_logits)).astype(jnp.float32)
        values |= {name: value, NONFINITE + name: ~jnp.isfinite(value)}

    counted = present[None] & (jnp.arange(blocks)[:, None] == place_of[None] // block)

    def total(value: Array) -> Array:
        kind = jnp.int32 if value.dtype == bool else jnp.float32
        return jnp.where(counted, value.astype(kind)[None], 0).sum(1)

    def packed(right: Array) -> Array:
        nobody = jnp.zeros(blocks * block, bool)
        placed = jax.lax.dynamic_update_slice(nobody, right & present, place_of[:1])
        return jnp.packbits(placed.reshape(blocks, block), axis=1)

    sums = {name: total(value) for name, value in values.items()}
    if keep == "images":
        sums |= {f"{name}_bits": packed(values[name]) for name in ("top1", "top5")}
    return sums
