"""One run at a time on a folder: a lock of the operating system, which a crash releases."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxrobust.durable.lease import is_leased, leased
from jaxrobust.errors import SpecificationError
from jaxrobust.paths import is_remote

_NAME = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Makes the folder if it does not exist, and keeps other runs out of it.

    The lock's file stays behind; it means nothing once its owner has ended. In an object store,
    which has no locks, there is a lease instead.

    Yields:
        A function to call before anything is written: it raises SpecificationError if another run
        has the folder now.

    Raises:
        SpecificationError: another run has the folder, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_remote(folder):
            with leased(folder) as check:
                yield check
            return
        file = (folder / _NAME).open("a+")
    except OSError as error:
        raise SpecificationError(f"{folder} cannot be written to: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read() or "another process"
            raise SpecificationError(
                f"{folder} is in use by {owner}: wait for its end or choose another folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield lambda: None


def is_locked(folder: Path) -> bool:
    """Whether a run has the folder now."""
    if is_remote(folder):
        return is_leased(folder)
    try:
        with (folder / _NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False
