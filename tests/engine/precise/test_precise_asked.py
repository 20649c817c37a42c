"""What a sweep to a precision may be asked for: any mean metric, and what makes sense."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sweeps_for_tests import refusal

import jaxrobust as jr
from jaxrobust.results import cell_rows
from jaxrobust.sampling import FEWEST
from jaxrobust.summary import known

CELLS: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "weight_noise"],
    layers=["conv2", "fc"],
    strengths=[0, 0.2, 0.6],
    block=5,
    metrics="brier",
)


@pytest.mark.parametrize(
    ("metric", "half_width", "words"),
    [
        ("loss", 0.02, "±0.02 nats (loss)"),
        ("changed", 0.02, "±2 % (changed predictions)"),
        ("brier", 0.02, "±0.02 (Brier score)"),
    ],
)
def test_any_mean_metric_can_be_known_to_a_precision(
    metric: str,
    half_width: float,
    words: str,
    net: jr.Network,
    source: jr.ImageSource,
) -> None:
    aim = {"precision": half_width, "precision_metric": metric}
    result = jr.sweep(net, source, **CELLS, **aim)
    cells = jr.accuracy(result, metric)
    assert result.attrs["finished"] == 1 and cells.met.all()
    assert (cells.half_width <= half_width).all() and "met" not in jr.accuracy(result)
    assert (cells.sel(strength=[0.2, 0.6]).seeds > FEWEST).any()
    many = jr.accuracy(jr.sweep(net, source, **CELLS, seeds=400), metric)
    assert (np.abs(cells["mean"] - many["mean"]) <= 2 * half_width).all()
    assert cell_rows(result)["metric"].unique().tolist() == [metric]
    assert known(result)[0] == f"every cell is known to {words}"


def test_a_cell_with_a_value_that_is_not_finite_takes_no_more_seeds(
    net: jr.Network, source: jr.ImageSource
) -> None:
    def infinite(logits: jax.Array, labels: jax.Array, clean_logits: jax.Array) -> jax.Array:
        return jnp.where((logits != clean_logits).any(1), jnp.inf, logits[:, 0])

    aim = {"precision": 0.1, "precision_metric": "infinite"}
    result = jr.sweep(net, source, **{**CELLS, "metrics": {"infinite": infinite}}, **aim)
    cells = jr.accuracy(result, "infinite")
    assert result.attrs["finished"] == 1
    assert (cells.sel(strength=[0.2, 0.6]).seeds == FEWEST).all() and not cells.sel(
        strength=[0.2, 0.6]
    ).met.any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(seeds=5), "precision 0.05 and seeds 5: a sweep to a precision decides itself"),
        (dict(precision=0), "precision 0: the half-width of an interval"),
        (dict(precision=0.7), "precision 0.7: the half-width of an interval"),
        (dict(precision="0.1"), "precision '0.1': the half-width of an interval"),
        (
            dict(precision=None, max_seconds=5),
            "max_seconds 5 without precision: give the precision",
        ),
        (dict(precision=None, precision_metric="loss"), "precision_metric loss without precision"),
        (
            dict(precision_metric="brier"),
            "precision_metric 'brier' is not measured, only top1, top5",
        ),
        (
            dict(precision=-1, precision_metric="loss"),
            "precision -1: the half-width of an interval",
        ),
        (
            dict(precision_metric="calibration_error", metrics="calibration_error"),
            "precision_metric 'calibration_error' is no mean over images",
        ),
        (dict(max_seconds=0), "max_seconds 0: more than 0 seconds are needed"),
        (dict(max_seconds="1"), "max_seconds '1': more than 0 seconds are needed"),
    ],
)
def test_what_cannot_be_asked_for(
    changes: dict[str, Any], words: str, net: jr.Network, source: jr.ImageSource
) -> None:
    assert refusal(
        jr.sweep, net, source, **{**CELLS, "metrics": None, "precision": 0.05, **changes}
    ).startswith(words)
