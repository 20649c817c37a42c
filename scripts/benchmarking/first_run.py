"""What a first sweep costs, compilation and everything else included.

Each measurement is a process of its own: `python -m benchmarking.first_run NAME HOW`, where HOW is
`sweep`, or `loop` for the same trials as a user would write them in JAX. It answers with a line of
JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust as jr
from benchmarking.data import random_network, random_pixels
from benchmarking.tiny_vit import tiny_vit
from benchmarking.worker import peak_bytes
from benchmarking.workloads import FIRST_RUNS, FirstRun
from jaxrobust.network import Network


def sweep(network: Network, pixels: Any, labels: Any, run: FirstRun) -> int:
    """The sweep; returns how many trials it ran."""
    result = jr.sweep(
        network,
        (pixels, labels),
        perturbations=run.perturbations,
        strengths=list(run.strengths),
        seeds=1,
        block=run.images,
    )
    return int((result["images"] > 0).sum())


def loop(network: Network, pixels: Any, labels: Any, run: FirstRun) -> int:
    """One compiled forward pass, and damage without compilation, kernel by kernel."""
    inputs = jnp.asarray(network.preprocessing.normalise(pixels))
    labels = jnp.asarray(labels)
    hits = jax.jit(lambda params: (network.apply(params, inputs).argmax(1) == labels).sum())
    leaves, tree = jax.tree.flatten(network.params)
    key, trials = jax.random.key(0), 0
    for place, leaf in enumerate(leaves):
        if leaf.ndim < 2:
            continue
        for perturbation in run.perturbations:
            for strength in map(float, run.strengths):
                key, own = jax.random.split(key)
                damaged = list(leaves)
                damaged[place] = _damaged(perturbation, strength, leaf, own)
                int(hits(jax.tree.unflatten(tree, damaged)))
                trials += 1
    return trials


def _damaged(perturbation: str, strength: float, kernel: Any, key: Any) -> Any:
    if perturbation == "weight_noise":
        return kernel + strength * kernel.std() * jax.random.normal(key, kernel.shape)
    shape = kernel.shape if perturbation == "synapse_knockout" else kernel.shape[-1:]
    return jnp.where(jax.random.uniform(key, shape) < strength, 0, kernel)


def main() -> None:
    name, how = sys.argv[1:]
    run = FIRST_RUNS[name]
    network = tiny_vit() if name == "tiny-vit" else random_network(run.network)
    pixels = random_pixels(run.images, *network.preprocessing.size)
    labels = np.arange(run.images) % network.classes
    trials = {"sweep": sweep, "loop": loop}[how](network, pixels, labels, run)
    figures = {"trials": trials, "cpu_seconds": time.process_time(), "peak_bytes": peak_bytes()}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
