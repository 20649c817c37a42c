"""What the command says about images: small ones, broken ones, ones with names that are traps."""

import io
import json
import tarfile
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxrobust as jr
from jaxrobust.bars import work_progress
from jaxrobust.cli import main
from jaxrobust.ground.text import aligned, printable
from jaxrobust.networks import zoo

CAFFE = jr.Preprocessing((8, 8), 10, "squash", "bgr", small="pad")
TRAP = "\x1b[2J\x1b]0;owned\x07\n[red]"


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network with the preprocessing of Caffe's, under any name."""
    weights = jnp.asarray(np.random.default_rng(0).normal(0, 0.01, (3, 2)), jnp.float32)
    made = jr.Network(
        lambda params, x: x.mean((1, 2)) @ params["dense"]["w"],
        {"dense": {"w": weights}},
        name="small",
        preprocessing=CAFFE,
    )
    monkeypatch.setattr(zoo, "load", lambda name: made)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command's is its own
    return "small"


@pytest.fixture
def photographs(tmp_path: Path) -> str:
    """White ones, of which the second is too small."""
    for label, side in {"a": 20, "b": 6}.items():
        (tmp_path / "photos" / label).mkdir(parents=True)
        white = np.full((side, side, 3), 255, np.uint8)
        (tmp_path / "photos" / label / "x.png").write_bytes(png(white))
    return f"folder:{tmp_path / 'photos'}"


def evaluate(
    capsys: pytest.CaptureFixture[str], network: str, data: str, *options: str
) -> tuple[str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main(["evaluate", network, "--data", data, *options])
    printed = capsys.readouterr()
    return printed.out, printed.err


def loss(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("loss"))


def test_small_photographs_are_padded_only_with_a_word(
    network: str, photographs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    padded, note = evaluate(capsys, network, photographs, "--resize", "shorter")
    assert "small pads photographs whose shorter side is below 10 pixels with black" in note
    assert "--small enlarge" in note
    asked, silence = evaluate(capsys, network, photographs, "--resize", "shorter", "--small", "pad")
    assert "black" not in silence and loss(asked) == loss(padded)
    enlarged, silence = evaluate(
        capsys, network, photographs, "--resize", "shorter", "--small", "enlarge"
    )
    squashed, _ = evaluate(capsys, network, photographs, "--resize", "squash")
    assert "black" not in silence
    assert loss(enlarged) == loss(squashed) != loss(padded)  # all white, as they are


@pytest.mark.parametrize("command", ["evaluate", "plan", "sweep"])
def test_the_help_says_what_becomes_of_small_photographs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "networks from Caffe pad with black" in words and "--small {enlarge,pad}" in words


def test_small_without_shorter_is_refused(
    network: str, photographs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate(capsys, network, photographs, "--small", "enlarge")
    assert "--small enlarge has no effect without --resize shorter" in capsys.readouterr().err


def trapped(path: Path) -> str:
    """An archive of a sound image and a broken one, both with names that steer a terminal."""
    sound = png(np.full((9, 9, 3), 9, np.uint8))
    with tarfile.open(path, "w") as archive:
        for name, content in ((f"a/{TRAP}.png", b"broken"), (f"b/{TRAP}.png", sound)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return f"tar:{path}"


def test_names_of_images_never_steer_the_terminal(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trapped(tmp_path / "x.tar")
    out, error = evaluate(capsys, network, data, "--skip-broken")
    assert "left out, since they are broken: a/\\x1b[2J\\x1b]0;owned\\x07\\n[red].png\n" in out
    assert all(line.isprintable() for line in out.splitlines())
    assert "owned" not in error
    out, _ = evaluate(capsys, network, data, "--skip-broken", "--json")
    assert json.loads(out)["left_out"] == [f"a/{TRAP}.png"]
    with pytest.raises(SystemExit):
        evaluate(capsys, network, data)
    error = capsys.readouterr().err
    [line] = [line for line in error.splitlines() if line.startswith("jaxrobust: error: ")]
    assert line.isprintable() and "cannot be decoded" in line and "\x1b]0;" not in error


def test_warnings_never_steer_the_terminal(
    network: str,
    photographs: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = zoo.load(network)

    def load(name: str) -> jr.Network:
        warnings.warn(f"something about {TRAP}", stacklevel=2)
        return made

    monkeypatch.setattr(zoo, "load", load)
    _, error = evaluate(capsys, network, photographs, "--json")
    assert "jaxrobust: note: something about \\x1b[2J" in error and "\x1b[2J" not in error


def test_progress_never_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with work_progress(False) as report:
        report("decoding images", 2, 2)
        report(f"layer {TRAP}", 1, 2)
    shown = capsys.readouterr().err
    assert "\\x1b[2J\\x1b]0;owned" in shown and "[red]" in shown
    assert "\x1b]0;" not in shown and "\x1b[2J" not in shown


def test_tables_never_steer_the_terminal() -> None:
    assert aligned([("layer", "units"), (TRAP, "4")]).splitlines() == [
        "layer                           units",
        "\\x1b[2J\\x1b]0;owned\\x07\\n[red]  4",
    ]


def test_what_is_printable_stays_as_it_is() -> None:
    for text in ("", "plain", "Grüße, 网络 × – …", "it's \\ 'quoted'"):
        assert printable(text) == text
    assert printable("\udcff\u202e\x9b\u2028") == "\\udcff\\u202e\\x9b\\u2028"
