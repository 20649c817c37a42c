"""Checkpoints by Orbax, each with a digest that is verified when it is read."""

from __future__ import annotations

import functools
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.durable.packing import pack, unpack
from jaxrobust.errors import ProcessLostError, SpecificationError, first_line
from jaxrobust.hosts import Processes
from jaxrobust.paths import is_remote

FOLDER = "checkpoints"
_KEPT = 3
_Content = tuple[dict[str, np.ndarray], dict[str, Any]]


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds any, be they damaged."""
    path = folder / FOLDER
    return path.is_dir() and any(each.name.isdecimal() for each in path.iterdir())


class Store:
    """The checkpoints in a folder, of which the newest three are kept.

    A checkpoint holds named arrays and a record, and digests of both: Orbax does not notice a
    flipped byte, nor another shape or dtype.

    Args:
        folder: they lie in its folder `checkpoints`, which is made.
        read_only: for `load` only, which then deletes nothing; a run may be writing there.
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
                step = self._processes.decide(lambda: max(manager.all_steps(), default=-1) + 1)
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

    def load(self) -> _Content | None:
        """The arrays and the record of the newest checkpoint that is intact, None if there is none.

        They are what all processes have saved together, however many those were.

        Raises:
            SpecificationError: a process cannot read what the first one can.

        Warns:
            UserWarning: a newer one is damaged; it is deleted, unless the store is read-only.
        """
        processes = self._processes
        if self._manager is not None and processes.count == 1:
            return self._newest(self._manager)[1]
        # Each process reads for itself: the manager of all of them would let none fail alone.
        with closing(self._opened(alone=True)) as manager:
            step, content = self._newest(manager) if processes.is_primary else (None, None)
            step = processes.decide(lambda: step)
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
                self._manager.close()

    def _opened(self, alone: bool = False) -> Any:
        import orbax.checkpoint as orbax

        writes = not (self._read_only or alone)
        options = orbax.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            create=writes,
            cleanup_tmp_directories=writes,
            lightweight_initialize=True,
        )
        if alone:
            index = self._processes.index
            options.multiprocessing_options = orbax.options.MultiprocessingOptions(
                primary_host=index, active_processes={index}
            )
        path = self._folder / FOLDER
        if not is_remote(path):
            path = path.resolve()  # Orbax takes no relative path
        return orbax.CheckpointManager(path, options=options)

    def _newest(self, manager: Any) -> tuple[int | None, _Content | None]:
        """The number and the content of the newest checkpoint that is intact."""
        steps = sorted(manager.all_steps())
        while steps:
            step = steps.pop()
            try:
                return step, _read(manager, step)
            except MemoryError:
                raise
            except Exception as error:  # whatever Orbax makes of damaged files
                then = "the one before is used" if steps else "there is none before it"
                warnings.warn(
                    f"{self._folder}: checkpoint {step} is damaged ({_short(error)}): {then}",
                    stacklevel=3,
                )
                if not self._read_only:
                    manager.delete(step)
        return None, None

    def _known(self, manager: Any, step: int) -> _Content:
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


def _read(manager: Any, step: int) -> _Content:
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


def _short(error: Exception) -> str:
    """Why Orbax failed: the system's reason, if TensorStore tells its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(found[1]))
    line = first_line(error)
    return line if len(line) <= 200 else f"{line[:200]}…"
