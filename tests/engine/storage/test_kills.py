"""Sweeps in processes of their own: killed, and on a full disk; nothing that was saved is lost."""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps_for_tests import IMAGES, small_sweep

import jaxrobust as jr
from jaxrobust.storage.durable.lock import is_locked
from jaxrobust.storage.durable.store import FOLDER, has_checkpoints

PROGRAM = """
import os, resource, signal, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import orbax.checkpoint
from networks_for_tests import NETWORKS
from sweeps_for_tests import small_sweep
import jaxrobust as jr
from jaxrobust.data.progress import PREPARING
from jaxrobust.storage.durable.store import has_checkpoints
from jaxrobust.storage import folder

folder._MOST_HELD_UP = 1  # saves follow one another
run, whole = Path({run!r}), Path({run!r} + "-whole")
net, source = NETWORKS["chain"](), jr.images({data!r})

def sweep(run, act=lambda: None, when=0, seeds=4, pause=0, precision=None):
    steps = 0
    def report(name, done, total):
        nonlocal steps
        steps += bool(total and name not in PREPARING)
        time.sleep(pause)
        if steps == when:
            act()
    small_sweep(net, source, run_dir=run, report=report, save_every=0, strengths=[0.2, 0.4, 0.6],
                seeds=seeds, precision=precision,
                options=jr.Options(trials_per_step=2, images_per_step=10))

def wait_for_checkpoint():
    while not has_checkpoints(run):
        time.sleep(0.01)

def fill_disk():
    wait_for_checkpoint()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

def lose_rights():
    wait_for_checkpoint()
    os.chmod(run / "checkpoints", 0o555)
    if os.geteuid() == 0:  # who may write anywhere
        os.seteuid(65534)

def refused(act):
    try:
        sweep(run, act, 5)
    except jr.SpecificationError as error:
        print(error, flush=True)

def kill():
    wait_for_checkpoint()
    os.kill(os.getpid(), signal.SIGKILL)

def fail():
    try:
        sweep(run, fill_disk, 5)
    except jr.SpecificationError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        print(error, flush=True)

{what}
"""


def start(what: str, run: Path, source: jr.ImageSource) -> subprocess.Popen[str]:
    """A process that does something to the sweep in a folder or to `whole` beside it."""
    tests = str(Path(__file__).parents[2] / "helpers")
    text = PROGRAM.format(tests=tests, data=source.name, run=str(run), what=what)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", text], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def kill_at(moment: float, process: subprocess.Popen[str], begun: bool) -> None:
    """Tells a process that waits for it to begin, and kills it so many seconds later.

    Args:
        moment: in seconds.
        process: says that it has begun.
        begun: count from when it says so.
    """
    assert process.stdin and process.stdout
    print(file=process.stdin, flush=True)
    if begun:
        assert process.stdout.readline() == "begun\n"
    time.sleep(moment)
    process.kill()
    process.communicate()
    assert process.returncode == -9


