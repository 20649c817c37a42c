"""Every metric of the registry against its published definition, image by image in NumPy."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.counts.score import score
from jaxrobust.metrics import REGISTRY, Metric, always, find, resolve

IMAGES, CLASSES, BLOCK = 40, 7, 8
Row = np.ndarray


def probabilities(row: Row) -> Row:
    row = np.exp(row - row.max())
    return row / row.sum()


def order(row: Row) -> list[int]:
    return sorted(range(len(row)), key=lambda k: (-row[k], k))


def kl(row: Row, label: int, clean: Row) -> float:
    pairs = zip(probabilities(clean), probabilities(row), strict=True)
    return sum(q * math.log(q / p) for q, p in pairs if q > 0)


# (logits of an image, its label, undamaged logits) -> its number.
DEFINITIONS: dict[str, Callable[[Row, int, Row], float]] = {
    "top1": lambda row, label, clean: order(row)[0] == label,
    "top5": lambda row, label, clean: label in order(row)[:5],
    "changed": lambda row, label, clean: order(row)[0] != order(clean)[0],
    "loss": lambda row, label, clean: -math.log(probabilities(row)[label]),
    "margin": lambda row, label, clean: row[label] - max(np.delete(row, label)),
    "brier": lambda row, label, clean: sum((probabilities(row) - np.eye(CLASSES)[label]) ** 2),
    "kl": kl,
}


def outputs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits with ties, labels, and undamaged logits."""
    random = np.random.default_rng(seed)
    logits, clean = (
        np.round(random.normal(0, 2, (IMAGES, CLASSES)), 1).astype(np.float32) for _ in range(2)
    )
    return logits, random.integers(0, CLASSES, IMAGES).astype(np.int32), clean


def sums(name: str, logits: Any, labels: Any, clean: Any) -> dict[str, np.ndarray]:
    found = score(
        logits,
        labels,
        jnp.ones(len(labels), bool),
        clean,
        jnp.arange(len(labels), dtype=jnp.int32),
        block=BLOCK,
        blocks=-(-len(labels) // BLOCK),
        metrics=[find(name)],
    )
    return {quantity: np.asarray(values) for quantity, values in found.items()}


def test_every_metric_has_a_definition_here() -> None:
    assert {*DEFINITIONS, "calibration_error"} == set(REGISTRY)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_sums_over_blocks_are_those_of_the_definition(name: str) -> None:
    logits, labels, clean = outputs(0)
    rows = zip(logits.astype(float), labels, clean.astype(float), strict=True)
    each = np.asarray([DEFINITIONS[name](*row) for row in rows], float)
    found = sums(name, logits, labels, clean)
    np.testing.assert_allclose(found[name], each.reshape(-1, BLOCK).sum(1), rtol=2e-5, atol=1e-5)
    assert found["images"].tolist() == [BLOCK] * (IMAGES // BLOCK)
    assert found[name].dtype == (np.int32 if find(name).share else np.float32)
    assert (each >= find(name).low).all() and (each <= find(name).high).all()


def test_the_calibration_error_is_that_of_the_definition() -> None:
    logits, labels, clean = outputs(1)
    confidence = np.asarray([probabilities(row).max() for row in logits.astype(float)])
    right = logits.argmax(1) == labels
    expected = 0.0
    for low in range(15):
        own = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if own.any():
            expected += own.mean() * abs(right[own].mean() - confidence[own].mean())
    found = sums("calibration_error", logits, labels, clean)["calibration_error"]
    assert found.shape == (IMAGES // BLOCK, 15)
    assert np.abs(found.sum(0)).sum() / IMAGES == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_without_finite_logits_is_wrong_and_in_no_mean_over_finite_ones(
    name: str, value: float
) -> None:
    logits, labels, clean = outputs(2)
    damaged = logits.copy()
    damaged[3, 2] = value
    found, without = sums(name, damaged, labels, clean), sums(name, logits, labels, clean)
    assert found["nonfinite"].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_array_equal(found[name][1:], without[name][1:])
    if find(name).share:
        others = np.delete(np.arange(BLOCK), 3)
        rest = sums(name, logits[others], labels[others], clean[others])[name][0]
        assert found[name][0] == rest + (name == "changed")
    else:
        assert find(name).finite and np.isfinite(found[name]).all()


@pytest.mark.parametrize("name", [name for name, each in REGISTRY.items() if each.chance])
def test_guessing_gets_what_is_said(name: str) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, CLASSES)).astype(np.float32)
    labels = random.integers(0, CLASSES, len(logits)).astype(np.int32)
    chance = find(name).chance
    assert chance is not None
    got = float(np.mean(find(name).function(logits, labels, logits)))
    assert got == pytest.approx(chance(CLASSES), abs=0.02)
    assert chance(3) <= 1


@pytest.mark.parametrize("name", REGISTRY)
def test_a_result_describes_a_metric_as_it_is(name: str) -> None:
    metric = find(name)
    read = Metric.from_attributes(name, metric.to_attributes(CLASSES))
    for field in ("label", "unit", "share", "finite", "bins", "best", "low", "high", "axis_label"):
        assert getattr(read, field) == getattr(metric, field), field
    assert (read.chance and read.chance(CLASSES)) == (metric.chance and metric.chance(CLASSES))
    assert metric.first_line and metric.label == metric.label.strip()
    # A result of version 0.1 says nothing, and may hold a metric of the user's with that name.
    known = Metric.from_attributes(name, {})
    assert known == (metric if metric in always() else Metric(name))


@pytest.mark.parametrize("name", REGISTRY)
def test_every_metric_has_gradients_or_is_a_share(name: str) -> None:
    logits, labels, clean = outputs(4)
    if find(name).share:
        return
    slope = jax.grad(lambda x: find(name).function(x, labels, clean).sum())(logits)
    assert np.isfinite(slope).all()


def test_a_divergence_from_what_is_not_a_number_is_none() -> None:
    clean = np.asarray([[np.nan, 0, 0], [0, 1, -np.inf]], np.float32)
    logits = np.zeros((2, 3), np.float32)
    found = np.asarray(find("kl").function(logits, jnp.zeros(2, jnp.int32), clean))
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_what_is_always_counted_is_not_counted_twice() -> None:
    assert [each.name for each in always()] == ["top1", "top5", "changed", "loss"]
    assert list(resolve(["top1", "brier"])) == ["brier"]
    assert resolve(None) == {} and list(resolve("kl")) == ["kl"]
