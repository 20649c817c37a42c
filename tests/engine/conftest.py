"""What the tests of the engine share: a small network and a few random images."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from folders_for_tests import sweep
from networks_for_tests import NETWORKS
from sweeps_for_tests import save

import jaxrobust as jr
from jaxrobust.execution import plan
from jaxrobust.execution.steps import chunks, ordinary, programs
from jaxrobust.perturbations import REGISTRY, compiled, trials
from jaxrobust.runtime import meshes
from jaxrobust.runtime.meshes import on_mesh


@pytest.fixture(scope="module")
def net() -> jr.Network:
    return NETWORKS["chain"]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def source(folder: Path) -> jr.ImageSource:
    return save(folder / "right.npz")


@pytest.fixture(autouse=True)
def segmented(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks are run in segments, as large ones are, although they are small."""
    monkeypatch.setattr(plan, "_WORTH_SEGMENTS", -1)


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


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable], None]]:
    """Has a function called with each program that the engine calls, its name and its arguments."""
    see: list[Callable[[str, Any, tuple[Any, ...]], None]] = []

    def recording(function: Any, *arguments: Any, **options: Any) -> Any:
        program = on_mesh(function, *arguments, **options)

        def call(*given: Any) -> Any:
            for each in see:
                each(getattr(function, "__name__", ""), program, given)
            return program(*given)

        return call

    def forget() -> None:
        for module in (programs, compiled, trials, chunks, ordinary):
            for each in vars(module).values():
                if hasattr(each, "cache_clear"):
                    each.cache_clear()

    forget()
    for module in (meshes, compiled, trials, chunks):
        monkeypatch.setattr(module, "on_mesh", recording)
    yield see.append
    forget()
