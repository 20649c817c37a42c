"""Run folders: what a sweep leaves on disk, and how it is read again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrobust.durable.store import Store, has_checkpoints
from jaxrobust.errors import SpecificationError, check_can_be_made, first_line
from jaxrobust.paths import is_remote, path_of
from jaxrobust.results import DIMENSIONS, cell_rows, labelled, sum_blocks

if TYPE_CHECKING:
    import xarray


def check_run_folder(folder: str | Path) -> Path:
    """A folder that is new, empty or holds a sweep.

    Raises:
        SpecificationError: it holds something else, or cannot be made.
    """
    path = path_of(folder)
    if not path.exists():
        if not is_remote(path):
            check_can_be_made(path)
    elif not path.is_dir() or not (path / "sweep.json").exists() and _content(path):
        raise SpecificationError(f"{path} holds something else: choose a folder that is new")
    return path


def _content(folder: Path) -> list[str]:
    """What is in a folder, but for hidden files, such as the lock of a run that never began."""
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def was_counted(folder: Path) -> bool:
    """Whether a run folder holds counts."""
    return has_checkpoints(folder) or (folder / "results.nc").exists()


def is_written(folder: Path) -> bool:
    """Whether the result of a finished sweep is in the folder."""
    described = folder / "sweep.json"
    return described.exists() and bool(read_record(folder)["finished"])


def read_record(folder: Path) -> dict[str, Any]:
    """What `sweep.json` says.

    Raises:
        SpecificationError: it is damaged.
    """
    path = folder / "sweep.json"
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise SpecificationError(f"{path} cannot be read: {first_line(error)}") from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `sweep.json`, whole or not at all."""
    _replace(folder / "sweep.json", lambda path: path.write_text(json.dumps(record, indent=1)))


def write_run(folder: Path, result: xarray.Dataset, record: Mapping[str, Any]) -> None:
    """Writes `results.nc`, `results.csv` and `sweep.json`, each whole or not at all.

    Of a sweep to a precision also `cells.csv`: see `cell_rows`.

    Args:
        folder: made if it doesn't exist.
        result: with its blocks.
        record: what `sweep.json` says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = {name: {"zlib": True} for name in result.data_vars}
    _replace(
        folder / "results.nc",
        lambda path: result.to_netcdf(path, engine="h5netcdf", encoding=packed),
    )
    trials = sum_blocks(result).drop_dims(["image", "byte"], errors="ignore")
    trials = trials.drop_vars([n for n in trials.data_vars if "seed" not in trials[n].dims])
    rows = trials.to_dataframe(dim_order=list(DIMENSIONS[:4]))
    rows = rows[rows["images"] > 0]
    _replace(folder / "results.csv", lambda path: rows.to_csv(path, na_rep="nan"))
    cells = folder / "cells.csv"
    if "half_width" in result.attrs:
        _replace(cells, cell_rows(result).to_csv)
    elif cells.exists():  # of the sweep to a precision that this one extends
        cells.unlink()
    write_record(folder, record)


def _replace(path: Path, write: Any) -> None:
    if is_remote(path):  # an object appears whole or not at all
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            write(temporary)
            path.write_bytes(temporary.read_bytes())
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _local(path: Path) -> Iterator[Path]:
    """A file of this machine with the same content."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        temporary.write_bytes(path.read_bytes())
        yield temporary


def open_run(folder: str | Path, *, blocks: bool = False) -> xarray.Dataset:
    """Reads the result of a run folder; of a sweep that is not finished, what was saved last.

    Args:
        folder: where a sweep was written.
        blocks: keep the dimension `block` rather than adding its sums.

    Raises:
        FileNotFoundError: there is no result in the folder.
    """
    import xarray

    folder = path_of(folder)
    path = folder / "results.nc"
    result = None
    if has_checkpoints(folder) and not is_written(folder):
        result = _open_unfinished(folder)
    if result is None:
        if not path.exists():
            what = "nothing was counted yet" if (folder / "sweep.json").exists() else "no sweep"
            raise FileNotFoundError(f"{folder} holds no results.nc: {what}")
        with _local(path) as file:
            result = xarray.load_dataset(file, engine="h5netcdf")
    return result if blocks else sum_blocks(result)


def _open_unfinished(folder: Path) -> xarray.Dataset | None:
    with closing(Store(folder, read_only=True)) as store:
        found = store.load()
    return found and labelled(*found).assign_attrs(finished=0)
