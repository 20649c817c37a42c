"""Warnings about an undamaged network that cannot be what was meant."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import PREPROCESSING, SIDE
from sweeps_for_tests import small_sweep

import jaxrobust as jr
from jaxrobust.execution.baseline.plausible import warnings_of
from jaxrobust.report import write_report
from jaxrobust.storage.status import status
from jaxrobust.summary import text_table

CLASSES, IMAGES = 10, 60


def saved(folder: Path, shift: int) -> jr.ImageSource:
    """Images that are as bright as their class says, and labels that are shifted."""
    classes = np.arange(IMAGES) % CLASSES
    pixels = np.broadcast_to((25 * classes)[:, None, None, None], (IMAGES, SIDE, SIDE, 3))
    file = folder / f"shift{shift}.npz"
    np.savez(file, images=pixels.astype(np.uint8), labels=(classes + shift) % CLASSES)
    return jr.images(f"npz:{file}")


def network(outputs: Callable[[Any], Any] = lambda logits: logits) -> jr.Network:
    """One that reads the class off the brightness."""

    def apply(params: Any, images: Any) -> Any:
        level = (images.mean((1, 2, 3)) * 60 + 120) / 25
        middle = jnp.arange(CLASSES).astype(jnp.float32)
        distance = level[:, None] - middle[None]
        return outputs(-(distance**2) @ params["fc"]["w"])

    params = {"fc": {"w": jnp.eye(CLASSES)}}
    return jr.Network(apply, params, name="brightness", preprocessing=PREPROCESSING)


def told(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*arguments, **options)
    assert all(each.category is UserWarning for each in caught)
    return result, [str(each.message) for each in caught]


def test_a_network_that_is_right_is_not_suspicious(tmp_path: Path) -> None:
    found, warned = told(jr.evaluate, network(), saved(tmp_path, 0))
    assert found.top1 == IMAGES and not warned and "WARNING" not in str(found)


def test_labels_that_are_shifted_by_one_are_noticed_everywhere(tmp_path: Path) -> None:
    source, run = saved(tmp_path, 1), tmp_path / "run"
    found, warned = told(jr.evaluate, network(), source)
    [warning] = warned
    assert "brightness undamaged is no better than chance: top-1 accuracy is 0.0% of 60" in warning
    assert "10.0% of shuffled labels" in warning
    for cause in ("labels in another order", "another preprocessing", "weights"):
        assert cause in warning
    assert found.warnings == (warning,) and str(found).startswith(f"WARNING: {warning}")
    # A finished sweep says so again.
    for _ in range(2):
        result, warned = told(small_sweep, network(), source, run_dir=run)
        assert warned == [warning]
        assert text_table(result).startswith(f"WARNING: {warning}")
    again = jr.open_run(run)
    assert text_table(again).startswith("WARNING: ") and "WARNING: brightness" in status(run)
    page = write_report(run)[0].read_text()
    assert '<p class="notice">Warning: brightness undamaged is no better than chance' in page


def test_a_sweep_to_a_precision_is_warned_about_too(tmp_path: Path) -> None:
    source = saved(tmp_path, 1)
    result, warned = told(small_sweep, network(), source, seeds=None, precision=0.4)
    assert len(warned) == 1 and "WARNING" in text_table(result)


@pytest.mark.parametrize("shift", [0, 1])
def test_probabilities_are_recognised_whatever_the_accuracy(shift: int, tmp_path: Path) -> None:
    found, warned = told(jr.evaluate, network(jax.nn.softmax), saved(tmp_path, shift))
    assert "brightness gives probabilities" in warned[0] and "softmax" in warned[0]
    assert len(warned) == 1 + shift and found.warnings == tuple(warned)


@pytest.mark.parametrize("outputs", [jax.nn.log_softmax, jax.nn.sigmoid, jax.nn.relu])
def test_other_outputs_are_no_probabilities(outputs: Callable, tmp_path: Path) -> None:
    _, warned = told(jr.evaluate, network(outputs), saved(tmp_path, 0))
    assert not any("probabilities" in each for each in warned)


def one_hot(predictions: np.ndarray, classes: int) -> np.ndarray:
    return 5.0 * np.eye(classes, dtype=np.float32)[predictions]


def suspicious(right: int, images: int, classes: int, labelled: int | None = None) -> bool:
    """Whether so many right ones of balanced labels are, the others going to the next class."""
    labels = np.arange(images) % (labelled or classes)
    predictions = np.where(np.arange(images) < right, labels, (labels + 1) % classes)
    return bool(warnings_of("n", one_hot(predictions, classes), labels))


def test_few_images_and_weak_networks_raise_no_alarm() -> None:
    assert suspicious(0, 60, 100) and suspicious(1, 60, 100)
    assert suspicious(50, 100, 2) and suspicious(0, 10, 2)
    assert suspicious(0, 100, 1000, labelled=100), "a network of other classes"
    assert not suspicious(0, 5, 100) and not suspicious(0, 10, 100), "that can be bad luck"
    assert not suspicious(3, 5, 2) and not suspicious(12, 23, 2)
    assert not suspicious(6, 60, 100) and not suspicious(50, 1000, 100), "weak, but above chance"
    assert not suspicious(60, 60, 100)


def test_chance_is_that_of_the_labels_at_hand() -> None:
    random = np.random.default_rng(0)
    labels = np.where(random.random(400) < 0.8, 0, random.integers(1, 10, 400))
    always = one_hot(np.zeros(400, int), 10)
    assert warnings_of("n", always, labels), "the most frequent class is always named"
    # A network that is worse than that on these labels, but knows something.
    guesses = np.where(random.random(400) < 0.7, labels, random.integers(0, 10, 400))
    assert (guesses == labels).mean() < 0.8
    assert not warnings_of("n", one_hot(guesses, 10), labels)
    # Images of one class can be all right.
    assert not warnings_of("n", always, np.zeros(400, int))
    assert warnings_of("n", always, np.ones(400, int))
    assert warnings_of("n", np.full((400, 10), np.nan, np.float32), labels)
