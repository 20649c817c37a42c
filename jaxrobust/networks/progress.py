"""The progress bar of a download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxrobust.networks.download import Report


@contextmanager
def download_progress() -> Iterator[Report]:
    """Shows a bar on stderr as soon as there is progress.

    Yields:
        What `download` reports to.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=None)

    def report(done: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if bar.live.is_started:  # or it would print an empty line
            bar.stop()
