"""The plain loop in JAX: the compiled network on a damaged parameter tree, nothing hoisted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust as jr
from benchmarking.data import network
from benchmarking.workloads import IMAGES, Trial, Workload, batch_sizes, best_seconds


class Contender:
    def __init__(self, workload: Workload, folder: Path, accelerator: bool) -> None:
        self.workload = workload
        self.network = network(workload.network, folder)
        with np.load(folder / IMAGES) as arrays:
            self.inputs, self.labels = arrays["inputs"], arrays["labels"]

        @jax.jit
        def hits(params: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"):
                logits = self.network.apply(params, inputs)
            return (logits.argmax(1) == labels).sum()

        self.hits = hits

    def start(self) -> dict[str, Any]:
        """Takes the fastest of a few batch sizes, and compiles every kind of damage."""
        seconds = {}
        sizes = batch_sizes(self.workload.images)
        for size in sizes:
            self._lay_out(size)
            seconds[size] = best_seconds(lambda: self._hits(self.network.params))
        size = min(sizes, key=lambda each: seconds[each])
        self._lay_out(size)
        for trial in {
            (each.layer, each.perturbation): each for each in self.workload.timed(0)
        }.values():
            jax.block_until_ready(self._damaged(trial))
        settings = f"batches of {size}, {jax.devices()[0].device_kind}"
        return {"settings": settings, "clean_top1": self._hits(self.network.params)}

    def _lay_out(self, size: int) -> None:
        starts = range(0, len(self.labels), size)
        self.batches = [
            (jnp.asarray(self.inputs[at : at + size]), jnp.asarray(self.labels[at : at + size]))
            for at in starts
        ]

    def _damaged(self, trial: Trial) -> Any:
        return jr.perturb(
            self.network,
            trial.perturbation,
            layer=trial.layer,
            strength=trial.strength,
            seed=trial.seed,
        )

    def _hits(self, params: Any) -> int:
        return sum(int(hits) for hits in [self.hits(params, *batch) for batch in self.batches])

    def run(self, number: int) -> dict[str, Any]:
        trials = self.workload.timed(number)
        began = time.perf_counter()
        hits = [self._hits(self._damaged(trial)) for trial in trials]
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "trials": len(trials), "top1": sum(hits)}

    def finish(self) -> dict[str, Any]:
        statistics = jax.local_devices()[0].memory_stats() or {}
        peak = statistics.get("peak_bytes_in_use")
        return {"clean_top1": self._hits(self.network.params), "device_peak_bytes": peak}
