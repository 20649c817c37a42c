"""How far a sweep has come, read from its run folder while it runs or afterwards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from jaxrobust.ground.paths import path_of
from jaxrobust.ground.text import aligned
from jaxrobust.results import SweepInfo, cell_rows, labelled, metric_of, sum_blocks
from jaxrobust.storage.durable.lock import is_locked
from jaxrobust.storage.durable.store import has_checkpoints
from jaxrobust.storage.run_folder import is_written, read_finished, read_newest, read_record
from jaxrobust.summary import text_table


def status(folder: str | Path) -> str:
    """Trials done, rate, time left, and the accuracies that were saved last.

    Args:
        folder: of a run.

    Raises:
        FileNotFoundError: there is no sweep in the folder.
        SpecificationError: no checkpoint can be read, or the newest is of another sweep.
    """
    folder = path_of(folder)
    if not (folder / "sweep.json").exists() and not has_checkpoints(folder):
        raise FileNotFoundError(f"{folder} holds no sweep.json: not the folder of a sweep")
    described = read_record(folder)  # a damaged one is no sweep's
    running = is_locked(folder)
    found = read_newest(folder)
    if found is None and (written := read_finished(folder)) is not None:
        rows = [("state", "finished; without checkpoints nothing can be added")]
        rows += [("written", described["written"])] if described and "written" in described else []
        return f"{aligned(rows)}\n\n{text_table(sum_blocks(written))}"
    if found is None:
        return "running: nothing is saved yet" if running else "not running: nothing was saved"
    arrays, record = found
    result = sum_blocks(labelled(arrays, record))
    progress, images = record["progress"], record["specification"]["images"]
    done, total = progress["done"], progress["total"]
    finished = is_written(folder)
    if finished:
        state = "finished"
    else:
        state = "running" if running else "not running: the same command goes on with it"
    rows = [("state", state)]
    info = SweepInfo.of(result)
    half_width = info.half_width
    if half_width is not None:
        cells = cell_rows(result)["met"]
        to = metric_of(result, info.half_width_metric).half_width_in_words(half_width)
        rows.append(("cells", f"{cells.sum():,} of {cells.size:,} are known to {to}"))
        rows.append(("this round", f"{done:,} of {total:,} trial-images"))
    else:
        rows.append(("trials", f"{done // images:,} of {total // images:,}"))
    if progress["seconds"]:
        rate = progress["counted"] / progress["seconds"]
        rows.append(("rate", f"{rate:,.0f} images/s"))
        if rate and not finished:
            what = "time left" + " in it" * (half_width is not None)
            rows.append((what, str(timedelta(seconds=round((total - done) / rate)))))
    rows.append(("saved", record["saved"]))
    return f"{aligned(rows)}\n\n{text_table(result)}"
