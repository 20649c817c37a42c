"""Draws and counts are those of version 0.1, whose numbers agreed with independent loops."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxrobust as jr

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "version_0_1.json").read_text())


def by_path(params: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def digest(array: np.ndarray) -> str:
    content = np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(str((array.dtype, array.shape)).encode() + content).hexdigest()[:32]


@pytest.mark.parametrize("perturbation", sorted({e["perturbation"] for e in GOLDEN["damaged"]}))
def test_damaged_weights_are_those_of_version_0_1_to_the_bit(perturbation: str):
    network = jr.load("alexnet-glyphs")
    before = by_path(network.params)
    for expected in GOLDEN["damaged"]:
        if expected["perturbation"] != perturbation:
            continue
        which = {name: expected[name] for name in ("layer", "strength", "seed", "root")}
        after = by_path(jr.perturb(network, perturbation, **which))
        changed = {path for path in before if not np.array_equal(before[path], after[path])}
        assert {path: digest(after[path]) for path in changed} == expected["leaves"], which


def test_a_sweep_counts_what_version_0_1_counted():
    result = jr.sweep(
        jr.load("alexnet-glyphs"),
        jr.images("glyphs")[:150],
        perturbations=["synapse_knockout", "node_knockout", "weight_noise"],
        layers=["conv1", "conv4", "fc7"],
        strengths=[0.3, 0.6],
        seeds=2,
        root=3,
    )
    for counts in GOLDEN["counts"]:
        for quantity, values in counts.items():
            np.testing.assert_array_equal(result[quantity], values)
    np.testing.assert_allclose(result["loss"], GOLDEN["loss"], rtol=1e-5)
