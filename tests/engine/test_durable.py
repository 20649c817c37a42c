"""Sweeps in a run folder: interrupted, damaged, in use; they go on from what was saved."""

import errno
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import xarray
from networks_for_tests import CLASSES
from sweeps_for_tests import BLOCK, IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.data.progress import PREPARING
from jaxrobust.durable import store as store_module
from jaxrobust.durable.lease import leased
from jaxrobust.durable.lock import is_locked, locked
from jaxrobust.durable.store import FOLDER, Store
from jaxrobust.run_folder import check_run_folder
from jaxrobust.status import status

ARGUMENTS: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "weight_noise"],
    layers=["conv2", "fc"],
    strengths=[0, 0.3, 0.6],
    seeds=3,
    options=jr.Options(trials_per_step=2, images_per_step=BLOCK),
)
TRIALS = 2 * 2 * 2 * 3  # without those of strength 0


def sweep(net: jr.Network, source: jr.ImageSource, run: Path, **changes: Any) -> xarray.Dataset:
    return small_sweep(net, source, **{**ARGUMENTS, "run_dir": run, **changes})


class Counter:
    """A report that counts trial-images, and stops the sweep once there are too many."""

    def __init__(self, most: float = np.inf) -> None:
        self.most, self.names, self.first, self.done = most, [], None, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.names:
            self.names.append(what)
        if what not in PREPARING and total:
            self.first = done if self.first is None else self.first
            self.done = done
            if done > self.most:
                raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(net: jr.Network, source: jr.ImageSource, tmp_path_factory: Any) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    sweep(net, source, run)
    return run


def interrupted(net: jr.Network, source: jr.ImageSource, run: Path, most: float) -> Counter:
    counter = Counter(most)
    with pytest.raises(KeyboardInterrupt):
        sweep(net, source, run, report=counter)
    return counter


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
    monkeypatch.setattr("jaxrobust.engine.clean.Images.decode", None)
    monkeypatch.setattr(sys.modules["jaxrobust.engine.sweep"], "Runner", None)
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
    monkeypatch.setattr("jaxrobust.engine.folder._MOST_HELD_UP", 1e-9)
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
        patch.setattr("jaxrobust.run_folder.write_whole", full_disk)
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


# Checkpoints and results of another sweep


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
        assert "(other seeds, root)" in message
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


def test_a_result_without_checkpoints_is_not_counted_over(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / FOLDER)
    assert "holds a finished result but no checkpoints any more" in refusal(sweep, net, source, run)
    assert jr.open_run(run).identical(jr.open_run(whole))


# Damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {"flipped": flip, "truncated": truncate, "missing": Path.unlink}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(how: str, tmp_path: Path) -> None:
    intact = tmp_path / "intact"
    store = Store(intact)
    for number in range(2):
        store.save({"sums/a": np.full((3, 4), number), "sums/b": np.ones(2)}, {"number": number})
    store.wait()
    store.close()
    newest = intact / FOLDER / "1"
    files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
    fell_back = 0
    for position, file in enumerate(files):
        damaged = shutil.copytree(intact, tmp_path / str(position))
        DAMAGE[how](damaged / file.relative_to(intact))
        store = Store(damaged)
        with pytest.warns(UserWarning) as told:
            found = store.load()
            warnings.warn("pytest.warns wants one", stacklevel=1)
        assert found is not None
        arrays, record = found
        number = record["number"]
        np.testing.assert_array_equal(arrays["sums/a"], np.full((3, 4), number))
        messages = [str(each.message) for each in told][:-1]
        if number == 0:
            [message] = messages
            assert message.startswith(f"{damaged}: checkpoint 1 is damaged")
            assert message.endswith("): the one before is used") and "\n" not in message
            fell_back += 1
        else:
            assert messages == []
        kept = contents(damaged)
        store.save({"sums/a": np.zeros(1)}, {"number": 5})
        store.wait()
        assert kept <= contents(damaged), "nothing is removed"
        assert (damaged / FOLDER / "1").exists() == (number == 1)
        newer = store.load()
        assert newer is not None and newer[1]["number"] == 5
        store.close()
    assert fell_back >= 2


