"""Run folders: what a sweep leaves on disk, and how it is read again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrobust.ground.errors import SpecificationError, check_can_be_made, first_line
from jaxrobust.ground.paths import check_name, is_remote, path_of
from jaxrobust.results import DIMENSIONS, SweepInfo, cell_rows, labelled, sum_blocks, whole_grid
from jaxrobust.storage.durable.files import digest_of, write_whole
from jaxrobust.storage.durable.foreign import read_json, read_netcdf
from jaxrobust.storage.durable.store import FOLDER, Content, Store, has_checkpoints, is_unused

if TYPE_CHECKING:
    import xarray


def check_run_folder(folder: str | Path) -> Path:
    """A folder that is new, empty or holds a sweep, and has a name that can be written to.

    Raises:
        SpecificationError: it holds something else, or cannot be made.
    """
    path = path_of(folder)
    check_name(folder)
    try:
        if not path.exists():
            if not is_remote(path):
                check_can_be_made(path)
        elif not path.is_dir() or not (path / "sweep.json").exists() and not _is_ours(path):
            raise SpecificationError(f"{path} holds something else: choose a folder that is new")
    except OSError as error:
        why = error.strerror or first_line(error)
        raise SpecificationError(f"{path} cannot be used: {why}") from error
    return path


def _is_ours(folder: Path) -> bool:
    """Whether a folder without `sweep.json` is left of a sweep, or empty.

    Hidden files do not count, such as the lock of a run that never began.
    """
    if has_checkpoints(folder):
        with warnings.catch_warnings(action="ignore"):  # they are read again, and told then
            found = _newest(folder)
        return found is not None and "specification" in found[1]
    content = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return not content or content == [FOLDER] and is_unused(folder)


def was_counted(folder: Path) -> bool:
    """Whether a run folder holds counts."""
    return has_checkpoints(folder) or (folder / "results.nc").exists()


def is_written(folder: Path) -> bool:
    """Whether the result of a finished sweep is in the folder, in files that are as written."""
    record = read_record(folder)
    return record is not None and bool(record["finished"]) and not _changed(folder, record)


def read_finished(folder: Path) -> xarray.Dataset | None:
    """The result of a finished sweep, with its blocks; None if there is none that is as written.

    Raises:
        SpecificationError: there is one, and it cannot be read.
    """
    record = read_record(folder)
    if record is None or not record["finished"] or "results.nc" in _changed(folder, record):
        return None
    return _written(folder, record)


def _changed(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """The result's files that are missing or not those that `sweep.json` tells of.

    Of the files of version 0.1 nothing is told but that they are there.
    """
    told = record.get("files", dict.fromkeys(("results.nc", "results.csv")))
    return [name for name, digest in told.items() if not _is_as_written(folder / name, digest)]


def _is_as_written(file: Path, digest: str | None) -> bool:
    if digest is None:
        return file.exists()
    _check_is_file(file)
    try:
        return digest_of(file.read_bytes()) == digest
    except FileNotFoundError:
        return False


def read_record(folder: Path) -> dict[str, Any] | None:
    """What `sweep.json` says; None if there is none, or a damaged one beside checkpoints.

    These hold the design as well. An empty one, as a crash can leave it, tells of nothing where
    nothing was counted.

    Raises:
        SpecificationError: it is damaged and there are no checkpoints.
    """
    path, content = folder / "sweep.json", b""
    _check_is_file(path)
    try:
        content = path.read_bytes()
        return read_json(content.decode())
    except FileNotFoundError:
        return None
    except ValueError as error:
        is_empty = not content.strip(b"\0 \n")  # nulls are what some file systems leave
        if has_checkpoints(folder) or is_empty and not was_counted(folder):
            return None
        raise SpecificationError(f"{path} cannot be read: {first_line(error)}") from error


def _check_is_file(path: Path) -> None:
    """Reading a pipe would wait for ever."""
    if not is_remote(path) and path.exists() and not path.is_file():
        raise SpecificationError(f"{path} cannot be read: it is not a file")


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes `sweep.json`, whole or not at all."""
    write_whole(folder / "sweep.json", json.dumps(record, indent=1).encode())


