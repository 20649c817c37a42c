"""One run at a time on a folder of an object store or file system that has no locks."""

from __future__ import annotations

import json
import math
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

from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.ground.paths import read_file
from jaxrobust.storage.durable.files import write_whole

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
        has taken the folder over or may do so, as when this one was stopped or could not renew its
        lease for minutes, and if the folder was removed.

    Raises:
        SpecificationError: another run has the folder, or it cannot be written to.

    Warns:
        UserWarning: a stale lease was taken over.
    """
    file, token = folder / _NAME, uuid.uuid4().hex
    # An object store's own errors are of any kind.
    try:
        held = check_free(folder)
        renewed_at = _write(file, token)
    except SpecificationError:
        raise
    except Exception as error:
        raise SpecificationError(f"{folder} cannot be written to: {first_line(error)}") from error
    time.sleep(settled)
    _check(folder, token, renewed_at)
    if held is not None:
        warnings.warn(
            f"{folder}: {held['owner']} was {_heard(held)}: its lease is taken over",
            stacklevel=3,
        )
    ended, writing = threading.Event(), threading.Lock()

    def renew() -> None:
        nonlocal renewed_at
        while not ended.wait(renewed):
            with (
                writing,
                suppress(Exception),
            ):  # the next time may do, and until then it isn't stale
                held = _read(file)
                # One that has expired may be another run's in a moment: `check` tells.
                if held is not None and held["token"] == token and not _is_stale(held):
                    renewed_at = _write(file, token)

    def check() -> None:
        with writing:
            _check(folder, token, renewed_at)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):  # then it expires by itself
            held = _read(file)
            if held is not None and held["token"] == token:
                file.unlink(missing_ok=True)


def is_leased(folder: Path) -> bool:
    """Whether a run has the folder now, as far as that can be read."""
    try:
        held = _read(folder / _NAME)
    except Exception:
        return False
    return held is not None and not _is_stale(held)


def check_free(folder: Path) -> dict[str, Any] | None:
    """Makes sure that no run has the folder by a lease.

    Returns:
        The lease of a run that has not been heard of for long, if there is one.

    Raises:
        SpecificationError: a run has the folder.
    """
    try:
        held = _read(folder / _NAME)
    except OSError as error:
        why = error.strerror or first_line(error)
        raise SpecificationError(f"{folder / _NAME} cannot be read: {why}") from error
    if held is not None and not _is_stale(held):
        raise _in_use(folder, held)
    return held


def _check(folder: Path, token: str, renewed_at: float) -> None:
    """Raises SpecificationError unless a lease that was renewed then is still this run's."""
    try:
        held = _read(folder / _NAME)
    except Exception as error:
        # Nobody takes it over before it is stale.
        if time.time() - renewed_at <= _STALE:
            return
        raise SpecificationError(
            f"{folder}: its lease could be neither renewed nor read for {_STALE / 60:.0f} minutes "
            f"({first_line(error)}), so that another run may have it now"
        ) from error
    if held is None:
        raise SpecificationError(
            f"{folder} was removed, or its lease, while this run was using it: the run stops and "
            "writes nothing more there"
        )
    if held["token"] != token:
        raise _in_use(folder, held)
    if _is_stale(held):
        age = _age(held)
        why = f"was not renewed for {age:.0f} s" if age > 0 else "has a time that is not now"
        raise SpecificationError(
            f"{folder}: its lease {why}, so that another run may have it now: start this one again"
        )


def _in_use(folder: Path, held: dict[str, Any]) -> SpecificationError:
    return SpecificationError(
        f"{folder} is in use by {held['owner']}, {_heard(held)}: wait for its "
        f"end, {_STALE / 60:.0f} minutes if it was killed, or choose another folder"
    )


def _read(file: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(read_file(file))
        heartbeat, owner = float(held["heartbeat"]), str(held["owner"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    owner = owner if owner.isprintable() else ascii(owner)
    return {"token": held.get("token"), "owner": owner, "heartbeat": heartbeat}


def _write(file: Path, token: str) -> float:
    """Takes or renews a lease; gives the time that it tells."""
    now = time.time()
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    text = json.dumps({"owner": owner, "token": token, "heartbeat": now})
    write_whole(file, text.encode())
    return now


def _age(held: dict[str, Any]) -> float:
    """Seconds since a lease was renewed: below 0 by a clock that is ahead, perhaps no number."""
    return time.time() - held["heartbeat"]


def _heard(held: dict[str, Any]) -> str:
    age = _age(held)
    if _is_stale(held) and not 0 <= age < math.inf:
        return "last heard of at a time that cannot be right"
    return f"last heard of {max(age, 0):.0f} s ago"


def _is_stale(held: dict[str, Any]) -> bool:
    return not abs(_age(held)) <= _STALE
