"""The page of the report: text, tables and pictures put into the template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import attrgetter
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.metrics import always
from jaxrobust.report import tables
from jaxrobust.results import SweepInfo, accuracy, cell_rows, metric_of, sees_some
from jaxrobust.statistics import wilson_interval
from jaxrobust.summary import (
    Finding,
    curves,
    depth,
    findings,
    known,
    main_metric,
    nonfinite,
    percent,
    title,
)

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True)
class Picture:
    """A figure: its heading and caption, and the picture as data URIs for two widths."""

    heading: str
    caption: str
    wide: str
    narrow: str


def page(
    result: xarray.Dataset, record: Mapping[str, Any], pictures: Sequence[Picture], folder: Path
) -> str:
    """The whole page as HTML.

    Args:
        result: of the run.
        record: its `sweep.json`.
        pictures: in the order of the page; the findings stand beside the first.
        folder: of the run, for the example that opens it.
    """
    template = Template((Path(__file__).parent / "template.html").read_text(encoding="utf-8"))
    first, *others = [_figure(number, picture) for number, picture in enumerate(pictures, start=1)]
    main = main_metric(result)
    run, provenance = facts(record)
    return template.substitute(
        title=escape(f"How {_network(result)} breaks"),
        lead=escape(_lead(result)),
        notice=_notice(result),
        tiles=_tiles(result),
        first_figure=first,
        findings="".join(map(_finding, findings(result))),
        figures="".join(others),
        label=escape(metric_of(result, main).label),
        layers=tables.layers(result, main),
        interval=escape(_interval(result, main)),
        known=_known(result),
        specification=_pairs(run),
        provenance=_pairs(provenance),
        cells=tables.cells(result),
        example=escape(_example(folder, main)),
    )


def _network(result: xarray.Dataset) -> str:
    return SweepInfo.of(result).network or "the network"


def _text(text: str) -> str:
    """Text for HTML; a number and its per cent sign stay on one line."""
    return escape(text).replace(" %", "&nbsp;%")


def _parts(result: xarray.Dataset) -> str:
    """How many layers or groups of them were damaged."""
    count = result.sizes["layer"]
    plural = "" if count == 1 else "s"
    alone = set(map(str, result.layer.values)) <= set(depth(result))
    return f"{count} layer{plural}" if alone else f"{count} group{plural} of layers"


def _lead(result: xarray.Dataset) -> str:
    damaged = ", ".join(title(str(name)).lower() for name in result.perturbation.values)
    seeds = result.sizes["seed"]
    draws = "one random draw" if seeds == 1 else f"up to {seeds} random draws"
    some = "some of " if sees_some(result) else ""
    return (
        f"{_parts(result)} of {_network(result)}, damaged one at a time at growing strength "
        f"({damaged}), with {draws} of each damage; after each, {some}the same "
        f"{int(result['clean_images']):,} images were classified again."
    )


def _notice(result: xarray.Dataset) -> str:
    sentences = [f"Warning: {warning}." for warning in SweepInfo.of(result).warnings]
    if not SweepInfo.of(result).finished:
        sentences.append(
            "This run is not finished. Figures and tables show what was measured so far."
        )
    return "".join(f'<p class="notice">{_text(sentence)}</p>' for sentence in sentences)


def _interval(result: xarray.Dataset, metric: str) -> str:
    """Which interval the tables give."""
    if not SweepInfo.of(result).is_precise:
        return "Student-t over seeds, these images"
    cells = accuracy(result, metric)
    return f"{cells.attrs['estimand']}; {cells.attrs['method']}"


def _known(result: xarray.Dataset) -> str:
    """What a sweep to a precision knows and cannot know, and what is not finite."""
    sentences = [
        _text(f"{each[:1].upper()}{each[1:]}.") for each in (*known(result), *nonfinite(result))
    ]
    return f'<p class="note">{" ".join(sentences)}</p>' if sentences else ""


def _tiles(result: xarray.Dataset) -> str:
    images = int(result["clean_images"])
    tiles = []
    for metric in ("top1", "top5"):
        hits = int(result[f"clean_{metric}"])
        low, high = wilson_interval(np.asarray(hits), np.asarray(images))
        tiles.append(
            (
                f"undamaged {metric_of(result, metric).label}",
                percent(hits / images),
                f"{100 * float(low):.1f} to {100 * float(high):.1f} % over images like these",
            )
        )
    found = [each.values[..., each.strengths != each.identity] for each in curves(result, "top1")]
    trials = sum(int(np.isfinite(values).sum()) for values in found)
    kinds = "1 kind" if len(found) == 1 else f"{len(found)} kinds"
    tiles.append(("trials", f"{trials:,}", f"{_parts(result)}, {kinds} of damage"))
    tiles.append(("images", f"{images:,}", SweepInfo.of(result).data or ""))
    info = SweepInfo.of(result)
    if info.half_width is not None:
        met = cell_rows(result)["met"]
        count = f"{int(np.count_nonzero(met)):,} of {met.size:,}"
        metric = metric_of(result, info.half_width_metric)
        known_to = f"cells known to {metric.half_width_in_words(info.half_width)}"
        tiles.append((known_to, count, f"{metric.label}, 95 % interval"))
    return "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}<small>{_text(more)}</small></dd></div>"
        for name, value, more in tiles
    )


def _figure(number: int, picture: Picture) -> str:
    text = _text(picture.caption)
    return (
        f'<figure><h2>{escape(picture.heading)}</h2><div class="sheet"><picture>'
        f'<source media="(max-width: 640px)" srcset="{picture.narrow}">'
        f'<img src="{picture.wide}" alt="Figure {number}. {text}"></picture></div>'
        f"<figcaption><b>Figure {number}.</b> {text}</figcaption></figure>"
    )


def _finding(finding: Finding) -> str:
    return (
        f'<li><span class="verdict {finding.verdict.replace(" ", "-")}">{finding.verdict}</span>'
        f"<b>{_text(finding.claim)}.</b> {_text(finding.evidence)}</li>"
    )


def facts(record: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What `sweep.json` says was run, and with what.

    Raises:
        SpecificationError: it doesn't.
    """
    try:
        return list(_design(record)), list(_provenance(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecificationError(
            f"sweep.json does not say all that a report tells of a run: {type(error).__name__} "
            f"{first_line(error)!r}"
        ) from error


def _design(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    spec = record["specification"]
    yield "network", spec["network"]
    yield "images", f"{spec['images']:,} of {spec['data']}, counted in blocks of {spec['block']}"
    for name, strengths in spec["strengths"]:
        yield title(name), f"strengths {', '.join(strengths)}"
    for name, path in spec["import_paths"]:
        yield f"{title(name)} is defined in", path
    groups = [
        name if list(members) == [name] else f"{name} ({', '.join(members)} together)"
        for name, members in spec["layers"]
    ]
    yield "damaged layers", ", ".join(groups)
    # In version 0.1 the specification itself said how seeds are sampled.
    sampling = spec.get("sampling", spec)
    half_width = sampling.get("half_width")
    seeds = record["seeds"] if "seeds" in record else sampling["seeds"]
    yield "seeds", f"{'up to ' if half_width else ''}{seeds} (root {spec['root']})"
    if half_width:
        metric = sampling.get("metric", "top1")
        yield "precision asked for", f"±{half_width:g} of {metric} in each cell"
    # Of version 0.1 only those of the user's, by name.
    names = [each if isinstance(each, str) else each[0] for each in spec["metrics"]]
    if others := [name for name in names if name not in map(attrgetter("name"), always())]:
        yield "further metrics", ", ".join(others)
    if "preprocessing" in spec:
        settings = json.loads(spec["preprocessing"])
        yield "preprocessing", ", ".join(f"{name}: {value}" for name, value in settings.items())


def _provenance(record: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    spec, device = record["specification"], record["device"]
    if "written" in record:
        yield "written", record["written"]
    yield "device", f"{device['kind']} ({device['platform']})"
    yield "precision of matrix products", spec["precision"]
    yield "versions", ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    yield "fingerprint of the parameters", spec["parameters"]
    yield "fingerprint of the images", spec["data_fingerprint"]
    yield "hash of the specification", record["hash"]


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(text))}</dd>" for name, text in pairs)


def _example(folder: Path, metric: str) -> str:
    return (
        "import jaxrobust as jr\n\n"
        f"result = jr.open_run({str(folder)!r})  # an xarray.Dataset of counts\n"
        f'left = jr.accuracy(result, "{metric}")  # mean, low, high, std per cell\n'
        f'layers = jr.by_layer(result, "{metric}")  # half-strength and area of each layer'
    )
