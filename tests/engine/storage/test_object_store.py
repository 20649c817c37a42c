"""Run folders and data in an object store, here one in memory; leases."""

import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from results_for_tests import like_the_study, made, written
from sweeps_for_tests import refusal

import jaxrobust as jr
from jaxrobust.ground.paths import path_of
from jaxrobust.storage.durable.lease import is_leased, leased
from jaxrobust.storage.durable.lock import is_locked, locked
from jaxrobust.storage.run_folder import check_run_folder

LEASE = ".lease.json"


class Store(MemoryFileSystem):
    """Takes `gs://` paths; as in an object store, a folder is what objects' names begin with."""

    protocol = "gs"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    fsspec.register_implementation("gcs", Store, clobber=True)
    yield path_of("gs://bucket")
    Store.store.clear()


def test_a_result_is_written_to_and_read_from_an_object_store(bucket: Path, tmp_path: Path) -> None:
    result = made(like_the_study, {"synapse_knockout": [0, 0.3, 0.6]})
    folder = check_run_folder("gs://bucket/run")
    assert folder == bucket / "run"
    written(result, folder)
    written(result, tmp_path)
    assert sorted(each.name for each in folder.iterdir()) == [
        "results.csv",
        "results.nc",
        "sweep.json",
    ]
    for name in ("results.csv", "sweep.json"):
        assert (folder / name).read_text() == (tmp_path / name).read_text()
    assert jr.open_run("gs://bucket/run").identical(jr.open_run(tmp_path))
    assert check_run_folder("gs://bucket/run") == folder
    (bucket / "other" / "a.txt").write_text("something")
    assert "holds something else" in refusal(check_run_folder, "gs://bucket/other")
    assert "copy the folder here first" in refusal(jr.write_report, "gs://bucket/run")


def test_images_are_read_from_an_object_store(bucket: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        (bucket / path.relative_to(tmp_path)).write_bytes(path.read_bytes())
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(6) % 2)
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(tmp_path / "images", "images")
    for name in ("images.npz", "images.tar"):
        (bucket / name).write_bytes((tmp_path / name).read_bytes())
    for source in ("npz:{}/images.npz", "tar:{}/images.tar", "folder:{}/images"):
        here, there = (jr.images(source.format(place)) for place in (tmp_path, "gs://bucket"))
        assert there.fingerprint() == here.fingerprint()
        np.testing.assert_array_equal(there[3][0], here[3][0])
        assert there[3][1] == here[3][1]
    assert "there is no such path (gs://bucket/none.npz)" in refusal(
        jr.images, "npz:gs://bucket/none.npz"
    )


def test_a_live_lease_is_refused_and_given_back_at_the_end(bucket: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, bucket):
        with leased(folder, settled=0) as check:
            check()
            assert is_leased(folder)
            message = refusal(leased(folder, settled=0).__enter__)
            assert message.startswith(f"{folder} is in use by process ")
            assert "last heard of 0 s ago" in message
        assert not is_leased(folder) and not (folder / LEASE).exists()
    with locked(bucket / "run"):
        assert is_locked(bucket / "run")
    assert not is_locked(bucket / "run")


def stale(folder: Path, age: float) -> None:
    content = {"owner": "process 1 on elsewhere", "token": "x", "heartbeat": time.time() - age}
    (folder / LEASE).write_text(json.dumps(content))


def test_a_stale_lease_is_taken_over_with_a_warning(tmp_path: Path) -> None:
    stale(tmp_path, 290)
    assert "process 1 on elsewhere" in refusal(leased(tmp_path, settled=0).__enter__)
    stale(tmp_path, 310)
    assert not is_leased(tmp_path)
    with (
        pytest.warns(UserWarning, match=r"process 1 on elsewhere was last heard of 310 s ago"),
        leased(tmp_path, settled=0),
    ):
        assert is_leased(tmp_path)


@pytest.mark.parametrize("heartbeat", [-310.0, -1e9, np.nan, np.inf, -np.inf])
def test_a_lease_of_no_possible_time_is_stale(heartbeat: float, tmp_path: Path) -> None:
    stale(tmp_path, heartbeat)
    assert not is_leased(tmp_path)
    with (
        pytest.warns(UserWarning, match="was last heard of at a time that cannot be right: its"),
        leased(tmp_path, settled=0),
    ):
        assert is_leased(tmp_path)
    stale(tmp_path, -100)  # clocks may differ by a little
    assert "last heard of 0 s ago" in refusal(leased(tmp_path, settled=0).__enter__)


@pytest.mark.parametrize("name", [LEASE, ".lock"])
def test_what_is_no_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert not is_locked(tmp_path)
    assert "not a file" in refusal(locked(tmp_path).__enter__)


def test_a_lease_is_renewed_and_its_loss_is_told(tmp_path: Path) -> None:
    with leased(tmp_path, renewed=0.01, settled=0) as check:
        first = heartbeat(tmp_path)
        while heartbeat(tmp_path) == first:
            time.sleep(0.01)
        check()
    with leased(tmp_path, settled=0) as check:
        stale(tmp_path, 0)
        assert "is in use by process 1 on elsewhere" in refusal(check)
    assert (tmp_path / LEASE).exists(), "another run's lease is left alone"


class StoreError(Exception):
    """An object store's own, which is no OSError."""


def test_the_errors_of_an_object_store_do_not_end_the_renewal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []

    def fails(*_: Any) -> None:
        failed.append(1)
        raise StoreError("503 Service Unavailable")

    with leased(tmp_path, renewed=0.01, settled=0) as check:
        with monkeypatch.context() as patch:
            patch.setattr("jaxrobust.storage.durable.lease.write_whole", fails)
            while len(failed) < 3:
                time.sleep(0.01)
            check()
        first = heartbeat(tmp_path)
        while heartbeat(tmp_path) == first:
            time.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr("jaxrobust.storage.durable.lease._read", fails)
            check()
            assert not is_leased(tmp_path)
            patch.setattr("jaxrobust.storage.durable.lease._STALE", -1)
            assert "its lease could be neither renewed nor read" in refusal(check)
    monkeypatch.setattr("jaxrobust.storage.durable.lease.write_whole", fails)
    message = refusal(leased(tmp_path, settled=0).__enter__)
    assert message == f"{tmp_path} cannot be written to: 503 Service Unavailable"


def test_a_run_notices_that_its_lease_has_expired_or_is_gone(tmp_path: Path) -> None:
    with leased(tmp_path, settled=0) as check:
        content = json.loads((tmp_path / LEASE).read_text())
        (tmp_path / LEASE).write_text(json.dumps({**content, "heartbeat": time.time() - 301}))
        message = refusal(check)
        assert "its lease was not renewed for 301 s, so that another run may have it" in message
        with pytest.warns(UserWarning, match="is taken over"), leased(tmp_path, settled=0):
            assert "is in use by process " in refusal(check)
        assert "was removed, or its lease, while this run was using it" in refusal(check)


def heartbeat(folder: Path) -> float:
    while not (text := (folder / LEASE).read_text()):  # it is being written
        pass
    return json.loads(text)["heartbeat"]
