"""`write_report`: the figures of a run folder and its page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrobust.figures import (
    accuracy_curves,
    caption,
    effort_map,
    heat_map,
    layer_summary,
    save,
)
from jaxrobust.figures.captions import Kind
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.paths import is_remote
from jaxrobust.metrics import always
from jaxrobust.report.page import Picture, facts, page
from jaxrobust.results import SweepInfo, metric_of, metrics_of
from jaxrobust.storage.run_folder import open_run, read_record
from jaxrobust.summary import main_metric, undamaged

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Planned:
    """A figure of the report: its file's name, what it shows, and how it is drawn."""

    name: str
    heading: str
    kind: Kind
    metric: str
    draw: Callable[[int | None], Figure]


def write_report(folder: str | Path) -> list[Path]:
    """Writes the figures of a run and `report.html`, a page that needs no other file.

    Figures are `figures/NAME.png` (200 dots per inch) and `.svg`, as wide as a page;
    `figures/NAME-column.svg` is as wide as a column.

    Args:
        folder: of a run; older figures and an older report are replaced.

    Returns:
        What was written, the page first.

    Raises:
        FileNotFoundError: the folder holds no run.
        SpecificationError: it is in an object store.
    """
    if is_remote(folder):
        raise SpecificationError(
            f"{folder}: the figures are written beside the run: copy the folder here first"
        )
    folder = Path(folder)
    result = open_run(folder)
    record = read_record(folder)
    if record is None:
        raise FileNotFoundError(
            f"{folder} holds no sweep.json, or a damaged one: the same sweep writes it again"
        )
    facts(record)  # before any figure is drawn
    (folder / "figures").mkdir(exist_ok=True)
    pictures, written = [], [folder / "report.html"]
    for planned in _plan(result):
        wide, narrow = planned.draw(None), planned.draw(1)
        stem = str(folder / "figures" / planned.name)
        page_wide = save(wide, Path(f"{stem}.svg"))
        column_wide = save(narrow, Path(f"{stem}-column.svg"))
        written += [save(wide, Path(f"{stem}.png")), page_wide, column_wide]
        text = caption(result, planned.kind, planned.metric)
        pictures.append(
            Picture(planned.heading, text, _embedded(page_wide), _embedded(column_wide))
        )
    written[0].write_text(page(result, record, pictures, folder), encoding="utf-8")
    return written


def _plan(result: xarray.Dataset) -> Iterator[_Planned]:
    main = main_metric(result)

    def curves(metric: str, relative: bool = False) -> Callable[[int | None], Figure]:
        return lambda columns: accuracy_curves(result, metric, relative=relative, columns=columns)

    counted = [each.name for each in always()]
    info = SweepInfo.of(result)
    aim = [info.half_width_metric] if info.is_precise else []
    further = [name for name in metrics_of(result) if name not in counted]
    for metric in dict.fromkeys((main, "top1", *aim, *further)):
        label = metric_of(result, metric).label
        heading = f"{label[:1].upper()}{label[1:]} under damage"
        stem = metric if metric in further else f"accuracy-{metric}"
        yield _Planned(stem, heading, "curves", metric, curves(metric))
    if undamaged(result, main):
        yield _Planned(
            f"change-{main}", "Relative to the undamaged", "relative", main, curves(main, True)
        )
    yield _Planned(
        f"heat-map-{main}",
        "Every layer and strength",
        "heat",
        main,
        lambda columns: heat_map(result, main, columns=columns),
    )
    yield _Planned(
        f"layers-{main}",
        "Layer by layer",
        "layers",
        main,
        lambda columns: layer_summary(result, main, columns=columns),
    )
    if info.is_precise:
        yield _Planned(
            "effort",
            "Where the effort went",
            "effort",
            "top1",
            lambda columns: effort_map(result, columns=columns),
        )


def _embedded(path: Path) -> str:
    """A picture as a data URI."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
