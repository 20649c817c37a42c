"""The run folder of a sweep: what is counted is saved there, and gone on with."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.data.source import ImageSource
from jaxrobust.design.code import SweepCode
from jaxrobust.design.specification import Specification
from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.ground.paths import is_remote
from jaxrobust.runtime.hosts import Processes
from jaxrobust.runtime.partition import NOBODY, Follower, own_part, owners
from jaxrobust.storage.durable.interrupts import ends_in_peace
from jaxrobust.storage.durable.lock import has_locks, locked
from jaxrobust.storage.durable.shared import check_shared
from jaxrobust.storage.durable.store import FOLDER, Store, without_file_locks
from jaxrobust.storage.in_folder import SweepInFolder, versions
from jaxrobust.storage.progress import SweepProgress
from jaxrobust.storage.run_folder import (
    check_belongs,
    design_of,
    is_written,
    read_finished,
    read_record,
    write_record,
    write_run,
)

# Several processes wait for each other when they meet: less often than they make steps.
_MEET_EVERY = 5.0  # seconds
# Of a sweep's time, for which saves may hold it up; a state of hundreds of MiB is saved less often.
_MOST_HELD_UP = 0.01


@contextmanager
def saved(
    progress: SweepProgress,
    folder: Path,
    images: ImageSource,
    code: SweepCode,
    processes: Processes,
    *,
    extend: bool,
    save_every: float,
) -> Iterator[Follower]:
    """Keeps what a sweep counts in a run folder, which no other run can use meanwhile.

    On leaving, also by an exception, what was counted is saved and the result is written; several
    processes, which have to do that together, only save on leaving without one.

    Args:
        kept: of the sweep; takes what the folder holds.
        folder: of the run, made if it does not exist.
        images, code: of the sweep.
        processes: those that share the sweep; the first one has the folder's lock and writes the
            result.
        extend: whether the sweep may add to the one that the folder holds.
        save_every: least seconds from one save to the next; they are more where saves would hold
            the sweep up for more than 1 % of the time.

    Yields:
        What `run` tells how far it has come.

    Raises:
        SpecificationError: the folder is in use, holds another sweep, cannot be written or is not
            the same for all processes.
        ProcessLostError: another process is gone.
        KeyboardInterrupt: Ctrl-C was pressed while the sweep ended, which it has done then.

    Warns:
        UserWarning: a checkpoint is damaged, or what else is found to be wrong in the folder.
    """
    _check_alike(progress, processes)
    with ends_in_peace() as hold, ExitStack() as stack:
        still_ours: list[Callable[[], None]] = []
        processes.decide(lambda: still_ours.append(stack.enter_context(locked(folder))))
        check_shared(folder, processes)
        if not has_locks(folder):
            stack.enter_context(without_file_locks())
        asked = SweepInFolder(progress, folder, images, code, extend)
        processes.decide(asked.check_held)
        saver = stack.enter_context(_Saver(asked, save_every, processes, still_ours))
        saver.resume()
        try:
            yield saver
        except SpecificationError:  # nothing can be run, or nothing can be saved
            hold()
            raise
        except BaseException:
            hold()
            if processes.count == 1:
                saver.finish()
            raise
        hold()
        saver.finish()


def _check_alike(progress: SweepProgress, processes: Processes) -> None:
    hashes = processes.gather_text(progress.spec.hash)
    for index, other in enumerate(hashes):
        if other != hashes[0]:
            raise SpecificationError(
                f"process {index} was given another sweep, network or images than process 0: give "
                "all of them the same"
            )


class _Saver:
    """Follows a run: saves what is counted, and meets the other processes for that."""

    def __init__(
        self,
        asked: SweepInFolder,
        save_every: float,
        processes: Processes,
        still_ours: Sequence[Callable[[], None]],
    ) -> None:
        self._still_ours, self._asked = still_ours, asked
        progress, folder = self._kept, self._folder = asked.progress, asked.folder
        self._processes = processes
        self._extends: list[str] = []  # the designs that this one has grown from
        self._save_every, self._saved_at = save_every, time.monotonic()
        self._pause = save_every
        # Trial-images that are done, all of them, those of this session and its seconds.
        self._progress = {"done": 0, "total": 0, "counted": 0, "seconds": 0.0}
        # When the run began, the trial-images that were done then, and those done here since.
        self._began, self._first, self._here = self._saved_at, 0, 0
        self._met = self._saved_at
        self._new = False  # whether anything was counted here
        self._owner = np.full(progress.state.carried.shape[:-1], NOBODY, np.int32)
        with self._writing():
            self._store = Store(folder, processes=processes)

    def __enter__(self) -> _Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._store.close()
        # Several processes close it together: after an error they might wait for ever.
        elif self._processes.count == 1:
            with suppress(SpecificationError):  # the first error tells why
                self._store.close()

    def resume(self) -> None:
        """Takes what the folder holds, and says in `sweep.json` what is being run."""
        try:
            found = self._store.load()
        except SpecificationError:
            if not self._took_result():
                raise
            return
        if found:
            record = found[1]
            self._processes.decide(lambda: self._check_found(record))
            self._kept.take(*found)
            self._progress = record["progress"]
        elif self._took_result():
            return
        self._processes.decide(self._describe)

    def _took_result(self) -> bool:
        """Takes the finished result where no checkpoint can be read and nothing is to be added."""
        if not self._processes.decide(self._check_result):
            return False
        result = self._processes.each(lambda: read_finished(self._folder))
        if result is None:
            raise SpecificationError(f"{self._folder} was changed while it was read: start again")
        self._kept.take_written(result)
        return True

    def _check_result(self) -> bool:
        """Whether the folder holds the finished result, of which all files are there afterwards.

        Raises:
            SpecificationError: it is of a sweep that this one would add to.
        """
        record, result = read_record(self._folder), read_finished(self._folder)
        if record is None or result is None:
            return False
        held, asked = Specification.from_json(record["specification"]), self._kept.spec
        if held != asked:
            raise SpecificationError(
                f"{self._folder} holds a finished result but no checkpoints any more, so that "
                "nothing can be added: read it with open_run, or choose another folder"
            )
        if not is_written(self._folder):
            with self._writing():
                write_run(self._folder, result, record)
        return True

    def _check_found(self, saved: dict[str, Any]) -> None:
        """Makes sure that a checkpoint is of this sweep or one that it extends."""
        described = read_record(self._folder)
        if described is None:
            self._asked.check_same(f"{self._folder}/{FOLDER}", saved)
            warnings.warn(
                f"{self._folder}: sweep.json is missing or damaged: what the newest checkpoint "
                "says is gone on with",
                stacklevel=2,
            )
        else:
            check_belongs(self._folder, described, saved)
            self._extends = described.get("extends", [])
        for each in (described or saved, saved):
            design = design_of(each["specification"])
            if design not in self._extends:
                self._extends.append(design)

    def _describe(self) -> None:
        described = read_record(self._folder)
        design = design_of(self._kept.spec.to_json())
        if described and design == design_of(described.get("specification", {})):
            if is_written(self._folder):  # it stays, even if a checkpoint of it has to be made anew
                return
        with self._writing():
            write_record(self._folder, self._record(finished=False))

    def begins(self, pending: np.ndarray, done: int, total: int) -> np.ndarray:
        self._began, self._first, self._here = time.monotonic(), done, 0
        self._progress = {"done": done, "total": total, "counted": 0, "seconds": 0.0}
        if self._processes.count == 1:
            return np.ones_like(pending)
        self._owner = owners(pending, self._processes.count)
        return self._owner == self._processes.index

    def added(self, done: int) -> int:
        self._new = True
        before, self._here = self._here, done - self._first
        if self._processes.count == 1 or time.monotonic() - self._met >= self._meet_every:
            self._meet(finished=False)
        else:
            self._progress["done"] += self._here - before
        return self._progress["done"]

    def ends(self) -> Iterator[int]:
        while not self._meet(finished=True):
            yield self._progress["done"]

    @property
    def _meet_every(self) -> float:
        return min(self._save_every, _MEET_EVERY)

    def _meet(self, finished: bool) -> bool:
        """Tells the other processes how far this one is; all of them save if the first one says so.

        Returns:
            Whether all have finished.
        """
        now = time.monotonic()
        save = now - self._saved_at >= self._pause and not self._store.saving
        told = self._processes.gather(self._here, finished, save)
        counted, all_finished = int(told[:, 0].sum()), bool(told[:, 1].all())
        self._progress |= {
            "done": self._first + counted,
            "counted": counted,
            "seconds": now - self._began,
        }
        if told[0, 2] and not all_finished:
            self._save()
        self._met = time.monotonic()
        return all_finished

    def joins(self) -> None:
        if self._processes.count > 1:
            self._save_whole()

    def finish(self) -> None:
        """Saves and writes whatever is new."""
        new = self._processes.gather(self._new).any()
        if new:  # first of all: if it cannot be saved, that is what has to be told
            self._save_whole()
        written = self._processes.decide(self._is_written)
        if written or not (new or self._kept.finished):
            return
        if not new:
            self._save_whole()
        self._processes.decide(self._write)

    def _is_written(self) -> bool:
        with self._writing():
            return is_written(self._folder)

    def _save_whole(self) -> None:
        """Saves what all processes have counted, which each of them then has."""
        self._save()
        self._store.wait()
        if self._processes.count == 1:
            return
        found = self._store.load()
        if found is None:
            raise SpecificationError(
                f"{self._folder}: nothing that was just saved can be read: look after the disk and "
                "start all processes again"
            )
        self._kept.take(*found)

    def _write(self) -> None:
        with self._writing():
            write_run(self._folder, self._kept.result, self._record(self._kept.finished))

    def _save(self) -> None:
        began = time.monotonic()
        self._processes.decide(self._check_ours)
        arrays, processes = self._kept.arrays, self._processes
        if processes.count > 1:
            arrays = own_part(arrays, self._owner, processes.index)
            self._share_plans()
        record = {**self._kept.record, "progress": self._progress, "saved": _now()}
        self._store.save(arrays, record)
        self._saved_at = time.monotonic()
        self._pause = max(self._save_every, (self._saved_at - began) / _MOST_HELD_UP)

    def _share_plans(self) -> None:
        """Adds how the other processes run their trials."""
        plans = self._kept.plans
        for others in self._processes.gather_text(json.dumps(plans)):
            plans += [entry for entry in json.loads(others) if entry not in plans]

    def _record(self, finished: bool) -> dict[str, Any]:
        """What `sweep.json` says."""
        device = jax.local_devices()[0]
        return {
            "specification": self._kept.spec.to_json(),
            "hash": self._kept.spec.hash,
            "finished": finished,
            "seeds": self._kept.state.seeds,
            "extends": self._extends,
            "left_out": list(self._asked.images.left_out),
            "written": _now(),
            "plan": self._kept.plans,
            "versions": versions(),
            "processes": self._processes.count,
            "device": {"platform": device.platform, "kind": device.device_kind},
        }

    def _check_ours(self) -> None:
        for check in self._still_ours:
            check()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._check_ours()
        # An object store's own errors are of any kind.
        expected = Exception if is_remote(self._folder) else OSError
        try:
            yield
        except SpecificationError:
            raise
        except expected as error:
            why = getattr(error, "strerror", None) or first_line(error)
            raise SpecificationError(
                f"cannot write in {self._folder}: {why}; what was saved before is intact"
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