def write_run(folder: Path, result: xarray.Dataset, record: Mapping[str, Any]) -> None:
    """Writes `results.nc`, `results.csv` and `sweep.json`, each whole or not at all.

    Of a sweep to a precision also `cells.csv`: see `cell_rows`.

    Args:
        folder: made if it doesn't exist.
        result: with its blocks.
        record: what `sweep.json` says; the digests of the other files are added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packed = {name: {"zlib": True} for name in result.data_vars}
    # In memory first: HDF5 does not survive a disk that is full.
    content = {"results.nc": bytes(result.to_netcdf(engine="h5netcdf", encoding=packed))}
    trials = sum_blocks(result).drop_dims(["image", "byte"], errors="ignore")
    for name in [str(name) for name in trials.data_vars if "bin" in trials[name].dims]:
        bins = {f"{name}_{i + 1}": trials[name].isel(bin=i) for i in range(trials.sizes["bin"])}
        trials = trials.drop_vars(name).assign(bins)
    trials = trials.drop_vars([n for n in trials.data_vars if "seed" not in trials[n].dims])
    rows = trials.to_dataframe(dim_order=list(DIMENSIONS[:4]))
    content["results.csv"] = rows[rows["images"] > 0].to_csv(na_rep="nan").encode()
    cells = folder / "cells.csv"
    if SweepInfo.of(result).is_precise:
        content["cells.csv"] = cell_rows(result).to_csv().encode()
    elif cells.exists():  # of the sweep to a precision that this one extends
        cells.unlink()
    for name, each in content.items():
        write_whole(folder / name, each)
    digests = {name: digest_of(each) for name, each in content.items()}
    write_record(folder, {**record, "files": digests})


def design_of(specification: Mapping[str, Any]) -> str:
    """Fingerprint of what is measured, from a specification as JSON.

    How many seeds a sweep to a precision has come to, which version 0.1 wrote there, is no part
    of it.
    """
    fixed = dict(specification)
    if fixed.get("half_width") is not None:
        fixed.pop("seeds", None)
    return digest_of(json.dumps(fixed, sort_keys=True).encode())


def check_belongs(
    folder: Path, described: Mapping[str, Any] | None, saved: Mapping[str, Any]
) -> None:
    """Makes sure that a checkpoint is of the sweep that `sweep.json` describes.

    Args:
        folder: of the run.
        described: what `sweep.json` says, if there is one.
        saved: the checkpoint's record.

    Raises:
        SpecificationError: it is of another one, which this one does not extend, or nothing tells
            of which.
    """
    if described is None:
        return
    own, other = described.get("specification"), saved["specification"]
    if not own:
        raise SpecificationError(
            f"{folder}/sweep.json does not say what was measured: move it away, as the newest "
            "checkpoint says it, too"
        )
    if design_of(other) in (design_of(own), *described.get("extends", ())):
        return
    differing = [name for name in {**own, **other} if own.get(name) != other.get(name)]
    raise SpecificationError(
        f"{folder / FOLDER}: the newest checkpoint is of another sweep than {folder}/sweep.json "
        f"(other {', '.join(differing)}): move away what belongs to the other one"
    )


def open_run(folder: str | Path, *, blocks: bool = False) -> xarray.Dataset:
    """Reads the result of a run folder; of a sweep that is not finished, what was saved last.

    Args:
        folder: where a sweep was written.
        blocks: keep the dimension `block` rather than adding its sums.

    Raises:
        FileNotFoundError: there is no result in the folder.
        SpecificationError: what is there is damaged or belongs to another sweep.

    Warns:
        UserWarning: `results.nc` is damaged or of another sweep; a checkpoint is read instead.
    """
    folder = path_of(folder)
    record = read_record(folder)
    finished = bool(record and record["finished"])
    result = _written(folder, record) if record and finished else None
    if result is None and (found := read_newest(folder)):
        result = labelled(*found)
        result.attrs["finished"] *= finished
    if result is None and not finished:
        result = _written(folder, record or {})
    if result is None:
        what = "no sweep" if record is None else "nothing was counted yet"
        if finished:
            what = "it was removed, and so were the checkpoints"
        raise FileNotFoundError(f"{folder} holds no results.nc: {what}")
    return result if blocks else sum_blocks(result)


def _written(folder: Path, record: Mapping[str, Any]) -> xarray.Dataset | None:
    """What `results.nc` holds; None if there is none, or not the right one beside checkpoints."""
    path = folder / "results.nc"
    _check_is_file(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest = record.get("files", {}).get(path.name)
    wrong = "is damaged or of another sweep"
    if digest in (None, digest_of(content)):
        try:
            result = read_netcdf(content)
            whole_grid(result)
        except ValueError as error:
            wrong = f"cannot be read ({first_line(error)})"
        else:
            told = record.get("hash")
            if digest or told in (None, result.attrs.get("specification", told)):
                return result
    if not has_checkpoints(folder):
        raise SpecificationError(f"{path} {wrong}, and there are no checkpoints")
    warnings.warn(
        f"{path} {wrong}: the newest checkpoint is read; the same sweep writes it again",
        stacklevel=3,
    )
    return None


def _newest(folder: Path) -> Content | None:
    """The newest checkpoint of a folder in which a run may be writing."""
    if not has_checkpoints(folder):
        return None
    with closing(Store(folder, read_only=True)) as store:
        return store.load()


def read_newest(folder: Path) -> Content | None:
    """The arrays and the record of the newest checkpoint of the folder's sweep, if there is one.

    Where the finished result is there, it does not matter that no checkpoint can be read.

    Raises:
        SpecificationError: it is of another sweep, or none can be read.
    """
    try:
        found = _newest(folder)
    except SpecificationError:
        if read_finished(folder) is None:
            raise
        return None
    if found is not None:
        check_belongs(folder, read_record(folder), found[1])
    return found
