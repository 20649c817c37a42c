"""What the seeds of a sweep to a precision have added up of one metric, and what that tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.metrics import Metric
from jaxrobust.results.info import SweepInfo
from jaxrobust.results.labels import CLEAN, CONTROL, TRIALS, as_wanted, control, metric_of
from jaxrobust.sampling import Estimate, estimate

if TYPE_CHECKING:
    import xarray

Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SeedSums:
    """Sums of one metric over the images of each trial; seeds that were run come first.

    Attributes:
        metric: which.
        seen: how many images each trial saw, [perturbation, layer, strength, seed].
        images: how many of them count for the metric; likewise.
        sums: of the metric, over these.
        luck: the undamaged network's sums over the same images, less what so many have on average.
        undamaged: the undamaged network's mean over all images.
        exact: bool [perturbation, layer, strength], where nothing is random and a trial has seen
            all images: there the mean is known.
    """

    metric: Metric
    seen: np.ndarray
    images: np.ndarray
    sums: np.ndarray
    luck: np.ndarray
    undamaged: float
    exact: np.ndarray

    @staticmethod
    def of_result(result: xarray.Dataset, metric: str) -> SeedSums:
        """Those of a result, its blocks added, that holds the controls of a metric."""
        told = metric_of(result, metric)
        names = _needed(told)
        return _seed_sums(
            told,
            SweepInfo.of(result),
            [result[name].values.tolist() for name in ("perturbation", "strength")],
            {name: result[name].values for name in names},
            {name: result[f"clean_{name}"].values for name in names},
            {name: result[CONTROL + name].values for name in names[1:]},
        )

    @staticmethod
    def of_progress(arrays: Sums, record: Mapping[str, Any], metric: Metric) -> SeedSums:
        """Those of a sweep under way: see `jaxrobust.storage.progress.SweepProgress`."""
        names = _needed(metric)
        clean = {name: arrays[CLEAN + name] for name in names}
        left = [TRIALS + name for name in names]
        arrays = {n: v for n, v in arrays.items() if not n.startswith(TRIALS) or n in left}
        trials = as_wanted(arrays, record)
        seen = trials[TRIALS + "images"]
        return _seed_sums(
            metric,
            SweepInfo.read(record["attributes"]),
            [record["coordinates"][name] for name in ("perturbation", "strength")],
            {name: trials[TRIALS + name].sum(-1) for name in names},
            {name: values.sum() for name, values in clean.items()},
            {name: control(name, seen, clean).sum(-1) for name in names[1:]},
        )

    def estimate(self, target: float, confidence: float = 0.95) -> Estimate:
        """What is known of each cell: see `jaxrobust.sampling.estimate`.

        Without random draws, or damage, one trial on all images is all that there is to know.
        """
        bounds = (self.metric.low, self.metric.high)
        seeds = (self.seen > 0).sum(-1)
        found = estimate(self.sums, self.images, self.luck, seeds, target, confidence, bounds)
        return replace(
            found,
            low=np.where(self.exact, found.mean, found.low),
            high=np.where(self.exact, found.mean, found.high),
            half_width=np.where(self.exact, 0.0, found.half_width),
            met=found.met | self.exact,
        )


def _needed(metric: Metric) -> list[str]:
    """The sums that a metric's means are made of."""
    return ["images", metric.name, *(["nonfinite"] if metric.finite else [])]


def _seed_sums(
    metric: Metric,
    info: SweepInfo,
    grid: Sequence[Sequence[Any]],
    trials: Sums,
    clean: Sums,
    controls: Sums,
) -> SeedSums:
    """From sums [perturbation, layer, strength, seed] and those of the undamaged network.

    Args:
        grid: the labels of perturbations and strengths.
        trials, clean, controls: quantity -> sums of trials, of the undamaged network on all
            images, and on those that each trial saw.
    """
    # After a sweep was stopped there may be seeds that were not run between others.
    order = np.argsort(trials["images"] == 0, axis=-1, kind="stable")
    trials, controls = (
        {name: np.take_along_axis(values, order, -1) for name, values in each.items()}
        for each in (trials, controls)
    )
    seen = trials["images"]
    undamaged = float(clean[metric.name] / (clean["images"] - clean.get("nonfinite", 0)))
    average = (seen - controls.get("nonfinite", 0)) * undamaged
    names, strengths = grid
    exact = np.isin(names, info.exact)[:, None, None]
    exact = exact | info.undamaged_cells(names, strengths)[:, None]
    return SeedSums(
        metric,
        seen=seen,
        images=seen - trials.get("nonfinite", 0),
        sums=trials[metric.name],
        luck=controls[metric.name] - average,
        undamaged=undamaged,
        exact=exact & (seen[..., 0] == clean["images"]),
    )
