"""One run at a time on a folder of an object store, where no operating system keeps a lock."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jaxrobust.errors import SpecificationError

_NAME = ".lease.json"
_STALE = 300.0  # seconds
_RENEWED = 60.0
_SETTLED = 2.0


@contextmanager
def leased(
    folder: Path, *, renewed: float = _RENEWED, settled: float = _SETTLED
) -> Iterator[Callable[[], None]]:
    """Keeps other runs out of a folder by a file that names its owner and is renewed.

    Of two runs that begin at the same moment, the one that wrote last has it: both look again
    after a moment. The clocks of all machines have to agree to some seconds.

    Args:
        folder: it exists, in an object store or anywhere.
        renewed: seconds from one renewal to the next, by a thread; after 5 minutes without one a
            lease is stale.
        settled: seconds until the owner is looked at again.

    Yields:
        A function to call before anything is written: it raises SpecificationError if another run
        has taken the folder over, as one does when this one was stopped for minutes.

    Raises:
        SpecificationError: another run has the folder, or it cannot be written to.

    Warns:
        UserWarning: a stale lease was taken over.
    """
    file, token = folder / _NAME, uuid.uuid4().hex
    held = _read(file)
    if held is not None and not _is_stale(held):
        raise _in_use(folder, held)
    try:
        _write(file, token)
    except OSError as error:
        raise SpecificationError(f"{folder} cannot be written to: {error}") from error
    time.sleep(settled)
    _check(folder, token)
    if held is not None:
        warnings.warn(
            f"{folder}: {held['owner']} was last heard of {_age(held):.0f} s ago: its lease is "
            "taken over",
            stacklevel=3,
        )
    ended, writing = threading.Event(), threading.Lock()

    def renew() -> None:
        while not ended.wait(renewed):
            with writing, suppress(OSError):  # the next time may do, and until then it isn't stale
                held = _read(file)
                if held is None or held["token"] == token:
                    _write(file, token)

    def check() -> None:
        with writing:
            _check(folder, token)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        held = _read(file)
        if held is not None and held["token"] == token:
            file.unlink(missing_ok=True)


def is_leased(folder: Path) -> bool:
    """Whether a run has the folder now."""
    held = _read(folder / _NAME)
    return held is not None and not _is_stale(held)


def _check(folder: Path, token: str) -> None:
    held = _read(folder / _NAME)
    if held is None or held["token"] != token:
        raise _in_use(folder, held or {"owner": "another run", "heartbeat": time.time()})


def _in_use(folder: Path, held: dict[str, Any]) -> SpecificationError:
    return SpecificationError(
        f"{folder} is in use by {held['owner']}, last heard of {_age(held):.0f} s ago: wait for "
        f"its end, {_STALE / 60:.0f} minutes if it was killed, or choose another folder"
    )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(file.read_text())
        return {"token": held["token"], "owner": held["owner"], "heartbeat": held["heartbeat"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, token: str) -> None:
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    file.write_text(json.dumps({"owner": owner, "token": token, "heartbeat": time.time()}))


def _age(held: dict[str, Any]) -> float:
    return max(time.time() - held["heartbeat"], 0.0)


def _is_stale(held: dict[str, Any]) -> bool:
    return _age(held) > _STALE
