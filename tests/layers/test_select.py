"""What a selector chooses from the layer table."""

from typing import Any

import pytest
from networks_for_tests import NETWORKS
from sweeps_for_tests import refusal

from jaxrobust.layers import select

CHAIN = NETWORKS["chain"]().layers
NORMALISED = NETWORKS["normalised"]().layers


@pytest.mark.parametrize(
    ("selector", "groups"),
    [
        ("conv2", {"conv2": ("conv2",)}),
        ("norm1", {"norm1": ("norm1",)}),
        ("all", {"conv1": ("conv1",), "conv2": ("conv2",), "fc": ("fc",)}),
        ("*", {"conv1": ("conv1",), "conv2": ("conv2",), "fc": ("fc",)}),
        ("conv?", {"conv1": ("conv1",), "conv2": ("conv2",)}),
        ("norm*", {"norm1": ("norm1",), "norm2": ("norm2",)}),
        (["fc", "conv*", "conv1"], {"fc": ("fc",), "conv1": ("conv1",), "conv2": ("conv2",)}),
        (
            {"early": ["norm1", "conv1"], "whole": "all"},
            {"early": ("norm1", "conv1"), "whole": ("conv1", "conv2", "fc")},
        ),
    ],
)
def test_selectors(selector: Any, groups: dict[str, tuple[str, ...]]) -> None:
    found = select(NORMALISED, selector)
    assert found == groups and list(found) == list(groups)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("conv3", "unknown layer 'conv3': did you mean conv2 or conv1"),
        ("dense*", "unknown layer 'dense*': possible: conv1, conv2, fc"),
        (["fc", "conv"], "unknown layer 'conv': did you mean"),
        ({"early": "convolution"}, "unknown layer 'convolution'"),
        ([], "no layers were asked for: possible: conv1, conv2, fc"),
        ({}, "no layers were asked for"),
        ({"early": []}, "no layers"),
        ({"early": ["conv1"], "late": []}, "no layers"),
    ],
)
def test_selectors_that_match_nothing_are_refused(selector: Any, message: str) -> None:
    assert message in refusal(select, CHAIN, selector)
