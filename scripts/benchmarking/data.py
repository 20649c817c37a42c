"""Writes what all contenders of a workload share, in a process of its own: weights and images.

Networks without weights in the package get random ones, and random images that each count as an
image of the class that the undamaged network sees in it. SqueezeNet as its authors trained it, and
photographs, come from the folder of real data.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrobust as jr
from benchmarking.facts import facts
from benchmarking.workloads import IMAGES, WEIGHTS
from jaxrobust.layers import leaf_paths
from jaxrobust.network import Network
from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.networks.port import port
from jaxrobust.networks.zoo import lookup, packed_checkpoint

# Real weights and photographs by network; JAXROBUST_SHARED_DATA names another folder.
REAL = {"squeezenet-1.1-caffe": ("squeezenet-1.1-caffe.npz", "imagenet-sample-1000.tar")}
REAL_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
# Random images are so many patches high and wide: images of noise all look alike to a network.
_PATCHES = 8


def network(name: str, folder: Path) -> Network:
    """A network of the zoo with the weights that were written to the folder."""
    with np.load(folder / WEIGHTS) as weights:
        return _built(lookup(name).blueprint, dict(weights))


def random_network(name: str) -> Network:
    """A network of the zoo with random weights."""
    blueprint = lookup(name).blueprint
    return _built(blueprint, random_weights(blueprint))


def _built(blueprint: Blueprint, weights: Mapping[str, np.ndarray]) -> Network:
    params: dict[str, Any] = {}
    for path, array in weights.items():
        *parents, leaf = path.split("/")
        place = params
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = array
    # The images have the size that the network takes.
    preprocessing = replace(blueprint.preprocessing, mode="none", resize=None)
    return replace(blueprint, preprocessing=preprocessing).network(params)


def random_weights(blueprint: Blueprint) -> dict[str, np.ndarray]:
    """He's normal distribution for kernels, a narrow one for biases."""
    generator = np.random.default_rng(0)
    weights = {}
    for path, shape in blueprint.shapes().items():
        scale = np.float32((2 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.05)
        weights[path] = generator.standard_normal(shape, np.float32) * scale
    return weights


def random_pixels(count: int, height: int, width: int) -> np.ndarray:
    """Images [count, height, width, 3] of patches of random colours."""
    generator = np.random.default_rng(0)
    patches = generator.integers(0, 256, (count, _PATCHES, _PATCHES, 3), np.uint8)
    return patches.repeat(height // _PATCHES, 1).repeat(width // _PATCHES, 2)


def prepare(name: str, count: int, folder: Path) -> None:
    """Writes the arrays of the weights, and of the images as bytes, labels and network's input."""
    own, source = None, None
    if packed_checkpoint(name):
        own, source = jr.load(name), jr.images("glyphs")
    elif name in REAL:
        real = Path(os.environ.get("JAXROBUST_SHARED_DATA", REAL_FOLDER))
        weights_file, photographs = (real / file for file in REAL[name])
        port(name, weights_file, folder / "ported")
        own, source = jr.load(folder / "ported"), jr.images(f"tar:{photographs}")
    if own is not None:
        arrays = map(np.asarray, jax.tree.leaves(own.params))
        weights = dict(zip(leaf_paths(own.params), arrays, strict=True))
    else:
        weights = random_weights(lookup(name).blueprint)
    np.savez(folder / WEIGHTS, allow_pickle=False, **weights)
    made = network(name, folder)
    if own is not None and source is not None:
        source = source[:count].with_classes(made.class_names, made.classes)
        pixels, labels = source.decode(0, count, own.preprocessing.crop)
    else:
        pixels = random_pixels(count, *made.preprocessing.size)
        with jax.default_matmul_precision("highest"):
            logits = jax.jit(made.apply)(made.params, made.preprocessing.normalise(pixels))
        labels = np.asarray(logits.argmax(1))
    inputs = made.preprocessing.normalise(pixels)
    np.savez(folder / IMAGES, images=pixels, labels=labels, inputs=inputs)


def main() -> None:
    name, count, folder = sys.argv[1:]
    prepare(name, int(count), Path(folder))
    print(json.dumps(facts()))


if __name__ == "__main__":
    main()
