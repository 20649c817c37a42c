"""The sweep that is asked for, compared with the one that its run folder holds."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxrobust.data.source import ImageSource
from jaxrobust.design.code import SweepCode
from jaxrobust.design.specification import Specification
from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.storage.progress import SweepProgress
from jaxrobust.storage.run_folder import read_record, was_counted
from jaxrobust.storage.same_sweep import check_same


@dataclass(frozen=True)
class SweepInFolder:
    """A sweep, and the folder that it is to be kept in: see `folder.saved`."""

    progress: SweepProgress
    folder: Path
    images: ImageSource
    code: SweepCode
    extend: bool

    def check_held(self) -> None:
        """Makes sure that the folder holds nothing, this sweep or one that it extends."""
        try:
            record = read_record(self.folder) if was_counted(self.folder) else None
        except OSError as error:
            why = error.strerror or first_line(error)
            raise SpecificationError(f"{self.folder} cannot be read: {why}") from error
        if record is not None:
            self.check_same(f"{self.folder}/sweep.json", record)

    def check_same(self, what: str, record: Mapping[str, Any]) -> None:
        """Makes sure that a record is of this sweep or of one that it extends.

        Args:
            what: where the record is from.
            record: as `sweep.json` and checkpoints hold it.
        """
        try:
            held = Specification.from_json(record["specification"])
        except (KeyError, TypeError) as error:
            raise SpecificationError(
                f"{what} is of another version: choose another folder"
            ) from error
        check_same(
            self.folder,
            held,
            self.progress.spec,
            self.images,
            self.code,
            self.extend,
            _upgraded(record),
            record.get("seeds", held.sampling.first_seeds),
        )


def versions() -> dict[str, str]:
    """Those of the packages that compute, and of Python, by name."""
    packages = {name: _version(name) for name in ("jaxrobust", "jax", "jaxlib", "flax")}
    return {**packages, "python": platform.python_version()}


def _upgraded(record: Mapping[str, Any]) -> str:
    """The packages whose version is another one than that which a record names, in words."""
    held = record.get("versions", {})
    named = [
        f"{name} was {held[name]} and is {now}"
        for name, now in versions().items()
        if held.get(name, now) != now
    ]
    return ", ".join(named)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
