"""Sharing a run with other processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

NOBODY = -1


class Follower(Protocol):
    """What follows a run: it may share it with other processes, and save."""

    def begins(self, pending: np.ndarray, done: int, total: int) -> np.ndarray:
        """Which trials are run here.

        Args:
            pending: bool [perturbation, layer, strength, seed], all that have to be run.
            done, total: trial-images that are done, and all of them.

        Returns:
            bool like `pending`.
        """
        ...

    def added(self, done: int) -> int:
        """Called after every step with the trial-images that were done before or here.

        Returns:
            Those that are done anywhere.
        """
        ...

    def ends(self) -> Iterator[int]:
        """Waits for the others, if there are any; gives what is done anywhere by and by."""
        ...

    def joins(self) -> None:
        """Puts together what all of them have counted, after `ends`."""
        ...


class Alone:
    """Follows a run that is neither shared nor saved."""

    def begins(self, pending: np.ndarray, done: int, total: int) -> np.ndarray:
        return np.ones_like(pending)

    def added(self, done: int) -> int:
        return done

    def ends(self) -> Iterator[int]:
        return iter(())

    def joins(self) -> None:
        pass


def owners(pending: np.ndarray, processes: int) -> np.ndarray:
    """Shares trials out, on every layer as evenly as it goes.

    Each process gets consecutive trials of a layer, perturbation by perturbation and seed by seed:
    those of a seed share its draw.

    Args:
        pending: bool [perturbation, layer, strength, seed], the trials that have to be run.
        processes: how many processes there are.

    Returns:
        int32 like `pending`: the index of a process, or -1 for other trials.
    """
    owner = np.full(pending.shape, NOBODY, np.int32)
    first = 0  # whoever has got one trial less so far
    for layer in range(pending.shape[1]):
        # A view with the seeds before the strengths.
        own, wanted = (np.swapaxes(each[:, layer], 1, 2) for each in (owner, pending))
        trials = np.count_nonzero(wanted)
        each, more = divmod(trials, processes)
        order = (np.arange(processes) - first) % processes
        own[wanted] = np.repeat(np.arange(processes), each + (order < more))
        first = (first + more) % processes
    return owner


def own_part(
    arrays: Mapping[str, np.ndarray], owner: np.ndarray, process: int
) -> dict[str, np.ndarray]:
    """The arrays with zeros for what belongs to another process.

    Args:
        arrays: by name; those that begin with the four axes of a trial are split by trials.
        owner: int32 [perturbation, layer, strength, seed]: a process, or -1.
        process: index; process 0 also has the trials that belong to nobody, and other arrays.
    """
    own = (owner == process) | ((owner == NOBODY) & (process == 0))

    def part(array: np.ndarray) -> np.ndarray:
        if array.shape[: owner.ndim] != owner.shape:
            return array if process == 0 else np.zeros_like(array)
        mask = own.reshape(own.shape + (1,) * (array.ndim - own.ndim))
        return np.where(mask, array, np.zeros((), array.dtype))

    return {name: part(array) for name, array in arrays.items()}
