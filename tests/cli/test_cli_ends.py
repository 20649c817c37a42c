"""How the command ends: when it is interrupted, and when it is asked for nonsense."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands_for_tests import CLASSES, IMAGES, SIDE, SLOW, ends_with
from PIL import Image
from rich.progress import Progress

import jaxrobust as jr
from jaxrobust.cli import main
from jaxrobust.storage.durable.lock import is_locked, locked
from jaxrobust.storage.durable.store import has_checkpoints


def test_any_command_that_is_interrupted_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxrobust.cli.list.aligned", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        main(["list", "networks"])
    signal.signal(signal.SIGINT, handler)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "\njaxrobust: interrupted\n"


@pytest.mark.parametrize("presses", [3, *(pytest.param(n, marks=SLOW) for n in (1, 2, 40))])
def test_however_often_ctrl_c_is_pressed_a_sweep_ends_cleanly_and_keeps_what_was_done(
    presses: int, network: str, data: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sweep = ["sweep", network, "--data", data, "--out", str(run), "--layers", "fc[78]"]
    sweep += ["--seeds", "4000", "--save-every", "0", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxrobust", *sweep], stderr=subprocess.PIPE, text=True
    )
    while not has_checkpoints(run) and process.poll() is None:
        time.sleep(0.02)
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=60)
    assert errors == (
        f"\njaxrobust: interrupted: what was done is in {run}; the same command goes on with it\n"
    )
    assert process.returncode == 130
    found = jr.open_run(run)
    assert found.attrs["finished"] == 0 and int(found.images.sum()) > 0
    assert (run / "results.nc").exists() and not is_locked(run)


def test_an_interrupted_sweep_says_where_its_result_is(
    network: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(self: Progress, *arguments: Any, **options: Any) -> None:
        if options.get("completed") and options.get("trials"):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    sweep = ["sweep", network, "--data", data, "--out", str(out), "--layers", "fc[78]"]
    sweep += ["--perturbations", "node_knockout", "--strengths", "0,0.4,0.8", "--seeds", "3"]
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        patched.setattr(Progress, "update", interrupted)
        with pytest.raises(SystemExit) as caught:
            main(sweep)
    signal.signal(signal.SIGINT, handler)
    assert caught.value.code == 130
    error = capsys.readouterr().err
    assert f"interrupted: what was done is in {out}; the same command goes on with it" in error
    assert jr.open_run(out).attrs["finished"] == 0

    def status() -> str:
        main(["status", str(out)])
        return " ".join(capsys.readouterr().out.split())

    found = status()
    assert "state not running: the same command goes on with it" in found
    done = int((jr.open_run(out).images.sel(strength=[0.4, 0.8]) == IMAGES).sum())
    assert f"trials {done} of 12 " in found and "top-1 accuracy left (undamaged: " in found
    with locked(out):
        assert "state running trials" in status()
    main(["report", str(out)])
    assert "This run is not finished" in (out / "report.html").read_text(encoding="utf-8")

    main([*sweep, "--quiet"])
    assert jr.open_run(out).attrs["finished"] == 1
    capsys.readouterr()
    found = status()
    assert "state finished trials 12 of 12 " in found and "time left" not in found
    main([*sweep[:-1], "4", "--quiet", "--extend"])
    assert "trials 16 of 16" in status()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "fc9"], "unknown layer 'fc9': did you mean fc8"),
        (["--layers", "late=fc7", "fc8"], "either all of the form GROUP=LAYER,LAYER, or none"),
        (["--perturbations", "./mypert.py:flip"], "not a file; write mypert:flip"),
        (["--perturbations", "mypert.py:flip"], "not a file; write mypert:flip"),
        (["--perturbations", "synapses"], "unknown perturbation 'synapses': did you mean synapse"),
        (["--strengths", "0:2:0.5"], "strength 1.5 of synapse_knockout is outside its range"),
        (["--strengths", "0:1:0.3"], "steps of 0.3 do not lead from 0 to 1"),
        (["--strengths", "0:1:0.5", "weight_noise=1"], "one grid for all, or PERTURBATION=GRID"),
        (["--strengths", "resample=0.5"], "unknown perturbation in strengths 'resample'"),
        (["--seeds", "0"], "seeds 0: a whole number from 1 to 2^32 - 1 is needed"),
        (["--images", "23"], "--images 23: npz:"),
        (["--images", "0"], "--images 0: npz:"),
        (["--data", "npz:nowhere.npz"], "nowhere.npz"),
        (["--data", "pictures:here"], "'pictures:here' is not a data source; possible: "),
    ],
)
def test_a_sweep_that_cannot_be_run_ends_in_one_line(
    options: list[str],
    message: str,
    network: str,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    error = ends_with(
        ["sweep", network, "--data", data, "--out", str(out), "--quiet", *options], capsys
    )
    assert message in error
    assert not out.exists()


def test_other_commands_end_in_one_line_too(
    network: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "used").touch()
    sweep = ["sweep", network, "--data", data, "--out", str(tmp_path)]
    assert "choose a folder that is new" in ends_with(sweep, capsys)
    error = ends_with(["evaluate", "squeezenet-1.1-cafe", "--data", data], capsys)
    assert "unknown network 'squeezenet-1.1-cafe': did you mean squeezenet-1.1-caffe" in error
    assert "no checkpoint folder" in ends_with(["evaluate", "runs/none", "--data", data], capsys)
    assert "holds no results.nc: no sweep" in ends_with(["report", str(tmp_path)], capsys)
    assert "not the folder of a sweep" in ends_with(["status", str(tmp_path)], capsys)
    port = ["port", "squeezenet-1.1-caffe", str(tmp_path / "none.npz"), "--out"]
    assert "none.npz" in ends_with([*port, str(tmp_path / "ported")], capsys)


@pytest.mark.parametrize("arguments", [[], ["destroy"], ["evaluate"], ["list", "everything"]])
def test_arguments_that_cannot_be_understood_end_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_evaluate_names_the_images_that_it_leaves_out(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for number in range(CLASSES):
        folder = tmp_path / "photographs" / f"class{number}"
        folder.mkdir(parents=True)
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "whole.png")
    (tmp_path / "photographs" / "class0" / "broken.png").write_bytes(b"not an image")
    source = ["--data", f"folder:{tmp_path / 'photographs'}"]
    with pytest.raises(SystemExit):
        main(["evaluate", network, *source])
    assert "class0/broken.png: cannot be decoded" in capsys.readouterr().err
    main(["evaluate", network, *source, "--skip-broken"])
    assert "left out, since they are broken: class0/broken.png" in capsys.readouterr().out
    main(["evaluate", network, *source, "--skip-broken", "--json"])
    counts = json.loads(capsys.readouterr().out)
    assert counts["images"] == CLASSES and counts["left_out"] == ["class0/broken.png"]
