"""Sweeps on several devices: the same counts, and programs in which no device waits for another."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import xarray
from networks_for_tests import NETWORKS
from sweeps_for_tests import IMAGES, small_sweep

import jaxrobust as jr

COLLECTIVE = re.compile(
    r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
)
EVERYTHING: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "node_knockout", "weight_noise", "unit_silencing"],
    layers="right",
    strengths=[0, 0.3, 0.6],
    seeds=5,
)
FEW: dict[str, Any] = dict(perturbations=["weight_noise"], layers="stem", seeds=1)


@pytest.fixture(scope="module")
def branches() -> jr.Network:
    return NETWORKS["branches"]()


def on_devices(
    net: jr.Network, source: jr.ImageSource, devices: int, asked: dict[str, Any]
) -> xarray.Dataset:
    with jax.default_device(None):
        return small_sweep(net, source, **asked, options=jr.Options(devices=devices))


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(EVERYTHING, marks=pytest.mark.slow, id="many trials"),
        pytest.param(FEW, id="one trial"),
    ],
)
@pytest.mark.filterwarnings("ignore:unit_silencing")
def test_counts_are_the_same_on_any_number_of_devices(
    asked: dict[str, Any], branches: jr.Network, source: jr.ImageSource
) -> None:
    results = {n: on_devices(branches, source, n, asked) for n in (1, 2, 4, 8)}
    one = results.pop(1)
    assert (one.images == IMAGES).all()
    for devices, several in results.items():
        for name, values in one.data_vars.items():
            found = several[name].values
            if values.dtype.kind == "i":
                # Within one image in a thousand, of which there are 23.
                np.testing.assert_array_equal(found, values.values, f"{name} on {devices}")
            else:
                np.testing.assert_allclose(found, values.values, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:unit_silencing")
def test_no_device_waits_for_another_but_for_the_sum_over_divided_images(
    branches: jr.Network, source: jr.ImageSource, recorded: Callable
) -> None:
    texts: dict[str, list[str]] = {}

    def compiled(name: str, program: Any, given: tuple[Any, ...]) -> None:
        texts.setdefault(name, []).append(program.lower(*given).compile().as_text())

    recorded(compiled)
    on_devices(branches, source, 8, EVERYTHING)
    assert len(texts) >= 5 and "sums" in texts
    for name, found in texts.items():
        assert not any(map(COLLECTIVE.search, found)), name
    assert any("num_partitions=8" in text for text in texts["sums"])
    texts.clear()
    on_devices(branches, source, 8, FEW)
    for name, found in texts.items():
        collectives = {each for text in found for each in COLLECTIVE.findall(text)}
        assert collectives == ({"all-reduce"} if name == "sums" else set()), name
