"""The programs that a sweep calls, lowered for accelerators that are not here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.export
import numpy as np
import pytest

import jaxrobust as jr
from jaxrobust.network import Network
from jaxrobust.networks.zoo import lookup
from jaxrobust.perturbations import REGISTRY

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Network:
    blueprint, random = lookup(request.param).blueprint, np.random.default_rng(0)
    params: dict[str, Any] = {}
    for path, shape in blueprint.shapes().items():
        *above, name = path.split("/")
        inner = params
        for part in above:
            inner = inner.setdefault(part, {})
        scale = np.sqrt(2 / max(np.prod(shape[:-1]), 1))
        inner[name] = random.normal(0, scale, shape).astype(np.float32)
    return blueprint.network(params)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "network",
    [
        "alexnet",
        pytest.param("vgg16", marks=SLOW),
        pytest.param("squeezenet1_1", marks=SLOW),
        pytest.param("resnet18", marks=SLOW),
    ],
    indirect=True,
)
def test_every_program_of_a_sweep_lowers_for_tpu_and_cuda(
    network: Network, recorded: Callable, tmp_path: Path
) -> None:
    names, seen = set(), set()

    def lower(name: str, program: Any, given: tuple[Any, ...]) -> None:
        shapes = str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), given))
        if (id(program), shapes) in seen:
            return
        seen.add((id(program), shapes))
        names.add(name)
        for platform in ("tpu", "cuda"):
            assert jax.export.export(program, platforms=[platform])(*given).mlir_module_serialized

    recorded(lower)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *network.preprocessing.shape), np.uint8)
    images = jr.images(pixels, np.arange(2))
    perturbations = list(REGISTRY)
    found = jr.sweep(
        network, images, perturbations=perturbations, strengths=[0.5], seeds=2, keep="images"
    )
    layers = [name for name, layer in network.layers.items() if layer.kernel is not None]
    assert found["images"].shape == (len(perturbations), len(layers), 1, 2)
    assert (found["images"] == 2).all()
    # Draws and damage, pieces of the network, sums.
    assert {"made", "sums", "derived"} <= names and len(seen) > 2 * len(layers)
