"""Progress bars on stderr; they appear with the first progress, so that errors come first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from jaxrobust.data.progress import PREPARING, Report, silent
from jaxrobust.ground.text import printable
from jaxrobust.networks import download


@contextmanager
def work_progress(quiet: bool, *, whole: bool = True) -> Iterator[Report]:
    """Shows how far images and trials have come.

    Args:
        quiet: show nothing.
        whole: every trial sees all images, so that trials can be counted.

    Yields:
        What data sources and the engine report to.
    """
    if quiet:
        yield silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[trials]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=None, trials="", rate="")

    images = 0  # of one trial

    def report(what: str, done: int, total: int) -> None:
        nonlocal images
        bar.start()  # not before: errors come first
        if what in PREPARING:
            images, trials = total, ""
        elif whole:
            trials = f"{done // images:,}/{total // images:,} trials" if total else ""
        else:
            trials = f"{done:,}/{total:,} trial-images" if total else ""
        what = escape(printable(what))  # it may name a layer of anybody's network
        shown = bar.tasks[task]
        # What a sweep that goes on had done before is no speed.
        if shown.total != (total or None) or (what != shown.description and done == 0):
            bar.reset(task, completed=done)
        speed = bar.tasks[task].speed
        bar.update(
            task,
            description=what,
            completed=done,
            total=total or None,
            trials=trials,
            rate=f"{speed:,.0f} images/s" if speed else "",
        )

    with _ended(bar):
        yield report


@contextmanager
def download_progress() -> Iterator[download.Report]:
    """Shows how far a download has come.

    Yields:
        What `download` reports to.
    """
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task("", total=None)

    def report(done: int, total: int | None) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    with _ended(bar):
        yield report


@contextmanager
def _ended(bar: Progress) -> Iterator[None]:
    try:
        yield
    finally:
        if bar.live.is_started:  # or it would print an empty line
            bar.stop()