def contents(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Flaky:
    """Makes Orbax fail to read some checkpoints for as long as it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception) -> None:
        self.steps: set[int] = set()
        read = store_module._read

        def reading(manager: Any, step: int) -> Any:
            if step in self.steps:
                raise error
            return read(manager, step)

        patch.setattr(store_module, "_read", reading)


MOMENTARY = [
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    ValueError("Unsupported version of the checkpoint"),
]


@pytest.mark.parametrize("error", MOMENTARY, ids=str)
def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_not_lost(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, flaky = Store(tmp_path), Flaky(monkeypatch, error)
    for number in range(2):
        store.save({"a": np.full(3, number)}, {"number": number})
    store.wait()
    flaky.steps = {1}
    with pytest.warns(UserWarning, match=r"checkpoint 1 is damaged or cannot be read now \("):
        found = store.load()
    assert found is not None and found[1]["number"] == 0
    flaky.steps = set()
    found = store.load()
    assert found is not None and found[1]["number"] == 1, "it can be read again"

    flaky.steps = {0, 1}
    with pytest.warns(UserWarning, match="checkpoint 1"):
        message = refusal(store.load)
    assert message.startswith(f"{tmp_path}: no checkpoint can be read (0: ")
    flaky.steps = {1}
    with pytest.warns(UserWarning, match="checkpoint 1"):
        store.load()
    for number in range(5):
        store.save({"a": np.zeros(3)}, {"number": number})
    store.wait()
    names = sorted(path.name for path in (tmp_path / FOLDER).iterdir())
    assert names == ["1.unreadable", "4", "5", "6"]
    (tmp_path / FOLDER / "1.unreadable").rename(tmp_path / FOLDER / "7")
    store.close()
    found = Store(tmp_path).load()
    assert found is not None and found[1]["number"] == 1


def test_a_checkpoint_that_is_empty_is_no_obstacle(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save({"a": np.arange(3)}, {"number": 0})
    store.save({"a": np.arange(3)}, {"number": 1})
    store.close()
    shutil.rmtree(tmp_path / FOLDER / "1" / "default")
    store = Store(tmp_path)
    with pytest.warns(UserWarning, match="checkpoint 1 is damaged or cannot be read now"):
        found = store.load()
    assert found is not None and found[1]["number"] == 0
    store.save({"a": np.arange(3)}, {"number": 2})
    store.close()
    assert sorted(each.name for each in (tmp_path / FOLDER).iterdir()) == ["0", "1.unreadable", "2"]
    found = Store(tmp_path).load()
    assert found is not None and found[1]["number"] == 2


CHANGES: dict[str, Any] = {
    "value": lambda tree: tree["rows"].__setitem__((0, 3), tree["rows"][0, 3] + 1),
    "shape": lambda tree: in_text(tree, b"[6]", b"[3]"),
    "dtype": lambda tree: in_text(tree, b"i8", b"u8"),
    "record": lambda tree: in_text(tree, b'"number": 1', b'"number": 2'),
}


def in_text(tree: dict[str, np.ndarray], old: bytes, new: bytes) -> None:
    text = tree["text"].tobytes()
    assert old in text
    tree["text"] = np.frombuffer(text.replace(old, new), np.uint8)


@pytest.mark.parametrize("change", CHANGES)
def test_what_orbax_restores_without_complaint_is_verified(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save({"a": np.arange(6)}, {"number": 1})
    store.wait()
    assert store._manager is not None
    restore = store._manager.restore

    def changed(*arguments: Any, **options: Any) -> Any:
        tree: Any = restore(*arguments, **options)
        if ("rows" in tree) == (change == "value"):
            CHANGES[change](tree)
        return tree

    monkeypatch.setattr(store._manager, "restore", changed)
    with pytest.warns(UserWarning, match=r"its digest is wrong\): there is none before it"):
        assert store.load() is None
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["0.damaged"]
    store.close()


def test_the_newest_three_are_kept_and_a_saved_array_may_change(tmp_path: Path) -> None:
    store, array = Store(tmp_path), np.zeros(100_000)
    for number in range(5):
        array[:] = number
        store.save({"a": array}, {"number": number})
        array[:] = -1
    store.wait()
    steps = sorted(int(each.name) for each in (tmp_path / FOLDER).iterdir())
    assert steps == [2, 3, 4]
    found = store.load()
    assert found is not None and found[1] == {"number": 4} and (found[0]["a"] == 4).all()
    store.close()


def test_a_sweep_goes_on_from_the_checkpoint_before_a_damaged_one(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    interrupted(net, source, run, 5 * IMAGES)
    interrupted(net, source, run, 15 * IMAGES)
    newest, before = sorted((run / FOLDER).iterdir(), key=lambda p: int(p.name))[::-1]
    flip(newest / "default" / "manifest.ocdbt")
    counter = Counter()
    with pytest.warns(UserWarning, match=f"checkpoint {newest.name} is damaged"):
        sweep(net, source, run, report=counter)
    assert newest.with_name(f"{newest.name}.unreadable").exists()
    assert counter.first is not None and 0 < counter.first <= 5 * IMAGES
    assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


# Locks, read-only folders, names


def test_a_second_run_on_a_folder_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path
) -> None:
    with locked(whole):
        assert is_locked(whole)
        message = refusal(sweep, net, source, whole)
    assert message.startswith(f"{whole} is in use by process {os.getpid()} on ")
    assert not is_locked(whole)
    sweep(net, source, whole)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_there_are_no_locks_a_lease_keeps_others_out(
    number: int, net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    def second(what: str, done: int, total: int) -> None:
        if what == "undamaged":
            assert "running" in status(run)
            told.append(refusal(locked(run).__enter__))
            raise KeyboardInterrupt

    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", flock)
        assert not is_locked(run) and not is_locked(whole)
        assert "finished" in status(whole)
        shutil.copytree(whole, run)
        record = json.loads((run / "sweep.json").read_text())
        (run / "sweep.json").write_text(json.dumps({**record, "finished": False}))
        with (
            pytest.warns(UserWarning, match="its file system has no locks .*; a lease"),
            pytest.raises(KeyboardInterrupt),
        ):
            sweep(net, source, run, seeds=4, extend=True, report=second)
        assert "is in use by process " in told[0]
        assert not is_locked(run)
    with leased(run, settled=0):  # of a machine that mounts it without locks
        assert "is in use by process " in refusal(locked(run).__enter__)


@pytest.mark.parametrize("how", ["removed", "made anew", "renamed", "lock removed"])
def test_a_run_whose_folder_is_taken_away_stops_and_writes_nothing(
    how: str, net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    seen: list[int] = []

    def report(what: str, done: int, total: int) -> None:
        if what in PREPARING or seen or not done:
            return
        while any("tmp" in path.name for path in (run / FOLDER).iterdir()):
            time.sleep(0.01)  # what Orbax has begun it writes anywhere
        seen.append(done)
        if how == "lock removed":
            (run / ".lock").unlink()
        elif how == "renamed":
            run.rename(moved)
        else:
            shutil.rmtree(run)
        if how == "made anew":
            with locked(run):
                pass

    message = refusal(sweep, net, source, run, report=report, save_every=0)
    assert message.startswith(f"{run} was removed, renamed or made anew while this run was using")
    assert seen
    if how != "lock removed":
        left = [path.name for path in run.iterdir()] if run.exists() else []
        assert left == ([".lock"] if how == "made anew" else [])


NAMES = {
    "bad\udcff": "bytes that are not UTF-8",
    "lone\ud800": "bytes that are not UTF-8",
    "null\0": "a null character",
    "a[b]": "the character [",
    "a*": "the character *",
    "why?": "the character ?",
    "back\\slash": "the character \\",
    "long/" * 780: "more than ",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_whose_name_orbax_cannot_take_is_refused_before_anything_is_done(
    name: str, net: jr.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path / name, tmp_path / name / "below", str(tmp_path / name)):
        message = refusal(jr.sweep, net, None, run_dir=path)
        assert f"its whole name holds {NAMES[name]}" in message and message.isprintable()
    if "/" not in name and "\0" not in name and "\ud800" not in name:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert NAMES[name] in refusal(jr.sweep, net, None, run_dir="run")


@pytest.mark.parametrize("name", ["größe 日本", "a b", "per%20cent", "ha#sh", "x{1}", "line\nend"])
def test_other_names_are_taken(name: str, tmp_path: Path) -> None:
    check_run_folder(tmp_path / name)
    store = Store(tmp_path / name)
    store.save({"a": np.arange(3)}, {"number": 1})
    store.close()
    assert Store(tmp_path / name, read_only=True).load() is not None


def test_a_folder_that_cannot_be_written_to_is_refused() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o555)
        user = os.geteuid()
        if user == 0:  # who may write anywhere
            os.seteuid(65534)
        try:
            with pytest.raises(jr.SpecificationError) as caught, locked(folder):
                pass
        finally:
            os.seteuid(user)
            folder.chmod(0o755)
    assert str(caught.value) == f"{folder} cannot be written to: Permission denied"
