"""From logits to the sums that a sweep keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxrobust.design.specification import Keep
from jaxrobust.metrics import Metric
from jaxrobust.results import NONFINITE

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int


def score(
    logits: Float[Array, "images classes"],
    labels: Int[Array, " images"],
    present: Bool[Array, " images"],
    clean_logits: Float[Array, "images classes"],
    place_of: Int[Array, " images"],
    *,
    block: int,
    blocks: int,
    metrics: Sequence[Metric],
    keep: Keep = "counts",
) -> dict[str, Array]:
    """Sums over each block of images.

    A row with a logit that isn't finite is counted in `nonfinite` and left out of the metrics that
    are over finite logits. A number of another metric that isn't finite is in its sum, which it
    makes so, and counted in `nonfinite_<metric>`.

    Args:
        logits, labels: of the network under test.
        present: False for the padding behind the last image.
        clean_logits: of the undamaged network on the same images.
        place_of: the place of each image, counted from the first one of the first block; they are
            consecutive.
        block: how many images make a block.
        blocks: how many blocks the images can belong to.
        metrics: what is measured of each image.
        keep: "images" for `top1_bits` and `top5_bits`, too.

    Returns:
        Quantity -> [blocks], or [blocks, bins]; counts in int32, sums in float32. Bits are uint8
        [blocks, bytes], in each block's first byte the greatest bit for its first image: with each
        image's bit in a place of its own, they add up like counts.
    """
    logits = logits.astype(jnp.float32)
    finite = jnp.isfinite(logits).all(1)
    values = {"images": jnp.ones_like(finite), "nonfinite": ~finite}
    for metric in metrics:
        value = jnp.asarray(metric.function(logits, labels, clean_logits))
        if not metric.share:
            value = value.astype(jnp.float32)
            if metric.finite:
                value = jnp.where(finite.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)
            else:
                values[NONFINITE + metric.name] = ~jnp.isfinite(value)
        values[metric.name] = value

    counted = present[None] & (jnp.arange(blocks)[:, None] == place_of[None] // block)

    def total(value: Array) -> Array:
        kind = jnp.int32 if value.dtype == bool else jnp.float32
        own = counted.reshape(*counted.shape, *[1] * (value.ndim - 1))
        return jnp.where(own, value.astype(kind)[None], 0).sum(1)

    def packed(right: Array) -> Array:
        nobody = jnp.zeros(blocks * block, bool)
        placed = jax.lax.dynamic_update_slice(nobody, right & present, place_of[:1])
        return jnp.packbits(placed.reshape(blocks, block), axis=1)

    sums = {name: total(value) for name, value in values.items()}
    if keep == "images":
        sums |= {f"{name}_bits": packed(values[name]) for name in ("top1", "top5")}
    return sums
