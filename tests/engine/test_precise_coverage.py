"""How often the intervals of sweeps to a precision of a real network hold what is true."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from networks_for_tests import SIDE

import jaxrobust as jr
from jaxrobust.engine import precise
from jaxrobust.engine.ask import Asked, ask
from jaxrobust.engine.job import Job, Swept
from jaxrobust.engine.kept import Kept
from jaxrobust.engine.share import Alone
from jaxrobust.engine.state import State
from jaxrobust.precision import Costs

IMAGES, BLOCK, SEEDS, SWEEPS = 200, 10, 2000, 200
CELL: dict[str, Any] = dict(perturbations=["weight_noise"], layers="conv2", block=BLOCK)
STRENGTHS = (0.2, 0.7)


@dataclass
class Replayed:
    """A runner of trials whose counts are known: it looks them up.

    Attributes:
        job: what it is asked to run.
        known: the counts of every one of the equally likely draws, on all images.
        draws: which of them each seed makes.
    """

    job: Job
    known: Any
    draws: np.ndarray

    @property
    def swept(self) -> list[Swept]:
        return Swept.of(self.job.spec, self.job.perturbations)

    def run(self, state: State, seeds: int, plans: Any, follower: Any, wanted: np.ndarray) -> None:
        for name in state.clean:
            state.clean[name][:] = self.known[f"clean_{name}"].values
            own = self.known[name].values[..., self.draws[:seeds], :]
            state.trials[name][wanted] = own[wanted]


@pytest.mark.slow
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("costs", [(0.01, 0.001), (0.4, 0.0005)], ids=["cheap", "dear"])
def test_intervals_hold_the_mean_of_two_thousand_seeds(
    strength: float,
    costs: tuple[float, float],
    net: jr.Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (IMAGES, SIDE, SIDE, 3), np.uint8)
    mean, std = net.preprocessing.mean[0], net.preprocessing.std[0]
    inputs = jnp.asarray((images - mean) / std, jnp.float32)
    labels = np.array(net.apply(net.params, inputs)).argmax(1)
    labels[: IMAGES // 5] = 0
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    source = jr.images(f"npz:{tmp_path}/images.npz")
    known = jr.sweep(net, source, **CELL, strengths=[strength], seeds=SEEDS, blocks=True)
    truth = float(known.top1.sum()) / (SEEDS * IMAGES)

    # With all counts known, and trials counting the same in any sweep, a sweep of draws taken from
    # these 2,000 needs no network: everything but the runner is the real one.
    draw, suffix = costs
    monkeypatch.setattr(precise, "costs_of", lambda *_: Costs(np.array([draw]), 0.0, suffix))
    covered, seeds, shown = 0, [], []
    for root in range(SWEEPS):
        draws = random.integers(0, SEEDS, 10_000)
        monkeypatch.setattr(precise, "Runner", lambda job, draws=draws: Replayed(job, known, draws))
        kept = swept(asked(net, source, strength, root))
        cell = jr.accuracy(kept.result).squeeze()
        assert bool(cell.met)
        covered += bool(cell.low <= truth <= cell.high)
        seeds.append(int(cell.seeds))
        shown.append(int(kept.the_goal.shown[0]))
    print(f"{covered} of {SWEEPS}; seeds {np.unique(seeds)}, blocks {np.unique(shown)}")
    assert covered >= 0.92 * SWEEPS


def asked(net: jr.Network, source: jr.ImageSource, strength: float, root: int) -> Asked:
    return ask(
        net,
        source,
        **CELL,
        strengths=[strength],
        seeds=None,
        root=root,
        metrics=None,
        precision_mode="float32",
        keep="counts",
        half_width=0.03,
        options=None,
        report=lambda *_: None,
    )


def swept(asked: Asked) -> Kept:
    kept = Kept(asked.network, asked.spec, asked.perturbations, asked.source.labels)
    precise.run_to_precision(asked.job(None), kept, 0.03, None, Alone())  # type: ignore[arg-type]
    return kept
