"""Sweeps in a run folder: killed, damaged, in use, full; they go on from what was saved."""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
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
from jaxrobust.durable.lock import is_locked, locked
from jaxrobust.durable.store import FOLDER, Store

# TensorStore's reads of the arrays beside a damaged one end after Orbax has closed its event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

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
    monkeypatch.setattr(sys.modules["jaxrobust.engine.sweep"], "run", None)
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


def test_an_unreadable_description_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "sweep.json").write_text("{")
    assert "sweep.json cannot be read: " in refusal(sweep, net, source, run)
    assert "sweep.json cannot be read: " in refusal(jr.open_run, run)
    record = json.loads((whole / "sweep.json").read_text())
    record["specification"]["colour"] = "blue"
    (run / "sweep.json").write_text(json.dumps(record))
    assert "sweep.json is of another version" in refusal(sweep, net, source, run)


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
            assert message.startswith(f"{damaged}: checkpoint 1 is damaged (")
            assert message.endswith("): the one before is used") and "\n" not in message
            assert not (damaged / FOLDER / "1").exists()
            fell_back += 1
        else:
            assert messages == []
        store.save({"sums/a": np.zeros(1)}, {"number": 5})
        store.wait()
        newer = store.load()
        assert newer is not None and newer[1]["number"] == 5
        store.close()
    assert fell_back >= 2


@pytest.mark.parametrize("change", ["value", "shape", "dtype", "record"])
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
        if change == "value":
            tree["rows"][0, 3] += 1
        elif change == "shape":
            tree["text"] = np.frombuffer(tree["text"].tobytes().replace(b"[6]", b"[3]"), np.uint8)
        elif change == "dtype":
            tree["text"] = np.frombuffer(tree["text"].tobytes().replace(b"i8", b"u8"), np.uint8)
        else:
            tree["text"][-3] += 1
        return tree

    monkeypatch.setattr(store._manager, "restore", changed)
    with pytest.warns(UserWarning, match=r"its digest is wrong\): there is none before it"):
        assert store.load() is None
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
    assert counter.first is not None and 0 < counter.first <= 5 * IMAGES
    assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


# Locks, read-only folders, full disks, kills


def test_a_second_run_on_a_folder_is_refused(
    net: jr.Network, source: jr.ImageSource, whole: Path
) -> None:
    with locked(whole):
        assert is_locked(whole)
        message = refusal(sweep, net, source, whole)
    assert message.startswith(f"{whole} is in use by process {os.getpid()} on ")
    assert not is_locked(whole)
    sweep(net, source, whole)


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


PROGRAM = """
import os, resource, signal, sys, threading, time
sys.path.insert(0, {tests!r})
from networks_for_tests import NETWORKS
from sweeps_for_tests import small_sweep
import jaxrobust as jr
from jaxrobust.data.progress import PREPARING
from jaxrobust.durable.store import has_checkpoints
from pathlib import Path

net, source = NETWORKS["chain"](), jr.images({data!r})

def sweep(run, act=None, when=0, pause=0):
    steps = 0
    def report(name, done, total):
        nonlocal steps
        steps += bool(total and done and name not in PREPARING)
        time.sleep(pause)
        if act and steps == when:
            while not has_checkpoints(Path(run)):
                time.sleep(0.01)
            act()
    small_sweep(net, source, run_dir=run, report=report, save_every=0, strengths=[0.2, 0.4, 0.6],
                seeds=4, options=jr.Options(trials_per_step=2, images_per_step=10))

def fill_disk():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def fail():
    try:
        sweep({run!r}, fill_disk, 4)
    except jr.SpecificationError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(error, flush=True)

{what}
"""


def program(what: str, run: Path, source: jr.ImageSource) -> subprocess.CompletedProcess:
    tests = str(Path(__file__).parents[1])
    text = PROGRAM.format(tests=tests, data=source.name, run=str(run), what=what)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)


def test_a_full_disk_is_told_and_a_killed_sweep_goes_on(
    source: jr.ImageSource, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    first = program(f"fail(); sweep({str(run)!r}, kill, 5)", run, source)
    assert first.returncode == -9, first.stderr
    full = first.stdout.splitlines()[0]
    assert full.startswith(f"cannot save in {run}: "), first.stderr
    assert full.endswith("; what was saved before is intact")
    assert not is_locked(run), "the system has released the lock of a process that is gone"
    found = jr.open_run(run)
    assert found.attrs["finished"] == 0 and int(found.images.sum()) > 0

    second = program(f"sweep({str(run)!r}); sweep({str(whole)!r})", run, source)
    assert second.returncode == 0, second.stderr
    assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


@pytest.mark.slow
def test_a_sweep_killed_at_20_random_moments_ends_as_if_it_had_not_been(
    source: jr.ImageSource, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    # Slow steps, so that it takes all kills to come to the end; saves follow one another.
    assert program(f"sweep({str(whole)!r})", run, source).returncode == 0
    in_a_save, seen, kills, random_moments = 0, 0, 0, random.Random(0)
    while kills < 20:
        delay = random_moments.uniform(0.05, 0.6)
        what = f"""
def when_begun():
    while not begun: time.sleep(0.001)
    time.sleep({delay})
    kill()
begun = []
threading.Thread(target=when_begun, daemon=True).start()
sweep({str(run)!r}, lambda: begun.append(1), 1, pause=0.3)
"""
        killed = program(what, run, source)
        assert killed.returncode == -9, killed.stderr
        kills += 1
        in_a_save += any("tmp" in path.name for path in (run / FOLDER).iterdir())
        counted = int((jr.open_run(run).images == IMAGES).sum())
        assert counted >= seen, "nothing that was saved is lost"
        seen = counted
    assert in_a_save >= 3
    last = program(f"sweep({str(run)!r})", run, source)
    assert last.returncode == 0 and "damaged" not in last.stderr, last.stderr
    assert (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
