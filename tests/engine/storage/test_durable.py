"""Sweeps in a run folder that were interrupted: they go on from what was saved."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from folders_for_tests import TRIALS, Counter, interrupted, sweep
from networks_for_tests import CLASSES
from sweeps_for_tests import IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.storage.durable.store import FOLDER
from jaxrobust.storage.status import status


@pytest.mark.parametrize("after", [0, 5.5, 13, 20.4])
def test_an_interrupted_sweep_goes_on_and_ends_as_if_it_had_not_been(
    after: float, net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    stopped = interrupted(net, source, tmp_path / "run", after * IMAGES)
    record = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert record["finished"] is False
    found = jr.open_run(tmp_path / "run")
    assert found.attrs["finished"] == 0
    undamaged = found.images.sel(strength=0).sum()
    assert int(found.images.sum() - undamaged) == stopped.done
    complete = int((found.images == IMAGES).sum()) - 2 * 2 * 3

    counter = Counter()
    result = sweep(net, source, tmp_path / "run", report=counter)
    assert counter.first == complete * IMAGES, "complete trials were not run again"
    assert counter.done == TRIALS * IMAGES
    for name in ("results.csv", "sweep.json"):
        text, expected = ((run / name).read_text() for run in (tmp_path / "run", whole))
        if name == "sweep.json":
            text, expected = (json.loads(each)["plan"] for each in (text, expected))
        assert text == expected
    assert result.identical(jr.open_run(whole))


def test_a_finished_sweep_gives_its_result_at_once(
    net: jr.Network, source: jr.ImageSource, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole / "sweep.json").read_bytes()
    monkeypatch.setattr("jaxrobust.execution.images.Images.decode", None)
    monkeypatch.setattr(sys.modules["jaxrobust.sweeps"], "Executor", None)
    for blocks in (False, True):
        result = sweep(net, source, whole, blocks=blocks)
        assert result.identical(jr.open_run(whole, blocks=blocks))
    assert (whole / "sweep.json").read_bytes() == before


def test_results_that_were_not_written_at_the_end_are_written_later(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    record = json.loads((run / "sweep.json").read_text())
    (run / "sweep.json").write_text(json.dumps({**record, "finished": False}))
    (run / "results.csv").unlink()
    (run / "results.nc").unlink()
    sweep(net, source, run)
    assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    assert json.loads((run / "sweep.json").read_text())["finished"] is True
    assert jr.open_run(run).identical(jr.open_run(whole))


def test_what_takes_long_to_save_is_saved_less_often(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxrobust.storage.folder._MOST_HELD_UP", 1e-9)
    sweep(net, source, tmp_path, save_every=0)
    assert sorted(each.name for each in (tmp_path / FOLDER).iterdir()) == ["0", "1"]


def test_another_sweep_in_the_same_folder_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    def refused(network: jr.Network = net, **changes: Any) -> str:
        message = refusal(sweep, network, source, whole, **changes)
        assert message.startswith(f"{whole} holds another sweep: ")
        return message.removeprefix(f"{whole} holds another sweep: ")

    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert refused(root=7).startswith("root 0, not 7: choose another folder")
    assert refused(seeds=2, root=7).startswith("seeds 3, not 2; root 0, not 7: choose")
    assert "--extend" in refused(seeds=4)
    assert "--extend" not in refused(seeds=2)
    params = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-3), net.params)
    changed = jr.Network(net.apply, params, name=net.name, preprocessing=net.preprocessing)
    assert refused(changed).startswith("parameters ")
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (IMAGES, *net.preprocessing.shape), np.uint8)
    images[-1] = 0
    path = Path(source.name.removeprefix("npz:"))
    content = path.read_bytes()
    np.savez(path, images=images, labels=np.arange(IMAGES) % CLASSES)
    try:
        message = refusal(sweep, net, jr.images(source.name), whole)
        assert "holds another sweep: data_fingerprint " in message
    finally:
        path.write_bytes(content)
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


def test_a_sweep_that_counted_nothing_leaves_its_folder_to_another(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "undamaged":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(net, source, tmp_path, report=stop)
    result = small_sweep(net, source, run_dir=tmp_path)
    assert jr.open_run(tmp_path).identical(result)


@pytest.mark.parametrize("left", [None, "", "{", '{"specification": {"net', "\udcff"])
def test_without_its_description_a_sweep_goes_on_from_the_checkpoint(
    left: str | None, net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    interrupted(net, source, run, 13 * IMAGES)
    if left is None:
        (run / "sweep.json").unlink()
    else:
        (run / "sweep.json").write_text(left, errors="surrogateescape")
    assert int((jr.open_run(run).images > 0).sum()) > 0
    assert "trials" in status(run)
    message = refusal(sweep, net, source, run, root=7)
    assert message.startswith(f"{run} holds another sweep: root 0, not 7: choose another folder")
    counter = Counter()
    with pytest.warns(UserWarning, match="sweep.json is missing or damaged"):
        sweep(net, source, run, report=counter)
    assert counter.first, "what was saved was not counted again"
    assert jr.open_run(run).identical(jr.open_run(whole))


def test_an_unreadable_description_without_checkpoints_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    record = json.loads((whole / "sweep.json").read_text())
    record["specification"]["colour"] = "blue"
    (run / "sweep.json").write_text(json.dumps(record))
    assert "sweep.json is of another version" in refusal(sweep, net, source, run)
    shutil.rmtree(run / FOLDER)
    (run / "sweep.json").write_text("{")
    assert "sweep.json cannot be read: " in refusal(sweep, net, source, run)
    assert "sweep.json cannot be read: " in refusal(jr.open_run, run)


@pytest.mark.parametrize("what", ["no space for sweep.json", "killed before", "killed in a save"])
def test_a_sweep_that_came_to_nothing_does_not_keep_its_folder(
    what: str, net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrobust.storage.run_folder.write_whole", full_disk)
        message = refusal(sweep, net, source, run)
    assert message == (
        f"cannot write in {run}: No space left on device; what was saved before is intact"
    )
    assert not (run / "sweep.json").exists() and (run / FOLDER).is_dir()
    if what == "killed in a save":
        (run / FOLDER / "0.orbax-checkpoint-tmp").mkdir()
    if what == "killed before":
        (run / ".sweep.json.123").write_text("{")
    sweep(net, source, run)
    assert jr.open_run(run).identical(jr.open_run(whole))


def full_disk(path: Path, content: bytes) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_other_folders_of_checkpoints_are_left_alone(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    model = tmp_path / "model" / FOLDER / "best.pt"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"weights")
    assert "holds something else" in refusal(sweep, net, source, model.parents[1])
    step = tmp_path / "training" / FOLDER / "100" / "default"
    step.mkdir(parents=True)
    (step / "array").write_bytes(b"weights")
    assert "no checkpoint can be read" in refusal(sweep, net, source, tmp_path / "training")
    assert model.exists() and (step / "array").exists()
