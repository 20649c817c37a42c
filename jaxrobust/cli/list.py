"""`jaxrobust list`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from jaxrobust.cli.show import show
from jaxrobust.ground.text import aligned


@dataclass
class List:
    """Print what can be used.

    Example: jaxrobust list networks
    """

    what: Positional[Literal["networks", "perturbations", "metrics", "data"]]

    def run(self) -> None:
        rows = {
            "networks": _networks,
            "perturbations": _perturbations,
            "metrics": _metrics,
            "data": _sources,
        }
        show(aligned(rows[self.what]()))


def _networks() -> list[tuple[str, ...]]:
    from jaxrobust.networks.zoo import ZOO, packed_checkpoint

    header = ("network", "parameters", "input", "top-1", "top-5", "weights", "what it is")
    rows: list[tuple[str, ...]] = [header]
    for name, entry in ZOO.items():
        size = "×".join(map(str, entry.blueprint.preprocessing.shape))
        reported = (entry.published.top1, entry.published.top5) if entry.published else (None, None)
        accuracies = [f"{value:.1f}" if value is not None else "-" for value in reported]
        source = entry.weights
        if source is None or packed_checkpoint(name):
            weights = "included"
        else:
            weights = source.publisher if source.url else "port a file"
        rows.append((name, f"{entry.parameters:,}", size, *accuracies, weights, entry.summary))
    return rows


def _perturbations() -> list[tuple[str, ...]]:
    from jaxrobust.perturbations import REGISTRY

    rows: list[tuple[str, ...]] = [("perturbation", "range", "default", "what it does")]
    for name, each in REGISTRY.items():
        summary = each.description.split("\n")[0]
        rows.append((name, f"{each.low:g} to {each.high:g}", each.strengths, summary))
    return rows


def _metrics() -> list[tuple[str, ...]]:
    from jaxrobust.metrics import REGISTRY, always

    rows: list[tuple[str, ...]] = [("metric", "counted", "unit", "what it is")]
    for name, each in REGISTRY.items():
        asked = "always" if each in always() else "with --metrics"
        unit = "share" if each.share else each.unit or "-"
        rows.append((name, asked, unit, each.first_line))
    return rows


def _sources() -> list[tuple[str, ...]]:
    from jaxrobust.data import SOURCES

    return [("source", "what it is"), *((k.usage, k.summary) for k in SOURCES.values())]
