"""The figures: their numbers against the counts, and that they can be read."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from results_for_tests import (
    ALEXNET,
    CLEAN,
    IMAGES,
    KNOCKOUTS,
    NOISES,
    STUDY,
    like_the_study,
    made,
    made_precise,
)
from scipy import stats

from jaxrobust.figures import accuracy_curves, caption, effort_map, heat_map, layer_summary, save
from jaxrobust.figures.style import SMALL, unit
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.perturbations import REGISTRY
from jaxrobust.results import accuracy
from jaxrobust.summary import by_layer

DRAW: dict[str, Callable[..., Figure]] = {
    "curves": accuracy_curves,
    "relative": lambda *given, **options: accuracy_curves(*given, relative=True, **options),
    "heat": heat_map,
    "layers": layer_summary,
}


@pytest.fixture(scope="module")
def study() -> xarray.Dataset:
    return made(like_the_study, STUDY)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def counted(result: xarray.Dataset, perturbation: str, layer: str) -> np.ndarray:
    """Shares right at top-5, [strengths of its grid, seeds]."""
    own = result.sel(perturbation=perturbation, layer=layer, strength=list(STUDY[perturbation]))
    return own["top5"].sum("block").values / IMAGES


@pytest.mark.parametrize("relative", [False, True])
def test_lines_and_bands_are_means_and_intervals(study: xarray.Dataset, relative: bool) -> None:
    figure = accuracy_curves(study, "top5", relative=relative)
    assert [p.get_title(loc="left") for p in panels(figure)] == ["Synapse knockout", "Weight noise"]
    for panel, (name, grid) in zip(panels(figure), STUDY.items(), strict=True):
        lines = {str(line.get_label()): line for line in panel.lines}
        bands = dict(zip(reversed(ALEXNET), panel.collections, strict=True))
        for layer in ALEXNET:
            values = counted(study, name, layer)
            values = values / (CLEAN / IMAGES) - 1 if relative else values
            x, y = np.asarray(lines[layer].get_data())
            np.testing.assert_allclose(x, grid)
            np.testing.assert_allclose(y, values.mean(1), atol=1e-12)
            assert y[0] == pytest.approx(0 if relative else 0.9)  # the undamaged point
            half = stats.t.ppf(0.975, 3) * values.std(1, ddof=1) / 2
            floor, top = (-1, IMAGES / CLEAN - 1) if relative else (0, 1)
            edges_of_all = values.mean(1) - half, values.mean(1) + half
            low, high = (np.clip(edge, floor, top) for edge in edges_of_all)
            corners = np.asarray(bands[layer].get_paths()[0].vertices)
            for strength, *edges in zip(grid, low, high, strict=True):
                drawn = corners[np.isclose(corners[:, 0], strength), 1]
                np.testing.assert_allclose([drawn.min(), drawn.max()], edges, atol=1e-12)


def test_undamaged_and_chance_are_marked_and_named(study: xarray.Dataset) -> None:
    for metric, clean, level in (("top5", 0.9, 0.05), ("top1", 0.8, 0.01)):
        figure = accuracy_curves(study, metric)
        for panel in panels(figure):
            heights = [
                line.get_ydata() for line in panel.lines if line.get_linestyle() in ("--", ":")
            ]
            flat = {float(y[0]) for y in map(np.asarray, heights) if len(y) == 2 and y[0] == y[1]}
            assert {clean, level} <= flat
        named = {text.get_text() for text in panels(figure)[0].texts}
        assert named == {f"undamaged ({clean:.1%})".replace("%", " %"),
                         f"chance ({level:.1%})".replace("%", " %")}  # fmt: skip
    unknown = made(like_the_study, STUDY, classes=None)
    assert len(panels(accuracy_curves(unknown, "top5"))[0].texts) == 1


def test_layers_can_be_told_apart_without_colour(study: xarray.Dataset) -> None:
    panel = panels(accuracy_curves(study, "top5"))[0]
    lines = {str(line.get_label()): line for line in panel.lines if line.get_label() in ALEXNET}
    looks = {(line.get_marker(), line.get_linestyle()) for line in lines.values()}
    assert len(looks) == 8
    grey = [np.dot(to_rgb(lines[layer].get_color()), (0.2126, 0.7152, 0.0722)) for layer in ALEXNET]
    assert (np.diff(grey) > 0.02).all() and grey[-1] < 0.8


def test_two_seeds_have_the_standard_deviation_and_one_has_none() -> None:
    for seeds in (1, 2):
        result = made(like_the_study, STUDY, seeds=seeds)
        panel = panels(accuracy_curves(result, "top5"))[0]
        values = counted(result, "synapse_knockout", "conv1")
        corners = panel.collections[-1].get_paths()
        if seeds == 1:
            assert not any(np.isfinite(np.asarray(path.vertices)).any() for path in corners)
        else:
            vertices = np.asarray(corners[0].vertices)
            drawn = vertices[np.isclose(vertices[:, 0], 0.3), 1]
            mean, std = values[3].mean(), values[3].std(ddof=1)
            np.testing.assert_allclose([drawn.min(), drawn.max()], [mean - std, mean + std])
    assert "two seeds being too few" in caption(made(like_the_study, STUDY, seeds=2), "curves")
    assert "no band" in caption(made(like_the_study, STUDY, seeds=1), "relative")


def test_the_heat_map_holds_the_means_of_what_was_run() -> None:
    def interrupted(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return np.nan if layer == 7 else like_the_study(perturbation, layer, strength, seed)

    result = made(interrupted, STUDY)
    for panel, name in zip(panels(heat_map(result, "top5")), STUDY, strict=True):
        (mesh,) = panel.collections
        cells = np.ma.asarray(mesh.get_array())
        expected = [counted(result, name, layer)[1:].mean(1) for layer in ALEXNET[:7]]
        np.testing.assert_allclose(cells[:7], expected)
        missing = np.ma.getmaskarray(cells)
        assert missing[7].all() and not missing[:7].any()
        numbers = [text.get_text() for text in panel.texts]
        assert numbers == [f"{100 * value:.0f}" for row in expected for value in row]
        strengths = [label.get_text() for label in panel.get_xticklabels()]
        assert set(strengths) <= {f"{s:g}" for s in STUDY[name][1:]} and len(strengths) > 3


def test_numbers_that_do_not_fit_their_cells_are_left_out() -> None:
    fine = tuple(round(0.01 * step, 2) for step in range(1, 91))
    (panel,) = panels(heat_map(made(like_the_study, {"resample": fine}), "top5"))
    assert not panel.texts and len(panel.get_xticklabels()) < 40


def test_the_layers_show_half_strength_and_area(study: xarray.Dataset) -> None:
    figure, table = layer_summary(study, "top5"), by_layer(study, "top5")
    grid = np.asarray(figure.axes).reshape(2, 2)
    for column, name in enumerate(STUDY):
        for axes, what in zip(grid[:, column], ("half", "area"), strict=True):
            own = table.sel(perturbation=name)
            for row in range(8):
                lines = axes.lines[3 * row : 3 * row + 3]
                rings, whisker, dot = (np.asarray(line.get_xdata()) for line in lines)
                np.testing.assert_array_equal(lines[2].get_ydata(), [row])
                seeds = own[f"{what}_of_seed"].values[row]
                np.testing.assert_array_equal(rings, seeds[np.isfinite(seeds)])
                np.testing.assert_array_equal(dot, own[what].values[row : row + 1])
                ends = [own[f"{what}_{end}"].values[row] for end in ("low", "high")]
                np.testing.assert_array_equal(whisker, ends)
        beyond = table["beyond"].sel(perturbation=name).values
        seeds = [f"→ {n} of 4" if n < 4 else "→ all" for n in beyond if n]
        assert [text.get_text() for text in grid[0, column].texts] == seeds
    assert table["beyond"].values.any()


def drawn_texts(axes: Axes) -> list[Text]:
    """All text of a panel that is on paper: labels of ticks in view, titles, notes."""
    if not axes.axison:
        return []
    texts = [axes.xaxis.label, axes.yaxis.label, *axes.texts]
    texts += [child for child in axes.get_children() if isinstance(child, Text)]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        inside = low - 1e-9, high + 1e-9
        ticks = [tick for tick in axis.get_major_ticks() if tick.label1.get_visible()]
        texts += [tick.label1 for tick in ticks if inside[0] <= tick.get_loc() <= inside[1]]
    return [text for text in dict.fromkeys(texts) if text.get_text()]


SHAPES = {
    "one layer": lambda: made(like_the_study, {"synapse_knockout": KNOCKOUTS}, ALEXNET[:1]),
    "eight layers": lambda: made(like_the_study, STUDY | {"node_knockout": KNOCKOUTS}),
    "long names": lambda: made(
        like_the_study, STUDY, [f"encoder/stage{i}/block/conv" for i in range(9)]
    ),
    "six kinds": lambda: made(like_the_study, {f"kind_{letter}": NOISES for letter in "abcdef"}),
    "sixty layers": lambda: made(lambda *_: 0.5, STUDY, [f"layer{i}" for i in range(60)], seeds=3),
    "interrupted": lambda: made(
        lambda p, layer, strength, seed: np.nan if layer + seed > 3 else 0.5, STUDY, ALEXNET[:5]
    ),
    "strange names": lambda: made(like_the_study, STUDY, ("_stem", "$x_^{2}$", "_", "%d {x}", "")),
    "nothing but undamaged": lambda: made(like_the_study, {"resample": (0.0,)}),
    "never right": lambda: made(lambda *_: 0.0, STUDY, ALEXNET[:2]).assign(
        clean_top5=("block", [0])
    ),
}


@pytest.mark.parametrize("columns", [None, 1])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("six") else [])
        for name in SHAPES
    ],
)
@pytest.mark.parametrize("kind", DRAW)
def test_text_is_readable_and_nothing_overlaps(kind: str, shape: str, columns: int | None) -> None:
    if kind == "relative" and shape == "never right":
        with pytest.raises(SpecificationError, match="there is no relative change"):
            DRAW[kind](SHAPES[shape](), "top5")
        return
    figure = DRAW[kind](SHAPES[shape](), "top5", columns=columns)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox.padded(1)
    assert figure.get_figwidth() <= (3.5 if columns else 7.2)
    boxes = [
        (text.get_text(), box)
        for axes in figure.axes
        for text in drawn_texts(axes)
        if (box := text.get_window_extent()).width
    ]
    sizes = [float(text.get_fontsize()) for axes in figure.axes for text in drawn_texts(axes)]
    assert min(sizes) >= SMALL
    for index, (text, box) in enumerate(boxes):
        assert whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1), text
        for other, beside in boxes[index + 1 :]:
            shared = min(box.x1, beside.x1) - max(box.x0, beside.x0)
            tall = min(box.y1, beside.y1) - max(box.y0, beside.y0)
            assert shared < 1 or tall < 1, (text, other)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_equal_figures_are_equal_files_whatever_the_users_style(
    study: xarray.Dataset, tmp_path: Path, suffix: str
) -> None:
    first = save(accuracy_curves(study, "top5"), tmp_path / f"first{suffix}").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.dpi": 30}):
        second = save(accuracy_curves(study, "top5"), tmp_path / f"second{suffix}").read_bytes()
    assert first == second


def test_captions_say_what_is_drawn(study: xarray.Dataset) -> None:
    text = caption(study, "curves", "top5")
    for part in ("small", "4 random draws (seeds)", "95 % intervals", "1,000 images (glyphs)",
                 "undamaged network (90.0 %", "chance, 5.0 % with 100 classes"):  # fmt: skip
        assert part in text
    assert "Arrows count" in caption(study, "layers", "top5")
    assert "(damaged - undamaged) / undamaged" in caption(study, "relative", "top5")
    assert "Undamaged: 80.0 %" in caption(study, "heat", "top1")
    interrupted = made(like_the_study, STUDY, finished=0)
    assert all("not finished" in caption(interrupted, kind) for kind in ("curves", "layers"))


def test_a_metric_that_is_no_share_is_drawn_in_its_own_unit(study: xarray.Dataset) -> None:
    figure = accuracy_curves(study, "loss")
    panel = panels(figure)[0]
    assert panel.get_ylabel() == "loss in nats"
    assert [text.get_text() for text in panel.texts] == ["undamaged (1)"]
    figure.draw_without_rendering()
    assert not any("%" in label.get_text() for label in panel.get_yticklabels())


def test_every_built_in_perturbation_says_what_its_strength_is() -> None:
    built_in = [name for name, each in REGISTRY.items() if each.import_path is None]
    assert not [name for name in built_in if unit(name) == unit("of a user's own")]


def test_the_map_of_the_effort_holds_the_images_that_trials_saw() -> None:
    result = made_precise(lambda layer, _: 48 if layer == 0 else 32, 0.011)
    (panel,) = panels(effort_map(result))
    (mesh,) = [each for each in panel.collections if each.get_array() is not None]
    np.testing.assert_array_equal(mesh.get_array(), [[48_000] * 2, [32_000] * 2, [32_000] * 2])
    assert [text.get_text() for text in panel.texts] == ["48k"] * 2 + ["32k"] * 4
    assert len(effort_map(made_precise(lambda *_: 32, 0.1), columns=1).axes) == 2, "all the same"


def test_captions_of_a_sweep_to_a_precision_name_its_interval() -> None:
    result = made_precise(lambda layer, _: 48 if layer == 0 else 32, 0.011)
    attributes = accuracy(result).attrs
    text = caption(result, "curves", "top1")
    assert f"95 % intervals of the {attributes['estimand']} ({attributes['method']})" in text
    assert "(up to 48); " in text and "Every point: the same" in text
    assert "rings the seeds; " in caption(result, "layers", "top1")
    half = {name: values // 2 for name, values in result.items() if "seed" in values.dims}
    some = result.assign(half)
    assert "of which each seed saw some" in caption(some, "curves", "top1")
    assert "rings the seeds, each on the images that it saw; " in caption(some, "layers", "top1")
