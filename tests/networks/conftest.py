"""What the tests of networks share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from weights_server import Server, running_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with running_server(monkeypatch, tmp_path) as running:
        yield running
