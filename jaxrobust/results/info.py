"""What a result says of its sweep: the one place that writes and reads its attributes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class SweepInfo:
    """What a result says of its sweep, beside its labels and counts.

    Attributes:
        network, data: their names; None where they are not said.
        classes: of the network.
        depth: the network's layers from the first to the last.
        identity: perturbation -> the strength that changes nothing.
        half_width: of each cell's 95 % interval, of a sweep to a precision; None for others.
        half_width_metric: the metric whose mean that interval is of.
        exact: the perturbations without random draws; known of a sweep to a precision.
        damaged: perturbation -> the strengths at which trials are run; known likewise.
        finished: whether everything that was asked for was counted.
        warnings: what is suspicious about the undamaged network, a sentence each.
    """

    network: str | None = None
    data: str | None = None
    classes: int | None = None
    depth: tuple[str, ...] | None = None
    identity: Mapping[str, float] = field(default_factory=dict)
    half_width: float | None = None
    half_width_metric: str = "top1"
    exact: tuple[str, ...] = ()
    damaged: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    finished: bool = True
    warnings: tuple[str, ...] = ()

    @staticmethod
    def of(result: xarray.Dataset) -> SweepInfo:
        """What a result, or a part of one, says."""
        return SweepInfo.read(result.attrs)

    @staticmethod
    def read(attributes: Mapping[str, Any]) -> SweepInfo:
        """What the attributes of a result say; of what they do not say the defaults."""

        def unpacked(name: str, otherwise: Any) -> Any:
            return json.loads(attributes[name]) if name in attributes else otherwise

        depth, classes = unpacked("depth", None), attributes.get("classes")
        half_width = attributes.get("half_width")
        return SweepInfo(
            network=attributes.get("network"),
            data=attributes.get("data"),
            classes=None if classes is None else int(classes),
            depth=None if depth is None else tuple(depth),
            identity=unpacked("identity", {}),
            half_width=None if half_width is None else float(half_width),
            half_width_metric=attributes.get("half_width_metric", "top1"),
            exact=tuple(unpacked("exact", ())),
            damaged={name: tuple(grid) for name, grid in unpacked("damaged", {}).items()},
            finished=bool(attributes.get("finished", 1)),
            warnings=tuple(unpacked("warnings", ())),
        )

    def to_attributes(self) -> dict[str, Any]:
        """The same as text and numbers: netCDF has no attributes that are lists or mappings."""
        precise = {
            "half_width": self.half_width,
            "half_width_metric": self.half_width_metric,
            "exact": json.dumps(self.exact),
            "damaged": json.dumps(self.damaged),
        }
        return {
            "network": self.network,
            "data": self.data,
            "classes": self.classes,
            "depth": json.dumps(self.depth),
            "identity": json.dumps(self.identity),
            **(precise if self.is_precise else {}),
            "finished": int(self.finished),
            **({"warnings": json.dumps(self.warnings)} if self.warnings else {}),
        }

    @property
    def is_precise(self) -> bool:
        """Whether it is a sweep to a precision, in which each seed sees images of its own."""
        return self.half_width is not None

    def undamaged_cells(self, names: Iterable[str], strengths: Iterable[float]) -> np.ndarray:
        """Where a strength changes nothing, bool [perturbation, strength]."""
        strengths = list(strengths)
        return np.asarray(
            [[strength == self.identity[name] for strength in strengths] for name in names]
        )
