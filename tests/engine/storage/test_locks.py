"""Folders in use, without locks, read-only, taken away, or of names that cannot be written to."""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders_for_tests import sweep
from sweeps_for_tests import refusal

import jaxrobust as jr
from jaxrobust.data.progress import PREPARING
from jaxrobust.storage.durable.lease import leased
from jaxrobust.storage.durable.lock import is_locked, locked
from jaxrobust.storage.durable.store import FOLDER, Store
from jaxrobust.storage.run_folder import check_run_folder
from jaxrobust.storage.status import status


def test_a_second_run_on_a_folder_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path
) -> None:
    with locked(whole):
        assert is_locked(whole)
        message = refusal(sweep, net, source, whole)
    assert message.startswith(f"{whole} is in use by process {os.getpid()} on ")
    assert not is_locked(whole)
    sweep(net, source, whole)


def test_who_looks_at_a_folder_keeps_no_run_out(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    file = (tmp_path / ".lock").open()
    fcntl.flock(file, fcntl.LOCK_SH)
    threading.Timer(0.1, file.close).start()
    with locked(tmp_path):
        assert file.closed


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
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


@pytest.mark.parametrize("name", [b"run", 7, ["run"]])
def test_a_folder_is_named_by_text_or_a_path(name: object, net: jr.Network) -> None:
    for refused in (
        refusal(jr.sweep, net, None, run_dir=name),
        refusal(jr.open_run, name),
        refusal(status, name),
    ):
        assert refused == f"the name of a file or folder is text or a path, not {name!r}"


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
