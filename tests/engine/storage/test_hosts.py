"""Several processes that share a sweep, as real ones on this machine, two devices each."""

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from sweeps_for_tests import IMAGES, refusal, small_sweep

import jaxrobust as jr
from jaxrobust.runtime.partition import own_part, owners
from jaxrobust.storage.durable.store import FOLDER

ARGUMENTS: dict[str, Any] = dict(
    perturbations=["synapse_knockout", "weight_noise"],
    layers=["conv2", "fc"],
    strengths=[0, 0.2, 0.4, 0.6],
    seeds=3,
    options=jr.Options(trials_per_step=1, images_per_step=10),
)
STOPS = 60  # seconds in which the others stop when a process is gone

PROGRAM = """
import sys, time
import jax

jax.config.update("jax_num_cpu_devices", 2)
sys.path[:0] = {tests!r}
from networks_for_tests import NETWORKS
from sweeps_for_tests import small_sweep
from test_hosts import ARGUMENTS
import jaxrobust as jr
from jaxrobust.cli import run_or_leave
from jaxrobust.data.progress import PREPARING
from jaxrobust.storage import folder

folder._MOST_HELD_UP = 1  # saves follow one another
number = int(sys.argv[1])

def sweep(run, pause=0, **changes):
    def report(name, done, total):
        time.sleep(pause if total and name not in PREPARING else 0)
    arguments = {{**ARGUMENTS, "run_dir": run, "report": report, "save_every": 0, **changes}}
    return small_sweep(NETWORKS["chain"](), jr.images({data!r}), **arguments)

def refused(**changes):
    try:
        sweep(**changes)
    except jr.SpecificationError as error:
        print(error, flush=True)

class Command:
    def run(self):
        jr.initialize({coordinator!r}, {processes}, number)
        assert len(jax.local_devices()) == 2
        {what}

run_or_leave(Command())
"""


class Job:
    """Processes that run the same lines."""

    def __init__(self, count: int, what: str, source: jr.ImageSource) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        text = PROGRAM.format(
            tests=[str(Path(__file__).parent), str(Path(__file__).parents[2] / "helpers")],
            data=source.name,
            coordinator=coordinator,
            processes=count,
            what=what.replace("\n", "\n        "),
        )
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", text, str(number)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]

    def ends(self, within: float = 150) -> list[tuple[int, str, str]]:
        """The status, what was printed and what went to stderr, of each."""
        found = []
        try:
            for process in self.processes:
                out, err = process.communicate(timeout=within)
                found.append((process.returncode, out, err))
        finally:
            for process in self.processes:
                process.kill()
        return found


@pytest.fixture(scope="module")
def whole(net: jr.Network, source: jr.ImageSource) -> xarray.Dataset:
    return small_sweep(net, source, **ARGUMENTS)


