"""Downloads of weight files: resumed, verified, put in place whole, kept for the next time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from jaxrobust.data.decoded.cache import cache_folder
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.paths import open_file

# Address of a folder that is asked for the files instead of their publishers.
BASE_VARIABLE = "JAXROBUST_WEIGHTS_URL"

# Receives the bytes that are there and the bytes of the whole file, if the server tells.
Report = Callable[[int, int | None], None]

_CHUNK = 2**20
_TIMEOUT = 30  # seconds without a byte
_SPAN = 60  # seconds in which a server that is worth waiting for sends
_SLOWEST = 1000  # so many bytes each
_TICK = 1  # seconds between two looks at how much has arrived
_PAUSES = (1, 2, 4)  # seconds before another attempt, counted anew whenever bytes arrived
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may change
_FULL = (errno.ENOSPC, errno.EDQUOT)


def download(
    url: str,
    checksum: str | None = None,
    *,
    base_url: str | None = None,
    verify: bool = True,
    report: Report | None = None,
) -> Path:
    """Downloads a file into the cache, unless it is there already.

    What has arrived is kept beside its final place (`.part`), and a later call goes on from there.
    The file gets its name when it is complete and its checksum is right. Two processes that ask
    for one file download it once.

    Args:
        url: The published address, http or https.
        checksum: `sha256:7be5be79`: the algorithm and the start of the checksum in hexadecimal;
            None if none is published.
        base_url: Address of a folder to take the file from instead, under its own name; by
            default the variable JAXROBUST_WEIGHTS_URL.
        verify: Whether the checksum has to be right. False is for a server of one's own that
            offers other contents under the published names.
        report: Called whenever bytes have arrived.

    Returns:
        The file.

    Raises:
        SpecificationError: In one line that names the address and the place where to put the file:
            the server can't be reached or doesn't have the file, the checksum is wrong, the disk
            is full.
    """
    base_url = base_url or os.environ.get(BASE_VARIABLE)
    name = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if base_url:
        url = f"{base_url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise SpecificationError(
            f"can't download {url}: an address starts with http:// or https://"
        )
    if name in ("", ".", ".."):
        raise SpecificationError(f"can't download {url}: an address ends with a file's name")
    target = cache_folder() / "weights" / parts.netloc.replace(":", "_") / name
    return _Download(url, target, checksum if verify else None, report or _silent).run()


class _Download:
    def __init__(self, url: str, target: Path, checksum: str | None, report: Report) -> None:
        self.url, self.target, self.checksum, self.report = url, target, checksum, report
        self.validator: str | None = None  # the server's name for this version of the file

    def run(self) -> Path:
        partial = self.target.with_name(self.target.name + ".part")
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            while not self._complete():
                with open_file(partial, "ab") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX)
                    # Whoever held the lock before may have finished the file, or given it up.
                    if self._complete() or not _is_at(stream, partial):
                        continue
                    try:
                        self._fetch(stream, partial)
                        partial.replace(self.target)
                    finally:
                        if not _size(stream):
                            partial.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error.strerror or str(error)) from error
        return self.target

    def _complete(self) -> bool:
        return self.target.is_file() and (
            self.checksum is None or _matches(self.target, self.checksum)
        )

    def _fetch(self, stream: BinaryIO, partial: Path) -> None:
        if self.checksum is None:
            stream.truncate(0)  # nothing would tell whether an older piece fits
        resumed = _size(stream) > 0
        self._fill(stream)
        stream.flush()
        if self.checksum is None or _matches(partial, self.checksum):
            return
        if resumed:  # perhaps what was there is a piece of another version
            stream.truncate(0)
            return self._fetch(stream, partial)
        algorithm, start = self.checksum.split(":")
        found = _digest(partial, algorithm)[: len(start)]
        stream.truncate(0)
        raise self._failure(
            f"the file there is not the published one: its {algorithm} checksum starts with "
            f"{found}, not with {start}"
        )

    def _fill(self, stream: BinaryIO) -> None:
        """Asks until the file is complete."""
        failures = 0
        pace = _Pace()
        while True:
            before = _size(stream)
            try:
                return self._supervise(pace, stream)
            except _OtherScheme as error:
                raise self._failure(str(error)) from error
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"the server answers {error.code} {error.reason}"
                final = error.code not in _PASSING
            except (OSError, http.client.HTTPException) as error:
                cause = error.reason if isinstance(error, urllib.error.URLError) else error
                reason = str(cause) or type(cause).__name__
                full = isinstance(cause, OSError) and cause.errno in _FULL
                final = full or isinstance(cause, socket.gaierror)
            failures = 0 if _size(stream) > before else failures
            if final or failures == len(_PAUSES) or pace.is_lost():
                raise self._failure(reason)
            time.sleep(_PAUSES[failures])
            failures += 1

    def _supervise(self, pace: _Pace, stream: BinaryIO) -> None:
        """Asks once on another thread, which is left behind where next to nothing arrives.

        A socket's own time limit is for each byte; a server that sends one now and then, of a
        header or of the file, would hold a download for ever.
        """
        outcome: SimpleQueue[BaseException | None] = SimpleQueue()

        def ask() -> None:
            try:
                self._receive(stream, pace)
                outcome.put(None)
            except BaseException as error:
                outcome.put(error)

        Thread(target=ask, daemon=True).start()
        while True:
            try:
                error = outcome.get(timeout=_TICK)
            except Empty:
                pass
            else:
                if error is None:
                    return
                raise error
            if pace.is_lost():
                pace.given_up = True
                raise self._failure(f"fewer than {_SLOWEST:,} bytes arrive in a second")

    def _receive(self, stream: BinaryIO, pace: _Pace) -> None:
        """Asks for what is missing once, and adds what arrives."""
        size = _size(stream)
        if size and self.checksum is None and self.validator is None:
            size = stream.truncate(0)
        request = urllib.request.Request(self.url, headers={"User-Agent": "jaxrobust"})
        if size:
            request.add_header("Range", f"bytes={size}-")
            if self.validator:
                request.add_header("If-Range", self.validator)
        try:
            opener = urllib.request.build_opener(_SameScheme)
            response = opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            error.close()
            if _range(error.headers)[1] == size:
                return
            stream.truncate(0)  # more than the file has
            raise ConnectionError("the server's file has changed") from error
        with response:
            self.validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if response.status == 206:
                start, total = _range(response.headers)
                if start != size:
                    raise ConnectionError("the server sends another part than it was asked for")
            else:
                size = stream.truncate(0)
                length = response.headers.get("Content-Length", "")
                total = int(length) if length.isdecimal() else None
            if total is not None and total - size > shutil.disk_usage(self.target.parent).free:
                raise self._failure(f"the disk has no room for {total:,} bytes")
            self.report(size, total)
            while chunk := response.read1(_CHUNK):  # what has arrived, however little
                if pace.given_up:
                    return
                stream.write(chunk)
                size += len(chunk)
                pace.arrived += len(chunk)
                self.report(size, total)
        if total is not None and size != total:
            raise ConnectionError(f"the connection ended after {size:,} of {total:,} bytes")

    def _failure(self, reason: str) -> SpecificationError:
        return SpecificationError(
            f"can't download {self.url}: {reason}; fetch it by other means and put it at "
            f"{self.target}, or give its path to `jaxrobust port`"
        )


class _Pace:
    """Whether enough arrives in every span of time."""

    def __init__(self) -> None:
        self.arrived, self.given_up = 0, False
        self._since, self._before = time.monotonic(), 0

    def is_lost(self) -> bool:
        """Whether the span that has just ended brought next to nothing."""
        passed = time.monotonic() - self._since
        if passed < _SPAN:
            return False
        found = self.arrived - self._before
        self._since, self._before = time.monotonic(), self.arrived
        return found < _SLOWEST * passed


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends it, from https only to https and from http to either."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):
        if urlsplit(newurl).scheme not in {urlsplit(req.full_url).scheme, "https"}:
            fp.close()
            raise _OtherScheme(f"the server sends on to {newurl:.200}, which is not {req.type}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _OtherScheme(Exception):
    """An answer that no other attempt changes."""


def _matches(file: Path, checksum: str) -> bool:
    algorithm, start = checksum.split(":")
    return _digest(file, algorithm).startswith(start)


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _size(stream: BinaryIO) -> int:
    stream.flush()
    return os.fstat(stream.fileno()).st_size


def _is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether an open file still lies at that path."""
    return path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())


def _range(headers: Message) -> tuple[int | None, int | None]:
    """The start of what is sent and the size of the whole file, from `bytes 5-9/10`."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", ""))
    start, total = found.groups() if found else (None, None)
    return int(start) if start else None, int(total) if total and total != "*" else None


def _silent(done: int, total: int | None) -> None:
    pass
