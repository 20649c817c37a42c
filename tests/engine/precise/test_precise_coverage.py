"""How often the intervals of sweeps to a precision of a real network hold what is true."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import SIDE

import jaxrobust as jr

IMAGES, SEEDS, SWEEPS = 200, 2000, 200
CELLS: dict[str, Any] = dict(
    perturbations=["weight_noise"], layers="conv2", strengths=[0.2, 0.7], block=10
)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "half_width"), [("top1", 0.03), ("loss", 0.15)])
def test_intervals_of_two_hundred_sweeps_hold_the_mean_of_two_thousand_seeds(
    metric: str, half_width: float, net: jr.Network, tmp_path: Path
) -> None:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    mean, std = net.preprocessing.mean[0], net.preprocessing.std[0]
    inputs = jnp.asarray((images - mean) / std, jnp.float32)
    labels = np.array(net.apply(net.params, inputs)).argmax(1)
    labels[: IMAGES // 5] = 0  # mostly wrong, so that the undamaged network is, too
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    source = jr.images(f"npz:{tmp_path}/images.npz")

    many = jr.sweep(net, source, **CELLS, seeds=SEEDS, root=SWEEPS)
    truth = jr.accuracy(many, metric)["mean"]
    aim = {"precision": half_width, "precision_metric": metric}
    found = [
        jr.accuracy(jr.sweep(net, source, **CELLS, **aim, root=root), metric)
        for root in range(SWEEPS)
    ]
    assert all(cells.met.all() for cells in found)
    holds = [((cells.low <= truth) & (truth <= cells.high)).values.ravel() for cells in found]
    covered = np.sum(holds, axis=0)
    seeds, shown = (np.unique([each[name] for each in found]) for name in ("seeds", "images"))
    print(f"{covered} of {SWEEPS}; seeds {seeds}, images of each {shown}")
    assert (covered >= 0.92 * SWEEPS).all()
