"""Several processes, on one machine or many, that share a sweep."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import numpy as np

from jaxrobust.ground.errors import ProcessLostError, SpecificationError, first_line

# A process that has not been heard of for this long is taken for lost, and the others stop.
_HEARTBEAT = 30  # seconds
_Found = TypeVar("_Found")


def initialize(
    coordinator_address: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Makes this process one of several that share every sweep from here on.

    To be called in each of them, before anything else of JAX. On TPU pods, under Slurm, Open MPI
    and in Kubernetes nothing has to be given; elsewhere all three.

    Args:
        coordinator_address: host and port at which process 0 is reached.
        processes: how many there are.
        process: which one this is, from 0.

    Raises:
        SpecificationError: no cluster was found, or arguments that make no sense together.
    """
    import jax

    given = (coordinator_address, processes, process)
    if any(each is None for each in given) and any(each is not None for each in given):
        raise SpecificationError(
            "the coordinator's address, the number of processes and the index of this one: "
            "give all three, or none where a cluster tells them"
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise SpecificationError(
            f"process {process} of {processes}: possible: 0 to {processes - 1}"
        )
    if coordinator_address is not None and not coordinator_address.rpartition(":")[2].isdecimal():
        raise SpecificationError(f"coordinator {coordinator_address!r}: HOST:PORT is needed")
    try:
        jax.distributed.initialize(
            coordinator_address,
            processes,
            process,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except ValueError as error:
        raise SpecificationError(
            f"no cluster was found ({first_line(error)}); known are TPU pods, Slurm, Open MPI and "
            "Kubernetes: elsewhere give the coordinator's address, the number of processes and "
            "the index of this one"
        ) from error
    except RuntimeError as error:
        raise SpecificationError(f"the processes cannot be joined: {first_line(error)}") from error


def leave(status: int) -> NoReturn:
    """Ends this process at once after an error: at its exit JAX would wait for the other ones.

    Args:
        status: of the exit.
    """
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    if jax.distributed.is_initialized() and Processes.of_this_job().is_primary:
        time.sleep(1)  # its end aborts the others, who may have to tell the same error
    os._exit(status)


class Processes:
    """The processes that share a sweep, and how they agree.

    Each of them has to call the same methods in the same order: a call returns once all have made
    it. A single one waits for nobody.

    Args:
        index: of this process.
        count: how many there are.

    Raises:
        ProcessLostError: by every method, if another process is gone.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    @staticmethod
    def of_this_job() -> Processes:
        """All those that `initialize` has joined."""
        import jax

        return Processes(jax.process_index(), jax.process_count())

    @property
    def is_primary(self) -> bool:
        """Whether this is the one that writes results and decides."""
        return self.index == 0

    def gather(self, *numbers: int) -> np.ndarray:
        """The numbers of every process: int64 [processes, numbers]."""
        own = np.asarray(numbers, np.int64)
        if self.count == 1:
            return own[None]
        # JAX has no 64-bit numbers unless it is told to.
        return self._gathered(own.view(np.int32)).view(np.int64)

    def gather_text(self, text: str) -> list[str]:
        """The texts of every process."""
        own = np.frombuffer(text.encode(), np.uint8)
        lengths = self.gather(len(own))[:, 0]
        if self.count == 1:
            return [text]
        padded = np.zeros(max(lengths.max(), 1), np.uint8)
        padded[: len(own)] = own
        rows = self._gathered(padded)
        return [row[:n].tobytes().decode() for row, n in zip(rows, lengths, strict=True)]

    def decide(self, function: Callable[[], _Found]) -> _Found:
        """What a function gives on the primary, on which alone it is called.

        Args:
            function: gives something for `json`.

        Raises:
            SpecificationError: on every process, if the function raises it.
        """
        if self.count == 1:
            return function()
        found, error = None, None
        if self.is_primary:
            found, error = _tried(function)
        [answer, *_] = self.gather_text(json.dumps([found, error]))
        found, error = json.loads(answer)
        if error is not None:
            raise SpecificationError(error)
        return found

    def each(self, function: Callable[[], _Found]) -> _Found:
        """What a function gives here; it is called on every process.

        Raises:
            SpecificationError: on every process, if the function raises it on one.
        """
        if self.count == 1:
            return function()
        found, error = _tried(function)
        for index, message in enumerate(self.gather_text(error or "")):
            if message:
                raise SpecificationError(f"process {index}: {message}")
        return found  # type: ignore[return-value]  # it has not failed

    def rows(self, row: np.ndarray) -> Any:
        """The rows of every process below each other, [processes, …], for Orbax to save.

        An array of JAX of which each process holds its own row; of a single process, of NumPy.
        """
        if self.count == 1:
            return row[None]
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        first = {device.process_index: device for device in reversed(jax.devices())}
        mesh = Mesh(np.asarray([first[index] for index in range(self.count)]), ("process",))
        return jax.make_array_from_single_device_arrays(
            (self.count, *row.shape),
            NamedSharding(mesh, PartitionSpec("process")),
            [jax.device_put(row[None], first[self.index])],
        )

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Tells in one line that another process is gone, if what is done within finds out."""
        if self.count == 1:
            yield
            return
        import jax

        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            raise ProcessLostError(
                f"process {self.index} of {self.count} on {socket.gethostname()}: another process "
                f"has ended or cannot be reached ({first_line(error)[:200]}): start all of them "
                "again; the sweep goes on from what was saved last"
            ) from error

    def _gathered(self, values: np.ndarray) -> np.ndarray:
        from jax.experimental import multihost_utils

        with self.connected():
            return np.asarray(multihost_utils.process_allgather(values))


def _tried(function: Callable[[], _Found]) -> tuple[_Found | None, str | None]:
    try:
        return function(), None
    except SpecificationError as error:
        return None, str(error)
