"""A cache of images for each test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of the test's own cache; without limits set from outside."""
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXROBUST_CACHE_GB", raising=False)
    return tmp_path / "cache"
