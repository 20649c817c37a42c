"""One run at a time on a folder: a lock of the operating system, which a crash releases."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.paths import is_remote, open_file
from jaxrobust.storage.durable.lease import check_free, is_leased, leased

_NAME = ".lock"
# `is_locked` may hold a lock for a moment: a run that begins looks again.
_TRIES, _PAUSE = 5, 0.05  # seconds


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Makes the folder if it does not exist, and keeps other runs out of it.

    The lock's file stays behind; it means nothing once its owner has ended. In an object store and
    on a file system that has no locks there is a lease instead.

    Yields:
        A function to call before anything is written: it raises SpecificationError if another run
        has the folder now, or if it is not the same folder any more.

    Raises:
        SpecificationError: another run has the folder, or it cannot be written to.

    Warns:
        UserWarning: the file system has no locks.
    """
    with ExitStack() as stack:
        try:
            check = _taken(folder, stack)
        except OSError as error:
            raise SpecificationError(
                f"{folder} cannot be written to: {error.strerror or error}"
            ) from error
        yield check


def _taken(folder: Path, stack: ExitStack) -> Callable[[], None]:
    folder.mkdir(parents=True, exist_ok=True)
    if is_remote(folder):
        return stack.enter_context(leased(folder))
    path = folder / _NAME
    if path.exists() and not path.is_file():
        raise SpecificationError(f"{path} cannot be used: it is not a file")
    file = stack.enter_context(path.open("ab+", buffering=0))
    try:
        _lock(file)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().decode(errors="replace") or "another process"
        raise SpecificationError(
            f"{folder} is in use by {owner}: wait for its end or choose another folder"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{folder}: its file system has no locks ({error.strerror}); a lease, .lease.json, "
            "keeps other runs out instead",
            stacklevel=5,
        )
        return stack.enter_context(leased(folder))
    check_free(folder)  # the file system may have no locks where another machine has mounted it
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lambda: _check_same(folder, file)


def _lock(file: FileIO) -> None:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not left:
                raise
            time.sleep(_PAUSE)


def _check_same(folder: Path, file: FileIO) -> None:
    """A lock on a file that was removed keeps nobody out of a folder that was made anew."""
    try:
        found = os.stat(folder / _NAME)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise SpecificationError(
            f"cannot save in {folder}: {error.strerror}; what was saved before is intact"
        ) from error
    if found is None or not os.path.samestat(found, os.fstat(file.fileno())):
        raise SpecificationError(
            f"{folder} was removed, renamed or made anew while this run was using it: the run "
            "stops and writes nothing more there"
        )


def is_locked(folder: Path) -> bool:
    """Whether a run has the folder now, as far as that can be told."""
    return _probed(folder) is True or is_leased(folder)


def has_locks(folder: Path) -> bool:
    """Whether there are locks in a folder that a run is using."""
    return _probed(folder) is not None


def _probed(folder: Path) -> bool | None:
    """Whether the lock is taken now; None where there are none."""
    if is_remote(folder):
        return False
    try:
        with open_file(folder / _NAME) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
