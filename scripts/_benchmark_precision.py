"""A sweep to a precision against the fixed design that reaches it: all images, enough seeds."""

from __future__ import annotations

import math
import time
from typing import Any

import _benchmark_jaxrobust
import xarray
from _benchmark_workloads import PERTURBATIONS
from scipy.special import stdtrit

import jaxrobust as jr


class Contender(_benchmark_jaxrobust.Contender):
    def start(self) -> dict[str, Any]:
        """Compiles what both designs need."""
        self.precise(0.2)
        self.sweep()
        return {}

    def compare(self, half_width: float) -> dict[str, Any]:
        """Both designs in turn; of the fixed one as many seeds as the workload has."""
        began = time.perf_counter()
        precise = jr.accuracy(self.precise(half_width))
        between = time.perf_counter()
        fixed = jr.accuracy(self.sweep())
        ended = time.perf_counter()
        found = {
            "precise_seconds": between - began,
            "precise_trial_images": int(precise["trial_images"].sum()),
            "most_seeds": int(precise["seeds"].max()),
            "met": bool(precise["met"].all()),
        }
        seeds = seeds_of_fixed(fixed, half_width)
        trials = seeds * fixed["mean"].size
        per_seed = (ended - between) / self.workload.seeds
        return found | {
            "fixed_seeds": seeds,
            "fixed_seconds": per_seed * seeds,
            "fixed_trials": trials,
            "fixed_trial_images": trials * self.workload.images,
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


def seeds_of_fixed(cells: xarray.Dataset, half_width: float) -> int:
    """The fewest seeds n with t(97.5 %, n - 1) · s / √n at most the half-width in every cell.

    s is the standard deviation over seeds, measured on all images.
    """
    worst = float(cells["std"].max())
    return next(
        n for n in range(2, 10**6) if stdtrit(n - 1, 0.975) * worst / math.sqrt(n) <= half_width
    )
