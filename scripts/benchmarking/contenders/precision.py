"""A sweep to a precision against the fixed design that reaches it: all images, enough seeds."""

from __future__ import annotations

import math
import time
from typing import Any

import xarray
from scipy.special import stdtrit

import jaxrobust as jr
from benchmarking.contenders import jaxrobust as sweeping
from benchmarking.workloads import PERTURBATIONS


class Contender(sweeping.Contender):
    def start(self) -> dict[str, Any]:
        """Compiles what both designs need."""
        self.precise(0.2)
        for seeds in (1, self.workload.seeds):
            self.sweep(seeds=seeds)
        return {}

    def compare(self, half_width: float) -> dict[str, Any]:
        """The sweep to a precision, and what the fixed design that reaches it takes.

        Its first seed costs what running it alone takes, with all that is done once, and each
        further one what the workload's number of seeds takes longer, divided among them.
        """
        workload, clock = self.workload, time.perf_counter
        began = clock()
        result = self.precise(half_width)
        to_the_precision = clock() - began
        began = clock()
        self.sweep(seeds=1)
        first = clock() - began
        began = clock()
        self.sweep()
        further = (clock() - began - first) / (workload.seeds - 1)
        cells = jr.accuracy(result)
        seeds = seeds_of_fixed(result, half_width)
        trials = seeds * cells["mean"].size
        return {
            "precise_seconds": to_the_precision,
            "precise_trial_images": int(cells["trial_images"].sum()),
            "most_seeds": int(cells["seeds"].max()),
            "met": bool(cells["met"].all()),
            "fixed_seeds": seeds,
            "fixed_seconds": first + (seeds - 1) * further,
            "fixed_trials": trials,
            "fixed_trial_images": trials * workload.images,
        }

    def precise(self, half_width: float) -> xarray.Dataset:
        workload = self.workload
        return jr.sweep(
            self.network,
            self.images,
            perturbations=PERTURBATIONS,
            layers=list(workload.layers),
            strengths=list(workload.strengths),
            precision=half_width,
            block=workload.block,
        )


def seeds_of_fixed(result: xarray.Dataset, half_width: float) -> int:
    """The fewest seeds n with t(97.5 %, n - 1) · s / √n at most the half-width in every cell.

    s² is the variance over seeds of the accuracy on all N images. A sweep to a precision has many
    seeds just where it matters, each with m images: drawn without putting back, they add the mean
    of p (1 - p) / (m - 1) · (1 - m / N) to the variance of its seeds' accuracies p (Cochran,
    Sampling Techniques, 1977, section 3.2).
    """
    images = result["images"].where(result["images"] > 0)
    seen = result["top1"] / images
    luck = seen * (1 - seen) / (images - 1) * (1 - images / int(result["clean_images"]))
    worst = float((seen.var("seed", ddof=1) - luck.mean("seed")).max())
    return next(
        n for n in range(2, 10**6) if stdtrit(n - 1, 0.975) * math.sqrt(worst / n) <= half_width
    )
