"""Sweeps on several devices: the same counts, and programs in which no device waits for another."""

import re
from typing import Any

import jax
import numpy as np
import pytest
import xarray
from networks_for_tests import NETWORKS
from sweeps_for_tests import IMAGES, small_sweep

import jaxrobust as jr
from jaxrobust.execution import group
from jaxrobust.execution.programs import Programs

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


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The text of every compiled program that sweeps call from now on, by name."""
    texts: dict[str, list[str]] = {}

    class Recording(Programs):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            for name, program in list(vars(self).items()):
                setattr(self, name, self.recording(name, program))

        def recording(self, name: str, program: Any) -> Any:
            def call(*given: Any) -> Any:
                text = program.lower(*given).compile().as_text()
                texts.setdefault(name, []).append(text)
                return program(*given)

            return call

    monkeypatch.setattr(group, "Programs", Recording)
    return texts


@pytest.mark.filterwarnings("ignore:unit_silencing")
def test_no_device_waits_for_another_but_for_the_sum_over_divided_images(
    branches: jr.Network, source: jr.ImageSource, compiled: dict[str, list[str]]
) -> None:
    on_devices(branches, source, 8, EVERYTHING)
    assert compiled.keys() == {"shared", "prefix", "multiply", "mix", "finish"}
    for name, texts in compiled.items():
        for text in texts:
            assert name == "shared" or "num_partitions=8" in text, name
            assert not COLLECTIVE.search(text), name
    compiled.clear()
    on_devices(branches, source, 8, FEW)
    for name, texts in compiled.items():
        found = {each for text in texts for each in COLLECTIVE.findall(text)}
        assert found == ({"all-reduce"} if name == "finish" else set()), name
