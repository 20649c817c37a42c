"""What all figures share: sizes, colours, names, the panels, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from jaxrobust.ground.drawing import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Inches: the text width of a page, and one column of a page of two.
PAGE, COLUMN = 7.2, 3.5
SMALL = 7  # points; nothing is set smaller
INK, FAINT = "#1a1a1a", "#8c8c8c"

_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8,
    "text.parse_math": False,  # a layer's name may hold dollar signs
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
    "savefig.dpi": 200,
    # Outlines rather than text: the same everywhere, whichever fonts there are.
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxrobust",
}

_UNITS = {
    "synapse_knockout": "fraction of weights knocked out",
    "node_knockout": "fraction of units knocked out",
    "unit_silencing": "fraction of units silenced",
    "resample": "fraction of weights overwritten",
    "weight_noise": "noise, in standard deviations of the tensor",
}

_Arguments = ParamSpec("_Arguments")


@contextmanager
def _own_style() -> Iterator[None]:
    """matplotlib's defaults and our own settings, whatever the user has set."""
    import_matplotlib()
    import matplotlib.style

    with matplotlib.style.context(["default", _RC]):
        yield


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Decorates a function that makes a figure: in our style, whoever draws or saves it later."""

    @wraps(draw)
    def in_style(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> Figure:
        with _own_style():
            figure = draw(*arguments, **options)
            # Some ticks are made, in the style of that moment, when a figure is first drawn. And
            # the layout is found once, not for every file: it takes longer than drawing.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    return in_style


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure; equal figures give equal bytes.

    Args:
        figure: from this room.
        path: ends in `.png` (200 dots per inch) or `.svg`.
    """
    nothing = {".svg": {"Date": None}, ".png": {"Software": None}}[path.suffix]
    with _own_style():
        figure.savefig(path, metadata=nothing)
    return path


def unit(perturbation: str) -> str:
    """What the strength of a perturbation is, as the label of an axis."""
    return _UNITS.get(perturbation, "strength of the damage")


def wrapped(label: str) -> str:
    """A label on two lines where it is too long for a small panel.

    Example:
        >>> wrapped("noise, in standard deviations of the tensor")
        'noise, in standard\\ndeviations of the tensor'
    """
    if len(label) <= 32:
        return label
    breaks = [index for index, character in enumerate(label) if character == " "]
    middle = min(breaks, key=lambda index: abs(index - len(label) / 2))
    return f"{label[:middle]}\n{label[middle + 1 :]}"


def short(name: str, longest: int = 22) -> str:
    """A layer's name, its middle left out where it is long.

    Example:
        >>> short("encoder/stage3/block11/attention/query/conv")
        'encoder/st…query/conv'
    """
    if len(name) <= longest:
        return name
    half = (longest - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def by_depth() -> Colormap:
    """From the first layer, dark, to the last: viridis without its pale end."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, 256)), "by depth")


def colour(index: int, count: int) -> Any:
    """The colour of a layer by its place among all."""
    return by_depth()(index / max(count - 1, 1))


def side_by_side(count: int, columns: int | None) -> int:
    """How many panels of so many stand in a row: as asked, or at most three, four as two rows."""
    return {1: 1, 2: 2, 4: 2}.get(count, 3) if columns is None else columns


def panels(
    count: int, columns: int | None, height: float, beside: float = 0.0, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of panels of one size, in rows, unused places left empty.

    Args:
        count: how many.
        columns: side by side; None for three on a page (four make two rows of two). One column
            makes a figure that is as wide as a column of text.
        height: of a row, in inches.
        beside: inches to the right of the panels for what belongs to all of them.
        options: of `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    wide = side_by_side(count, columns)
    rows = -(-count // wide)
    width = COLUMN if wide == 1 else PAGE
    width += beside if wide == 1 and columns is None else 0
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    axes = figure.subplots(rows, wide, squeeze=False, **options).flat
    kept = list(axes)
    for empty in kept[count:]:
        empty.set_axis_off()
    return figure, kept[:count]


def in_percent(axis: Axis, share: bool) -> None:
    """Writes shares as per cent."""
    from matplotlib.ticker import PercentFormatter

    if share:
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
