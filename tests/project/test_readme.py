"""The README's examples run as they stand."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxrobust.cli import main
from jaxrobust.perturbations import REGISTRY

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def commands(sections: list[str]) -> list[list[str]]:
    lines = "".join(sections).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    yield
    REGISTRY.pop("sign_flip", None)


@pytest.fixture
def relaxed() -> Iterator[None]:
    """Users run JAX with its default promotion rules."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def test_python_examples(scratch: Path, relaxed: None) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert (scratch / "runs/mine/results.nc").exists()
    assert namespace["left"]["mean"].notnull().any()


def test_commands_without_files(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sections = blocks("sh")
    for words in commands(sections[:1]):
        main(words[1:])
        assert len(capsys.readouterr().out.splitlines()) > 1
    assert (scratch / "runs/first/report.html").exists()


@pytest.mark.slow
def test_commands_on_real_files(
    scratch: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("squeezenet-1.1-caffe.npz", "imagenet-sample-1000.tar"):
        (scratch / name).symlink_to(shared_data / name)
    for words in commands(blocks("sh")[1:]):
        assert words[0] == "jaxrobust"
        main(words[1:])
    shown = capsys.readouterr().out
    assert "643 of 1,000 images" in shown
    assert "fire9/expand3x3" in shown
    assert (scratch / "runs/mine/results.csv").exists()