def check_equal(found: xarray.Dataset, expected: xarray.Dataset) -> None:
    assert found.attrs["finished"] == 1
    for name in ("images", "top1", "top5", "changed", "nonfinite"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        np.testing.assert_array_equal(found[f"clean_{name}"], expected[f"clean_{name}"])
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_count_what_one_does_and_refuse_what_they_cannot_share(
    count: int, source: jr.ImageSource, whole: xarray.Dataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    what = f"""
refused(run=None)
refused(run={str(tmp_path)!r} + f"/unshared{{number}}")
refused(run={str(run)!r}, root=number)
result = sweep({str(run)!r})
print(int(result.top1.sum()), int(result.images.sum()), result.attrs["finished"], flush=True)"""
    told = []
    for status, out, err in Job(count, what, source).ends():
        assert status == 0, err
        told.append([line for line in out.splitlines() if not line.startswith("[Gloo]")])
    assert all(each[2:] == told[0][2:] for each in told)
    alone, unshared, other, result = told[0]
    assert alone == f"{count} processes share a sweep through its run folder: give run_dir"
    assert "is not shared: " in unshared and "is not seen by process 1 (on " in unshared
    assert other.startswith("process 1 was given another sweep, network or images than process 0")
    assert result == f"{int(whole.top1.sum())} {int(whole.images.sum())} 1"
    found = jr.open_run(run)
    check_equal(found, whole)
    assert sorted(each.name for each in run.iterdir() if not each.name.startswith(".t")) == [
        ".lock",
        "checkpoints",
        "results.csv",
        "results.nc",
        "sweep.json",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_come_to_a_precision(
    count: int, net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    what = f"""
arguments = dict(run={str(tmp_path)!r}, seeds=None, precision=0.05)
late = sweep(**arguments, max_seconds=0.1, pause=0.05)
found = sweep(**arguments)
for each in (late, found):
    print(each.attrs["finished"], int(each.images.sum()), int(each.top1.sum()), flush=True)"""
    told = []
    for status, out, err in Job(count, what, source).ends():
        assert status == 0, err
        told.append([line for line in out.splitlines() if not line.startswith("[Gloo]")])
    assert all(each == told[0] for each in told)
    late, found = told[0]
    assert late.startswith("0 ") and found.startswith("1 ")
    result = jr.open_run(tmp_path, blocks=True)
    assert found == f"1 {int(result.images.sum())} {int(result.top1.sum())}"
    assert jr.accuracy(result).met.all()
    fixed = small_sweep(net, source, **{**ARGUMENTS, "seeds": result.sizes["seed"]}, blocks=True)
    seen = result.images.values > 0
    for name in ("images", "top1", "top5", "changed", "nonfinite"):
        np.testing.assert_array_equal(result[name].values[seen], fixed[name].values[seen], name)


def saves(run: Path) -> int:
    names = [each.name for each in (run / FOLDER).glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def killed(count: int, victim: int, source: jr.ImageSource, run: Path) -> list[str]:
    """Kills a process of a sweep once trials are complete; what the others told."""
    job = Job(count, f"sweep({str(run)!r}, pause=0.5)", source)
    while saves(run) < 3 and all(each.poll() is None for each in job.processes):
        time.sleep(0.05)
    job.processes[victim].kill()
    ends = job.ends(STOPS)
    assert ends[victim][0] == -9
    told = []
    for number, (status, _, err) in enumerate(ends):
        if number != victim:
            assert status != 0, err
            told.append(err)
    found = jr.open_run(run)
    assert found.attrs["finished"] == 0 and int(found.images.sum()) > 0
    return told


def test_when_a_process_is_killed_the_others_stop_and_one_process_goes_on(
    net: jr.Network, source: jr.ImageSource, whole: xarray.Dataset, tmp_path: Path
) -> None:
    [told] = killed(2, 1, source, tmp_path)
    assert "jaxrobust: error: process 0 of 2 on " in told
    assert ": start all of them again; the sweep goes on from what was saved last" in told
    counted: list[int] = []

    def report(name: str, done: int, total: int) -> None:
        if name in ARGUMENTS["layers"]:
            counted.append(done)

    check_equal(small_sweep(net, source, **ARGUMENTS, run_dir=tmp_path, report=report), whole)
    assert 0 < counted[0] < counted[-1] == 2 * 2 * 3 * 3 * IMAGES


@pytest.mark.slow
def test_when_the_coordinator_is_killed_the_others_stop_and_four_go_on(
    source: jr.ImageSource, whole: xarray.Dataset, tmp_path: Path
) -> None:
    killed(2, 0, source, tmp_path)
    for status, _, err in Job(4, f"sweep({str(tmp_path)!r})", source).ends():
        assert status == 0, err
    check_equal(jr.open_run(tmp_path), whole)


@pytest.mark.slow
def test_when_one_of_four_is_killed_the_others_stop_and_two_go_on(
    source: jr.ImageSource, whole: xarray.Dataset, tmp_path: Path
) -> None:
    killed(4, 2, source, tmp_path)
    for status, _, err in Job(2, f"sweep({str(tmp_path)!r})", source).ends():
        assert status == 0, err
    check_equal(jr.open_run(tmp_path), whole)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_every_trial_belongs_to_one_process_and_all_have_about_as_many(processes: int) -> None:
    pending = np.random.default_rng(0).random((2, 5, 3, 4)) < 0.7
    owner = owners(pending, processes)
    np.testing.assert_array_equal(owner >= 0, pending)
    for part in (owner, *np.moveaxis(owner, 1, 0)):
        counts = np.bincount(part[part >= 0], minlength=processes)
        assert counts.max() - counts.min() <= 1
    # Of a layer a process has consecutive trials, seed by seed.
    for layer in np.moveaxis(owner, 1, 0):
        order = np.swapaxes(layer, 1, 2).ravel()
        order = order[order >= 0]
        assert (np.diff(order) >= 0).all()


def test_the_parts_of_all_processes_make_the_whole() -> None:
    random = np.random.default_rng(0)
    owner = random.integers(-1, 3, (2, 2, 3, 4))
    arrays = {
        "sums": random.normal(size=(2, 2, 3, 4, 5)),
        "bits": random.integers(0, 256, (2, 2, 3, 4, 6), np.uint8),
        "carried": random.integers(0, 9, (2, 2, 3, 4)),
        "clean": random.integers(0, 9, 5),
    }
    parts = [own_part(arrays, owner, process) for process in range(3)]
    for name, array in arrays.items():
        assert all(part[name].dtype == array.dtype for part in parts)
        stacked = np.stack([part[name] for part in parts])
        np.testing.assert_array_equal(stacked.sum(0), array)
        assert ((stacked != 0).sum(0) <= 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", 2, None), "give all three, or none where a cluster tells them"),
        (("host:1", 2, 2), "process 2 of 2: possible: 0 to 1"),
        (("host", 2, 0), "coordinator 'host': HOST:PORT is needed"),
        (
            (None, None, None),
            "the processes cannot be joined: jax.distributed",
        ),
    ],
)
def test_processes_that_cannot_be_joined_are_told_so(arguments: Any, message: str) -> None:
    assert message in refusal(jr.initialize, *arguments)
