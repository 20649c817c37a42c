"""A sweep in a run folder, interrupted where a test wants it, and damage to its files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from sweeps_for_tests import BLOCK, small_sweep

import jaxrobust as jr
from jaxrobust.data.progress import PREPARING

ARGUMENTS: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "weight_noise"],
    layers=["conv2", "fc"],
    strengths=[0, 0.3, 0.6],
    seeds=3,
    options=jr.Options(trials_per_step=2, images_per_step=BLOCK),
)
TRIALS = 2 * 2 * 2 * 3  # without those of strength 0


def sweep(net: jr.Network, source: jr.ImageSource, run: Path, **changes: Any) -> xarray.Dataset:
    return small_sweep(net, source, **{**ARGUMENTS, "run_dir": run, **changes})


class Counter:
    """A report that counts trial-images, and stops the sweep once there are too many."""

    def __init__(self, most: float = np.inf) -> None:
        self.most, self.names, self.first, self.done = most, [], None, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.names:
            self.names.append(what)
        if what not in PREPARING and total:
            self.first = done if self.first is None else self.first
            self.done = done
            if done > self.most:
                raise KeyboardInterrupt


def interrupted(net: jr.Network, source: jr.ImageSource, run: Path, most: float) -> Counter:
    counter = Counter(most)
    with pytest.raises(KeyboardInterrupt):
        sweep(net, source, run, report=counter)
    return counter


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
