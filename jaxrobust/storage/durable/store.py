"""Checkpoints by Orbax, each with a digest that is verified when it is read."""

from __future__ import annotations

import functools
import itertools
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.ground.errors import ProcessLostError, SpecificationError, first_line
from jaxrobust.ground.paths import is_remote
from jaxrobust.runtime.hosts import Processes
from jaxrobust.storage.durable.packing import DamagedError, pack, unpack

FOLDER = "checkpoints"
_KEPT = 3
_ERRORS = 3  # that Orbax may tell at the end: of its background thread, its commit, its writer
Content = tuple[dict[str, np.ndarray], dict[str, Any]]


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds any, be they damaged."""
    path = folder / FOLDER
    return path.is_dir() and any(each.name.isdecimal() for each in path.iterdir())


def is_unused(folder: Path) -> bool:
    """Whether a folder holds none, not even one that was put away, nor anything else there."""
    path = folder / FOLDER
    return path.is_dir() and all(".orbax-checkpoint-tmp" in each.name for each in path.iterdir())


@contextmanager
def without_file_locks() -> Iterator[None]:
    """Lets checkpoints be written where the file system has no locks; a lease keeps others out.

    TensorStore takes locks of its own, and Orbax offers no way to tell it not to. Should a version
    of Orbax have this elsewhere, then saving fails, in words.
    """
    from orbax.checkpoint._src.serialization import tensorstore_utils

    context = getattr(tensorstore_utils, "_DEFAULT_OCDBT_TS_CONTEXT", {})
    before = dict(context)
    context["file_io_locking"] = {"mode": "none"}
    try:
        yield
    finally:
        context.clear()
        context.update(before)


class Store:
    """The checkpoints in a folder, of which the newest three are kept.

    A checkpoint holds named arrays and a record, and digests of both: Orbax does not notice a
    flipped byte, nor another shape or dtype. Nothing but those three takes one away: one whose
    digest is wrong is renamed to `N.damaged`, and one that could not be read to `N.unreadable`
    once there is a newer one to be saved.

    Args:
        folder: they lie in its folder `checkpoints`, which is made.
        read_only: for `load` only, which then renames nothing; a run may be writing there.
        processes: those that save and load together, each calling the same methods in the same
            order; by default this one on its own.
    """

    def __init__(
        self, folder: Path, *, read_only: bool = False, processes: Processes | None = None
    ) -> None:
        _silence_orbax()
        self._folder, self._read_only = folder, read_only
        self._processes = processes or Processes()
        self._next: int | None = None
        self._unreadable: list[int] = []
        self._manager = self._opened() if self._processes.count == 1 else None

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._manager is not None and self._manager.is_saving_in_progress()

    def save(self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Begins to save; the arrays may be changed as soon as this returns.

        Args:
            arrays: name -> array, none of them empty; several processes give the same names,
                shapes and dtypes, with zeros for what another one gives.
            record: for `json`; that of the first process counts.

        Raises:
            SpecificationError: this checkpoint or the last one cannot be written.
        """
        import orbax.checkpoint as orbax

        row, text = pack(arrays, record, self._processes.index)
        with self._writing():
            manager = self._manager = self._manager or self._opened()
            step = self._next
            if step is None:
                step = self._processes.decide(lambda: self._first_step(manager))
            tree = {"rows": self._processes.rows(row), "text": text}
            manager.save(step, args=orbax.args.PyTreeSave(tree))
            self._next = step + 1

    def wait(self) -> None:
        """Waits until everything is on the disk.

        Raises:
            SpecificationError: a checkpoint cannot be written.
        """
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def load(self) -> Content | None:
        """The arrays and the record of the newest checkpoint that is intact, None if there is none.

        They are what all processes have saved together, however many those were.

        Raises:
            SpecificationError: there are checkpoints that may be intact, and none can be read; or a
                process cannot read what the first one can.

        Warns:
            UserWarning: a newer one is damaged or cannot be read.
        """
        processes, self._next = self._processes, None
        if self._manager is not None and processes.count == 1:
            return self._newest(self._manager)[1]
        # Each process reads for itself: the manager of all of them would let none fail alone.
        with closing(self._opened(alone=True)) as manager:
            content: Content | None = None

            def newest() -> int | None:
                nonlocal content
                step, content = self._newest(manager)
                return step

            step = processes.decide(newest)
            if step is None:
                return None
            return processes.each(lambda: content or self._known(manager, step))

    def close(self) -> None:
        """Ends the threads.

        Raises:
            SpecificationError: a checkpoint cannot be written.
        """
        if self._manager is not None:
            with self._writing():
                _close(self._manager)

    def _opened(self, alone: bool = False) -> Any:
        import orbax.checkpoint as orbax

        writes = not (self._read_only or alone)
        options = orbax.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            create=writes,
            cleanup_tmp_directories=writes,
            lightweight_initialize=True,
            # Else the threads that write wait for 20 minutes for a folder that cannot be made.
            async_options=orbax.options.AsyncOptions(create_directories_asynchronously=False),
        )
        if alone:
            index = self._processes.index
            options.multiprocessing_options = orbax.options.MultiprocessingOptions(
                primary_host=index, active_processes={index}
            )
        path = self._folder / FOLDER
        if not is_remote(path):
            path = path.resolve()  # Orbax takes no relative path
        # Else what is in the first folder that is read decides what is expected in all of them.
        handler = orbax.PyTreeCheckpointHandler(
            multiprocessing_options=options.multiprocessing_options
        )
        return orbax.CheckpointManager(path, options=options, item_handlers=handler)

    def _newest(self, manager: Any) -> tuple[int | None, Content | None]:
        """The number and the content of the newest checkpoint that is intact."""
        listed = sorted(manager.all_steps())
        steps = list(listed)
        self._unreadable, why = [], ""
        while steps:
            step = steps.pop()
            try:
                return step, _read(manager, step)
            except MemoryError:
                raise
            except Exception as error:  # whatever Orbax makes of damaged files
                found, why = "is damaged", _short(error)
                if not isinstance(error, DamagedError):
                    found = "is damaged or cannot be read now"
                    self._unreadable.append(step)
                elif not self._read_only:
                    self._rename(step, "damaged")
                    manager.reload()
                if steps or not self._unreadable:
                    then = "the one before is used" if steps else "there is none before it"
                    warnings.warn(
                        f"{self._folder}: checkpoint {step} {found} ({why}): {then}", stacklevel=3
                    )
        if self._unreadable:
            manager.reload()
            if self._read_only and sorted(manager.all_steps()) != listed:
                return self._newest(manager)  # the run that writes there has moved on
            raise SpecificationError(
                f"{self._folder}: no checkpoint can be read ({self._unreadable[-1]}: {why}): try "
                f"again, or move {self._folder / FOLDER} away to count everything anew"
            )
        return None, None

    def _first_step(self, manager: Any) -> int:
        """The number of the first checkpoint after a load.

        What could not be read is put away, as newer checkpoints would take its place.
        """
        step = max(manager.all_steps(), default=-1) + 1
        for each in self._unreadable:
            self._rename(each, "unreadable")
        if self._unreadable:
            manager.reload()
        self._unreadable = []
        return step

    def _rename(self, step: int, why: str) -> None:
        folder = self._folder / FOLDER
        names = (f"{step}.{why}{f'-{number}' if number else ''}" for number in itertools.count())
        (folder / str(step)).rename(
            next(folder / each for each in names if not (folder / each).exists())
        )

    def _known(self, manager: Any, step: int) -> Content:
        """The content of a checkpoint that another process has read."""
        try:
            return _read(manager, step)
        except Exception as error:
            raise SpecificationError(
                f"{self._folder}: checkpoint {step} cannot be read ({_short(error)})"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with self._processes.connected():
                yield
        except ProcessLostError:
            raise
        except Exception as error:
            raise SpecificationError(
                f"cannot save in {self._folder}: {_short(error)}; what was saved before is intact"
            ) from error


def _close(manager: Any) -> None:
    """Closes a manager of Orbax, which leaves its threads behind if it has an error to tell.

    It tells each error once.
    """
    try:
        manager.close()
    except Exception:
        for _ in range(_ERRORS):
            with suppress(Exception):
                manager.close()
                break
        raise


def _read(manager: Any, step: int) -> Content:
    import orbax.checkpoint as orbax

    def read(name: str) -> np.ndarray:
        """One array alone: a read beside one that fails would outlive Orbax's event loop."""
        kind = {name: orbax.RestoreArgs(restore_type=np.ndarray)}
        wanted = orbax.args.PyTreeRestore({name: 0}, restore_args=kind, partial_restore=True)
        return manager.restore(step, args=wanted)[name]

    return unpack(read("rows"), read("text"))


@functools.cache
def _silence_orbax() -> None:
    """Keeps from the user's terminal the tracebacks of what is also raised here."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in Path(record.pathname).parts)
    show = sys.unraisablehook

    def hook(told: Any) -> None:
        # A write beside one that failed outlives Orbax's event loop.
        if str(told.exc_value) != "Event loop is closed":
            show(told)

    sys.unraisablehook = hook


def _short(error: Exception) -> str:
    """Why Orbax failed: the system's reason, if TensorStore tells its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(found[1]))
    line = first_line(error)
    return line if len(line) <= 200 else f"{line[:200]}…"
