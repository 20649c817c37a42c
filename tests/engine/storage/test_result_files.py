"""Checkpoints and result files that are not those of the folder's sweep."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from folders_for_tests import Counter, flip, interrupted, sweep, truncate
from sweeps_for_tests import IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.storage.durable.store import FOLDER
from jaxrobust.storage.status import status


def test_a_checkpoint_of_another_sweep_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    sweep(net, source, other, root=7, seeds=2)
    run = shutil.copytree(whole, tmp_path / "run")
    newest = max((run / FOLDER).iterdir(), key=lambda path: int(path.name))
    [foreign, *_] = (other / FOLDER).iterdir()
    shutil.copytree(foreign, newest.with_name(str(int(newest.name) + 1)))
    (run / "results.nc").unlink()
    for function in (jr.open_run, status):
        message = refusal(function, run)
        assert "the newest checkpoint is of another sweep than" in message
        assert "(other sampling, root)" in message
    assert "is of another sweep" in refusal(sweep, net, source, run)
    assert "is of another sweep" in refusal(sweep, net, source, run, seeds=4, extend=True)
    shutil.rmtree(newest.with_name(str(int(newest.name) + 1)))
    assert sweep(net, source, run).identical(jr.open_run(whole))


def test_the_checkpoints_of_what_is_extended_belong_to_it(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")

    def stop(what: str, done: int, total: int) -> None:
        if what == "undamaged":
            raise KeyboardInterrupt

    for seeds in (4, 5):  # neither comes to a checkpoint of its own
        with pytest.raises(KeyboardInterrupt):
            sweep(net, source, run, seeds=seeds, extend=True, report=stop)
    assert jr.open_run(run).sizes["seed"] == 3
    assert sweep(net, source, run, seeds=5).sizes["seed"] == 5


def test_result_files_that_are_not_as_written_are_written_again(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    sweep(net, source, other, root=7)
    for name in ("results.nc", "results.csv"):
        for number, spoil in enumerate(
            (
                Path.unlink,
                truncate,
                flip,
                lambda path: path.write_bytes((other / path.name).read_bytes()),
                lambda path: path.write_bytes(b""),
            )
        ):
            run = shutil.copytree(whole, tmp_path / f"{name}-{number}")
            spoil(run / name)
            if name == "results.nc":
                with warnings.catch_warnings(action="ignore"):
                    assert jr.open_run(run).identical(jr.open_run(whole))
            result = sweep(net, source, run)
            assert result.identical(jr.open_run(whole)) and jr.open_run(run).identical(result)
            assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
            assert json.loads((run / "sweep.json").read_text())["finished"] is True


def test_a_wrong_result_is_not_read_as_the_sweeps(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    other, run = tmp_path / "other", shutil.copytree(whole, tmp_path / "run")
    sweep(net, source, other, root=7)
    shutil.copy(other / "results.nc", run)
    with pytest.warns(UserWarning, match="results.nc is damaged or of another sweep: the newest"):
        assert jr.open_run(run).identical(jr.open_run(whole))
    shutil.rmtree(run / FOLDER)
    assert "is damaged or of another sweep, and there are no" in refusal(jr.open_run, run)
    record = json.loads((run / "sweep.json").read_text())
    del record["files"]  # as of version 0.1
    (run / "sweep.json").write_text(json.dumps(record))
    assert "is damaged or of another sweep, and there are no" in refusal(jr.open_run, run)
    shutil.copy(whole / "results.nc", run)
    assert jr.open_run(run).identical(jr.open_run(whole))


def test_a_finished_result_stays_when_its_checkpoint_has_to_be_made_anew(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    interrupted(net, source, run, 5 * IMAGES)
    sweep(net, source, run)
    newest = max((run / FOLDER).iterdir(), key=lambda path: int(path.name))
    truncate(newest / "default" / "manifest.ocdbt")
    before = (run / "results.nc").read_bytes()
    with pytest.warns(UserWarning, match="damaged or cannot be read now"):
        interrupted(net, source, run, 15 * IMAGES)
    assert (run / "results.nc").read_bytes() == before
    assert jr.open_run(run).identical(jr.open_run(whole))
    assert sweep(net, source, run).identical(jr.open_run(whole))
    counter = Counter()
    sweep(net, source, run, report=counter)
    assert counter.first is None, "its checkpoint is there again"


def test_the_table_of_cells_is_written_again(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = dict(run_dir=tmp_path, seeds=None, precision=0.3)
    small_sweep(net, source, **arguments)
    cells = tmp_path / "cells.csv"
    content = cells.read_bytes()
    truncate(cells)
    small_sweep(net, source, **arguments)
    assert cells.read_bytes() == content


def gone(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)


def emptied(checkpoints: Path) -> None:
    for each in checkpoints.iterdir():
        shutil.rmtree(each)


def damaged(checkpoints: Path) -> None:
    for file in [each for each in checkpoints.rglob("*") if each.is_file()]:
        file.write_bytes(b"")


@pytest.mark.filterwarnings("ignore:.*checkpoint .* is damaged")
@pytest.mark.parametrize("spoil", [gone, emptied, damaged])
@pytest.mark.parametrize("table", ["there", "spoilt"])
def test_a_finished_result_needs_no_checkpoints_unless_something_is_added(
    spoil: Callable[[Path], None],
    table: str,
    net: jr.Network,
    source: jr.ImageSource,
    whole: Path,
    tmp_path: Path,
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    spoil(run / FOLDER)
    if table == "spoilt":
        truncate(run / "results.csv")
    assert "finished" in status(run) and "nothing was saved" not in status(run)
    counter = Counter()
    for _ in range(2):
        assert sweep(net, source, run, report=counter).identical(jr.open_run(whole))
    assert counter.first is None, "nothing is counted again"
    assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    message = refusal(sweep, net, source, run, seeds=4, extend=True)
    assert "holds a finished result but no checkpoints any more" in message
    assert "holds another sweep" in refusal(sweep, net, source, run, seeds=4)
    assert jr.open_run(run).identical(jr.open_run(whole))


def test_a_finished_sweep_to_a_precision_needs_no_checkpoints(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = dict(run_dir=tmp_path, seeds=None, precision=0.3)
    result = small_sweep(net, source, **arguments)
    shutil.rmtree(tmp_path / FOLDER)
    assert small_sweep(net, source, **arguments).identical(result)


@pytest.mark.parametrize("text", ['{"finished": true}', '{"finished": true, "specification": {}}'])
def test_a_sweep_json_that_does_not_say_what_was_measured(
    text: str, net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "sweep.json").write_text(text)
    assert "sweep.json does not say what was measured: move it away" in refusal(status, run)
    assert "sweep.json is of another version" in refusal(sweep, net, source, run)
    (run / "sweep.json").unlink()
    with pytest.warns(UserWarning, match="sweep.json is missing"):
        assert sweep(net, source, run).identical(jr.open_run(whole))


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_a_folder_with_nothing_but_an_empty_sweep_json_is_new(
    content: bytes, net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    (tmp_path / "sweep.json").write_bytes(content)
    assert status(tmp_path) == "not running: nothing was saved"
    sweep(net, source, tmp_path, seeds=1)
    assert jr.open_run(tmp_path).sizes["seed"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", "x"),
        ("images", 0),
        ("images", True),
        ("block", 0),
        ("seeds", None),
        ("seeds", -1),
        ("layers", -1),
        ("layers", [["conv2", ["conv2"]], []]),
        ("layers", [{"conv2": "conv2"}]),
        ("layers", [["conv2", "conv2"]]),
        ("strengths", -1),
        ("strengths", [["weight_noise", ["much"]]]),
        ("strengths", [["weight_noise", [0.5]]]),
        ("code", [["a", "b"]]),
        ("half_width", "0.1"),
        ("keep", []),
        ("network", None),
        ("more", 1),
    ],
)
def test_a_specification_of_other_types_is_refused_in_one_line(
    field: str,
    value: Any,
    net: jr.Network,
    source: jr.ImageSource,
    whole: Path,
    tmp_path: Path,
) -> None:
    record = json.loads((whole / "sweep.json").read_text())
    record["specification"][field] = value
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    shutil.copy(whole / "results.nc", tmp_path)
    for extend in (False, True):
        message = refusal(sweep, net, source, tmp_path, extend=extend)
        assert "sweep.json is of another version: choose another folder" in message
