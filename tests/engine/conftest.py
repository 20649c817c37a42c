"""What the tests of the engine share: a small network and a few random images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folders_for_tests import sweep
from networks_for_tests import NETWORKS
from sweeps_for_tests import save

import jaxrobust as jr
from jaxrobust.perturbations import REGISTRY


@pytest.fixture(scope="module")
def net() -> jr.Network:
    return NETWORKS["chain"]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def source(folder: Path) -> jr.ImageSource:
    return save(folder / "right.npz")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Perturbations that a test registers are gone after it."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture(scope="module")
def whole(net: jr.Network, source: jr.ImageSource, tmp_path_factory: Any) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    sweep(net, source, run)
    return run
