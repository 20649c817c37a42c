"""Checkpoints that are damaged or cannot be read."""

import errno
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders_for_tests import Counter, flip, interrupted, sweep, truncate
from sweeps_for_tests import IMAGES, refusal

import jaxrobust as jr
from jaxrobust.storage.durable import store as store_module
from jaxrobust.storage.durable.store import FOLDER, Store

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


def test_who_reads_while_a_run_removes_old_checkpoints_gets_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.save({"a": np.arange(3)}, {"number": 0})
    store.wait()
    reader, read = Store(tmp_path, read_only=True), store_module._read

    def late(manager: Any, step: int) -> Any:
        if step == 0:
            store.save({"a": np.arange(3)}, {"number": 1})
            store.wait()
            shutil.rmtree(tmp_path / FOLDER / "0")
        return read(manager, step)

    monkeypatch.setattr(store_module, "_read", late)
    found = reader.load()
    assert found is not None and found[1]["number"] == 1
    store.close()


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
