"""`jaxrobust.sweep`, with what can be measured about it apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

import jaxrobust as jr
from benchmarking.data import network
from benchmarking.figures import PRODUCT
from benchmarking.workloads import IMAGES, PERTURBATIONS, Workload, best_seconds
from jaxrobust.execution.routes import route_of
from jaxrobust.network import Network
from jaxrobust.perturbations import draw, find
from jaxrobust.program.route import Route


def operations_of_loop(network: Network, workload: Workload) -> int:
    """Operations of a loop that runs the whole network for every trial."""
    whole = _route(network, (), workload).prefix_operations
    return whole * workload.images // workload.block * workload.trials


def remaining_operations(network: Network, workload: Workload) -> int:
    """Operations that hoisting and sharing leave, in convolutions and matrix products.

    For every layer: the prefix and the undamaged kernel's product once on all images, the suffix
    for every trial. A trial of a perturbation that acts linearly on the kernel does without the
    product, which an affine one needs once per seed instead. They are counted as the network's
    definition has them, whatever a faster way to compute a convolution saves. The pass of the
    undamaged network is not counted.
    """
    total = 0
    for name in workload.layers:
        layer = network.layers[name]
        once = {}
        for perturbation in map(find, PERTURBATIONS):
            touched = tuple(leaf.path for leaf in perturbation.leaves(layer))
            parts = _route(network, touched, workload)
            once[touched] = parts.prefix_operations + parts.product_operations
            shared = parts.product_operations if perturbation.acts else 0
            trials = len(workload.strengths) * workload.seeds
            total += (parts.suffix_operations - shared) * trials
            directions = perturbation.linear.directions_per_seed if perturbation.linear else 0
            total += shared * workload.seeds * directions
        total += sum(once.values())
    return total * workload.images // workload.block


def operations_of_careful_loop(network: Network, workload: Workload) -> int:
    """Operations of a loop that runs for every trial what its layer's damage can reach.

    The pass of the undamaged network, up to the last layer, is not counted.
    """
    total = 0
    for name in workload.layers:
        touched = tuple(leaf.path for leaf in network.layers[name].leaves)
        total += _route(network, touched, workload).suffix_operations
    trials = workload.trials // len(workload.layers)
    return total * trials * workload.images // workload.block


def _route(network: Network, touched: tuple[str, ...], workload: Workload) -> Route:
    return route_of(network, touched, workload.block, platform="cpu", reformulate=False)


def product_rate() -> float:
    """The best rate of float32 matrix products at full precision, in operations per second."""
    sizes = (1024, 1536, 2048) if jax.default_backend() == "cpu" else (4096, 8192)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    best = 0.0
    for size in sizes:
        square = jnp.ones((size, size), jnp.float32)
        seconds = best_seconds(lambda x=square: product(x, x).block_until_ready(), 5)
        best = max(best, 2 * size**3 / seconds)
    return best


class Compilation:
    """Seconds spent on tracing, lowering and compiling, or on fetching what was compiled."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float, int]] = []
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            now = time.perf_counter()
            self.spans.append((now - duration_secs, now, threading.get_ident()))

    def seconds(self) -> tuple[float, float]:
        """Since the last call: by all threads, and by the one that calls this, which waited."""
        spans, self.spans = self.spans, []
        own = [span for span in spans if span[2] == threading.get_ident()]
        return _covered(spans), _covered(own)


def _covered(spans: Iterable[tuple[float, float, int]]) -> float:
    """The length of the union: tracing nests, and threads work side by side."""
    total, reached = 0.0, 0.0
    for begin, end, _ in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


class Contender:
    def __init__(self, workload: Workload, folder: Path, accelerator: bool) -> None:
        # Every sweep compiles its own programs: this is what makes the second one start at once.
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        self.compilation = Compilation()
        self.workload = workload
        self.network = network(workload.network, folder)
        self.images = jr.images(f"npz:{folder / IMAGES}")

    def start(self) -> dict[str, Any]:
        """The cold sweep: everything is compiled."""
        workload = self.workload
        cold = self.run(0)
        device = jax.devices()[0].device_kind
        return {
            "settings": f"blocks of {workload.block} images, {device}",
            "clean_top1": cold["clean_top1"],
            "cold": {name: cold[name] for name in ("seconds", "compile_seconds")},
            "operations": {
                "loop": operations_of_loop(self.network, workload),
                "pytorch_careful": operations_of_careful_loop(self.network, workload),
                "jaxrobust": remaining_operations(self.network, workload),
            },
        }

    def run(self, number: int) -> dict[str, Any]:
        workload = self.workload
        self.compilation.seconds()
        began = time.perf_counter()
        result = self.sweep()
        seconds = time.perf_counter() - began
        compiling, waiting = self.compilation.seconds()
        statistics = jax.local_devices()[0].memory_stats() or {}
        return {
            "seconds": seconds,
            "trials": int((result["images"] == workload.images).sum()),
            "top1": int(result["top1"].sum()),
            "clean_top1": int(result["clean_top1"].sum()),
            "compile_seconds": compiling,
            "waiting_seconds": waiting,
            "device_peak_bytes": statistics.get("peak_bytes_in_use"),
        }

    def sweep(self, run_dir: Path | None = None, seeds: int | None = None) -> xarray.Dataset:
        """Of the workload's number of seeds, or of another."""
        workload = self.workload
        return jr.sweep(
            self.network,
            self.images,
            perturbations=PERTURBATIONS,
            layers=list(workload.layers),
            strengths=list(workload.strengths),
            seeds=seeds or workload.seeds,
            block=workload.block,
            run_dir=run_dir,
        )

    def finish(self) -> dict[str, Any]:
        return {"draw_seconds": self._draw_seconds()}

    def rates(self) -> dict[str, Any]:
        return {"rates": {PRODUCT: product_rate()}}

    def _draw_seconds(self) -> float:
        """The time of all draws of the sweep, one seed at a time, without compilation."""
        total = 0.0
        seeds = np.arange(self.workload.seeds, dtype=np.uint32)[:, None]
        for name in self.workload.layers:
            for perturbation in map(find, PERTURBATIONS):
                layers = [self.network.layers[name]]
                jax.block_until_ready(draw(perturbation, layers, 0, seeds[0]))
                began = time.perf_counter()
                for seed in seeds:
                    jax.block_until_ready(draw(perturbation, layers, 0, seed))
                total += time.perf_counter() - began
        return total