def same_table(run: Path) -> bool:
    whole = run.with_name(f"{run.name}-whole")
    return (run / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_full_disk_is_told_and_a_killed_sweep_goes_on(
    source: jr.ImageSource, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = start("fail(); sweep(run, kill, 6)", run, source)
    told, errors = first.communicate(timeout=300)
    assert first.returncode == -9, errors
    full = told.splitlines()[0]
    assert full.startswith(f"cannot save in {run}: "), errors
    assert full.endswith("; what was saved before is intact")
    assert not is_locked(run), "the system has released the lock of a process that is gone"
    found = jr.open_run(run)
    assert found.attrs["finished"] == 0 and int(found.images.sum()) > 0

    second = start("sweep(run); sweep(whole)", run, source)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert same_table(run)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_process_whose_save_was_refused_ends(
    reachable: bool, source: jr.ImageSource, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755 if reachable else 0o700)
        run = Path(made) / "run"
        process = start("refused(lose_rights)", run, source)
        told, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert told == (
            f"cannot save in {run}: Permission denied; what was saved before is intact\n"
        ), errors
        assert int(jr.open_run(run).images.sum()) > 0
        (run / FOLDER).chmod(0o755)


def test_a_disk_that_is_full_when_the_result_is_written_is_told(
    source: jr.ImageSource, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    what = """
from jaxrobust.storage import run_folder
write_whole = run_folder.write_whole
def write(path, content):
    if path.name == "results.nc":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    write_whole(path, content)
run_folder.write_whole = write
refused(lambda: None)
"""
    process = start(what, run, source)
    told, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert told == (f"cannot write in {run}: File too large; what was saved before is intact\n"), (
        errors
    )
    names = {path.name for path in run.iterdir()}
    assert names == {".lock", FOLDER, "sweep.json"}, "nothing half written is left behind"
    last = start("sweep(run); sweep(whole)", run, source)
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert same_table(run)


NO_LOCKS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
int flock(int file, int operation) { errno = ENOLCK; return -1; }
#define WITHOUT_LOCKS(name) \
  int name(int file, int command, ...) { \
    va_list rest; va_start(rest, command); void *value = va_arg(rest, void *); va_end(rest); \
    if (command == F_OFD_SETLK || command == F_OFD_SETLKW || command == F_SETLK || \
        command == F_SETLKW) { errno = ENOLCK; return -1; } \
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, #name); \
    return real(file, command, value); \
  }
WITHOUT_LOCKS(fcntl)
WITHOUT_LOCKS(fcntl64)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler"
)
def test_a_sweep_runs_where_the_file_system_has_no_locks_at_all(
    source: jr.ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, library = tmp_path / "run", tmp_path / "no_locks.so"
    (tmp_path / "no_locks.c").write_text(NO_LOCKS)
    command = ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "no_locks.c", "-ldl"]
    subprocess.run(command, check=True)
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(library))
        first = start("sweep(run); print(int(jr.open_run(run).images.sum()))", run, source)
        told, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert "its file system has no locks (No locks available); a lease, .lease.json," in errors
    assert int(told) == int(jr.open_run(run).images.sum()) > 0 and has_checkpoints(run)


@pytest.mark.slow
def test_a_sweep_killed_at_20_random_moments_ends_as_if_it_had_not_been(
    source: jr.ImageSource, tmp_path: Path
) -> None:
    run, moments, kills = tmp_path / "run", random.Random(0), 20

    def started() -> Iterator[subprocess.Popen[str]]:
        """Processes that begin when they are told to, the next two importing meanwhile."""
        # Paused, so that it takes all kills to come near the end.
        what = "input(); sweep(run, lambda: print('begun', flush=True), 1, 300, 0.01)"
        ready: list[subprocess.Popen[str]] = []
        for number in range(kills):
            ready.append(start(what, run, source))
            if number >= 2:
                yield ready.pop(0)
        yield from ready

    in_a_save = seen = 0
    for number, process in enumerate(started()):
        kill_at(moments.uniform(0, 0.5), process, begun=number % 4 > 0)
        if has_checkpoints(run):
            in_a_save += any("tmp" in path.name for path in (run / FOLDER).iterdir())
            counted = int((jr.open_run(run).images == IMAGES).sum())
            assert counted >= seen, "nothing that was saved is lost"
            seen = counted
    assert in_a_save >= 3 and seen > 0
    last = start("sweep(run, seeds=300); sweep(whole, seeds=300)", run, source)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0 and "damaged" not in errors, errors
    assert same_table(run)


@pytest.mark.slow
def test_a_sweep_to_a_precision_killed_at_random_moments_goes_on(
    net: jr.Network, source: jr.ImageSource, tmp_path: Path
) -> None:
    run, moments = tmp_path / "run", random.Random(1)
    begin = "input(); sweep(run, lambda: print('begun', flush=True), 1, None, 0.01, 0.01)"
    seen = 0
    for _ in range(8):
        kill_at(moments.uniform(0.2, 1.5), start(begin, run, source), begun=True)
        if has_checkpoints(run):
            counted = int(jr.open_run(run).images.sum())
            assert counted >= seen, "nothing that was saved is lost"
            seen = counted
    assert seen > 0 and jr.open_run(run).attrs["finished"] == 0
    last = start("sweep(run, seeds=None, precision=0.01)", run, source)
    _, errors = last.communicate(timeout=300)
    assert last.returncode == 0 and "damaged" not in errors, errors
    found = jr.open_run(run, blocks=True)
    assert found.attrs["finished"] == 1 and jr.accuracy(found).met.all()
    strengths, seeds = found.strength.values.tolist(), found.sizes["seed"]
    fixed = small_sweep(net, source, strengths=strengths, seeds=seeds, blocks=True)
    ran = found.images.values > 0
    for name in ("images", "top1", "top5", "changed", "nonfinite"):
        assert (found[name].values == fixed[name].values)[ran].all(), name
