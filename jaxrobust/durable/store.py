"""Checkpoints by Orbax, each with a digest that is verified when it is read."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.errors import SpecificationError, first_line

FOLDER = "checkpoints"
_KEPT = 3


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds any, be they damaged."""
    path = folder / FOLDER
    return path.is_dir() and any(each.name.isdecimal() for each in path.iterdir())


class Store:
    """The checkpoints in a folder, of which the newest three are kept.

    A checkpoint holds named arrays and a record, and a SHA-256 of both: Orbax does not notice a
    flipped byte, nor another shape or dtype.

    Args:
        folder: they lie in its folder `checkpoints`, which is made.
        read_only: for `load` only, which then deletes nothing; a run may be writing there.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        import orbax.checkpoint as orbax

        _silence_orbax()
        self._folder, self._read_only = folder, read_only
        self._manager = orbax.CheckpointManager(
            (folder / FOLDER).resolve(),  # Orbax takes no relative path
            options=orbax.CheckpointManagerOptions(
                max_to_keep=_KEPT,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                lightweight_initialize=True,
            ),
        )

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._manager.is_saving_in_progress()

    def save(self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Begins to save; the arrays may be changed as soon as this returns.

        Args:
            arrays: name -> array, none of them empty.
            record: for `json`.

        Raises:
            SpecificationError: this checkpoint or the last one cannot be written.
        """
        import orbax.checkpoint as orbax

        text = json.dumps({"arrays": list(arrays), "record": record}).encode()
        # Names may hold any character: Orbax gets numbers.
        tree = {str(number): array for number, array in enumerate(arrays.values())}
        tree["record"] = np.frombuffer(text, np.uint8).copy()
        tree["digest"] = _digest(tree)
        step = max(self._manager.all_steps(), default=-1) + 1
        try:
            self._manager.save(step, args=orbax.args.PyTreeSave(tree))
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Waits until everything is on the disk.

        Raises:
            SpecificationError: a checkpoint cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays and the record of the newest checkpoint that is intact, None if there is none.

        Warns:
            UserWarning: a newer one is damaged; it is deleted, unless the store is read-only.
        """
        steps = sorted(self._manager.all_steps())
        while steps:
            step = steps.pop()
            try:
                return self._read(step)
            except MemoryError:
                raise
            except Exception as error:  # whatever Orbax makes of damaged files
                then = "the one before is used" if steps else "there is none before it"
                warnings.warn(
                    f"{self._folder}: checkpoint {step} is damaged ({_short(error)}): {then}",
                    stacklevel=2,
                )
                if not self._read_only:
                    self._manager.delete(step)
        return None

    def close(self) -> None:
        """Ends the threads.

        Raises:
            SpecificationError: a checkpoint cannot be written.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise self._failure(error) from error

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        import orbax.checkpoint as orbax

        def read(name: str) -> dict[str, np.ndarray]:
            """One array alone: reads beside one that fails would outlive Orbax's event loop."""
            wanted = orbax.args.PyTreeRestore({name: 0}, partial_restore=True)
            return dict(self._manager.restore(step, args=wanted))

        tree = read("record")
        content = json.loads(tree["record"].tobytes())
        names = content["arrays"]
        for number in range(len(names)):
            tree |= read(str(number))
        if not np.array_equal(_digest(tree), read("digest")["digest"]):
            raise ValueError("its digest is wrong")
        return {name: tree[str(n)] for n, name in enumerate(names)}, content["record"]

    def _failure(self, error: Exception) -> SpecificationError:
        return SpecificationError(
            f"cannot save in {self._folder}: {_short(error)}; what was saved before is intact"
        )


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


def _digest(tree: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 of names, shapes, dtypes and bytes, as uint8 [32]."""
    digest = hashlib.sha256()
    for name in sorted(tree):
        array = np.ascontiguousarray(tree[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return np.frombuffer(digest.digest(), np.uint8).copy()
