"""Small sweeps, and what they are refused for; images as random as they come."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES, SIDE

import jaxrobust as jr
from jaxrobust.ground.errors import SpecificationError

IMAGES, BLOCK = 23, 10


def save(path: Path, side: int = SIDE, classes: int = CLASSES) -> jr.ImageSource:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (IMAGES, side, side, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(IMAGES) % classes)
    return jr.images(f"npz:{path}")


def small_sweep(net: jr.Network, source: jr.ImageSource, **changes: Any) -> xarray.Dataset:
    arguments: dict[str, Any] = dict(
        perturbations=["synapse_knockout"], layers="fc", strengths=[0.5], seeds=2, block=BLOCK
    )
    return jr.sweep(net, source, **{**arguments, **changes})


def refusal(function: Callable, *arguments: Any, **options: Any) -> str:
    with pytest.raises(SpecificationError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
