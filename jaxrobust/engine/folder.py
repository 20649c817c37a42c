"""The run folder of a sweep: what is counted is saved there, and gone on with."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from jaxrobust.data.source import ImageSource
from jaxrobust.durable.lock import locked
from jaxrobust.durable.store import Store
from jaxrobust.engine.extend import check_same
from jaxrobust.engine.kept import Kept
from jaxrobust.engine.spec import Specification
from jaxrobust.errors import SpecificationError, first_line
from jaxrobust.results import is_written, read_record, was_counted, write_record, write_run

# Of a sweep's time, for which saves may hold it up; a state of hundreds of MiB is saved less often.
_MOST_HELD_UP = 0.01


@contextmanager
def saved(
    kept: Kept, folder: Path, images: ImageSource, *, extend: bool, save_every: float
) -> Iterator[Callable[[int, int], None]]:
    """Keeps what a sweep counts in a run folder, which no other run can use meanwhile.

    On leaving, also by an exception, what was counted is saved and the result is written.

    Args:
        kept: of the sweep; takes what the folder holds.
        folder: of the run, made if it does not exist.
        images: of the sweep.
        extend: whether the sweep may add to the one that the folder holds.
        save_every: least seconds from one save to the next; they are more where saves would hold
            the sweep up for more than 1 % of the time.

    Yields:
        What `run` calls after every step.

    Raises:
        SpecificationError: the folder is in use, holds another sweep or cannot be written.

    Warns:
        UserWarning: a checkpoint is damaged.
    """
    with locked(folder), closing(_Saver(kept, folder, images.left_out, save_every)) as saver:
        if was_counted(folder):
            record = read_record(folder)
            try:
                held = Specification.from_json(record["specification"])
            except (KeyError, TypeError) as error:
                raise SpecificationError(
                    f"{folder}/sweep.json is of another version: choose another folder"
                ) from error
            check_same(folder, held, kept.spec, images, extend)
        saver.resume()
        try:
            yield saver.added
        except SpecificationError:  # nothing can be run, or nothing can be saved
            raise
        except BaseException:
            saver.finish()
            raise
        saver.finish()


class _Saver:
    def __init__(
        self, kept: Kept, folder: Path, left_out: Sequence[str], save_every: float
    ) -> None:
        self._kept, self._folder, self._left_out = kept, folder, left_out
        self._save_every, self._saved_at = save_every, time.monotonic()
        self._pause = save_every
        # Trial-images that are done, all of them, those of this session and its seconds.
        self._progress = {"done": 0, "total": 0, "counted": 0, "seconds": 0.0}
        self._began: tuple[float, int] | None = None
        with _writing(folder):
            self._store = Store(folder)

    def resume(self) -> None:
        """Takes what the folder holds, and says in `sweep.json` what is being run."""
        if found := self._store.load():
            self._kept.take(*found)
            self._progress = found[1]["progress"]
        if not (self._kept.finished and is_written(self._folder)):
            with _writing(self._folder):
                write_record(self._folder, self._record(finished=False))

    def added(self, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began = self._began or (self._saved_at, done)
        self._progress = {
            "done": done,
            "total": total,
            "counted": done - first,
            "seconds": now - began,
        }
        if now - self._saved_at >= self._pause and not self._store.saving:
            self._save()

    def finish(self) -> None:
        """Saves and writes whatever is new."""
        if is_written(self._folder) or not (self._began or self._kept.finished):
            return
        self._save()
        self._store.wait()
        with _writing(self._folder):
            write_run(self._folder, self._kept.result, self._record(self._kept.finished))

    def close(self) -> None:
        self._store.close()

    def _save(self) -> None:
        began = time.monotonic()
        record = {**self._kept.record, "progress": self._progress, "saved": _now()}
        self._store.save(self._kept.arrays, record)
        self._saved_at = time.monotonic()
        self._pause = max(self._save_every, (self._saved_at - began) / _MOST_HELD_UP)

    def _record(self, finished: bool) -> dict[str, Any]:
        """What `sweep.json` says."""
        versions = {name: _version(name) for name in ("jaxrobust", "jax", "jaxlib", "flax")}
        versions["python"] = platform.python_version()
        device = jax.devices()[0]
        return {
            "specification": self._kept.spec.to_json(),
            "hash": self._kept.spec.hash,
            "finished": finished,
            "left_out": list(self._left_out),
            "written": _now(),
            "plan": self._kept.plans,
            "versions": versions,
            "device": {"platform": device.platform, "kind": device.device_kind},
        }


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpecificationError(
            f"cannot write in {folder}: {first_line(error)}; what was saved before is intact"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
