"""Whether a folder is the same one for all processes."""

from __future__ import annotations

import socket
import time
import uuid
from pathlib import Path

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.runtime.hosts import Processes

# A network file system may show a new file late, because it remembers what was there.
_PATIENCE = 5.0  # seconds


def check_shared(folder: Path, processes: Processes) -> None:
    """Makes sure that every process sees what the first one writes.

    Args:
        folder: exists on the first one.
        processes: all of them call this.

    Raises:
        SpecificationError: on every process, naming those that don't.
    """
    if processes.count == 1:
        return

    def leave_token() -> str:
        token = folder / f".token-{uuid.uuid4().hex}"
        try:
            token.touch()
        except OSError as error:
            raise SpecificationError(f"{folder} cannot be written to: {error.strerror}") from error
        return token.name

    token = folder / processes.decide(leave_token)
    seen = processes.gather(_appears(token))[:, 0]
    hosts = processes.gather_text(socket.gethostname())
    if processes.is_primary:
        token.unlink(missing_ok=True)
    if not seen.all():
        blind = ", ".join(f"{n} (on {hosts[n]})" for n in range(processes.count) if not seen[n])
        raise SpecificationError(
            f"{folder} is not shared: what process 0 (on {hosts[0]}) writes there is not seen by "
            f"process {blind}: choose a folder on a file system that all of them have"
        )


def _appears(file: Path) -> bool:
    end = time.monotonic() + _PATIENCE
    while not (found := file.exists()) and time.monotonic() < end:
        time.sleep(0.1)
    return found
