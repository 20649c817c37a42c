"""How well a network's probabilities, the softmax of its logits, fit the labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.metrics.base import metric

# As in Guo et al. (2017).
BINS = 15


@metric("loss", label="loss", unit="nats", finite=True, best="low", low=0)
def loss(logits: Any, labels: Any, clean_logits: Any) -> Any:
    """The cross entropy, -log softmax(logits)[label]."""
    own = jnp.take_along_axis(logits, labels[:, None], 1)
    return jax.nn.logsumexp(logits, 1) - own[:, 0]


@metric("brier", label="Brier score", finite=True, best="low", low=0, high=2)
def brier(logits: Any, labels: Any, clean_logits: Any) -> Any:
    """The squared distance of the probabilities from 1 for the label and 0 for the others.

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability" (1950).
    """
    wanted = jax.nn.one_hot(labels, logits.shape[1])
    return jnp.sum((jax.nn.softmax(logits) - wanted) ** 2, axis=1)


@metric("kl", label="divergence from undamaged", unit="nats", finite=True, best="low", low=0)
def kl(logits: Any, labels: Any, clean_logits: Any) -> Any:
    """The Kullback-Leibler divergence of the probabilities p from the undamaged network's q.

    sum over classes of q · log(q / p).
    """
    log_clean, log_damaged = jax.nn.log_softmax(clean_logits), jax.nn.log_softmax(logits)
    clean = jnp.exp(log_clean)
    # A class of no probability adds nothing; what is not a number stays so.
    return jnp.sum(jnp.where(clean == 0, 0.0, clean * (log_clean - log_damaged)), axis=1)


@metric(
    "calibration_error",
    label="calibration error",
    finite=True,
    bins=BINS,
    best="low",
    low=0,
    high=1,
)
def calibration_error(logits: Any, labels: Any, clean_logits: Any) -> Any:
    """How far the greatest probabilities are from the share of the predictions that are right.

    The expected calibration error: images in 15 bins of equal width by their greatest probability;
    the sum over bins of |mean probability - share that is right|, weighted by their images. Of the
    images in a bin the differences are summed. Source: Guo et al., "On Calibration of Modern Neural
    Networks" (2017).
    """
    confidence = jnp.max(jax.nn.softmax(logits), axis=1)
    right = (jnp.argmax(logits, 1).astype(labels.dtype) == labels).astype(confidence.dtype)
    # Bins are closed above, as in the source: (0, 1/15], …, (14/15, 1].
    place = jnp.clip(jnp.ceil(confidence * BINS).astype(jnp.int32) - 1, 0, BINS - 1)
    return jax.nn.one_hot(place, BINS) * (confidence - right)[:, None]
