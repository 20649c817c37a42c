"""The report: complete, self-contained, and safe whatever names a run holds."""

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray
from PIL import Image
from results_for_tests import (
    ALEXNET,
    KNOCKOUTS,
    STUDY,
    against_the_study,
    like_the_study,
    made,
    made_precise,
    record,
    written,
)

import jaxrobust as jr
from jaxrobust.report import write_report
from jaxrobust.report.page import Picture
from jaxrobust.report.page import page as html
from jaxrobust.results import sum_blocks
from jaxrobust.summary import findings, half_text, known

# A name that would be an element, an entity, a placeholder and a formula.
ATTACK = "<img src=x onerror=alert(1)><script>alert('x')</script>&\"$title $_^{2}$"
VOID = {"meta", "img", "source", "br", "link", "input"}


class Page(HTMLParser):
    """What is in a page: elements with their attributes, text by element, balanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        here = self.open[-1] if self.open else ""
        self.words.append((here, data.replace("\xa0", " ")))
        if here in ("td", "th"):
            self.rows[-1].append(data.replace("\xa0", " "))

    @property
    def text(self) -> str:
        shown = (words for tag, words in self.words if tag not in ("style", "title"))
        return " ".join(" ".join(shown).split())

    def addresses(self) -> Iterator[str]:
        for _, attributes in self.elements:
            for name in ("src", "href", "srcset", "action", "poster", "data"):
                yield attributes.get(name) or ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = made(like_the_study, STUDY, ALEXNET[:4])
    folder = written(result, tmp_path_factory.mktemp("runs") / "mine")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def page_of(result: xarray.Dataset, caption: str = "What it shows.") -> Page:
    """The page of a result, with a picture that is quick to draw."""
    picture = Picture("A figure", caption, "data:image/svg+xml,", "data:image/svg+xml,")
    return Page(html(sum_blocks(result), record(result), [picture], Path("runs/mine")))


def test_what_was_written_is_told_and_can_be_opened(tmp_path: Path) -> None:
    grid = {"synapse_knockout": KNOCKOUTS}
    folder = written(made(like_the_study, grid, (ATTACK, "_fc")), tmp_path / "run")
    paths = write_report(folder)
    assert paths[0] == folder / "report.html"
    assert set(paths[1:]) == set((folder / "figures").iterdir())
    names = ("accuracy-top5", "accuracy-top1", "change-top5", "heat-map-top5", "layers-top5")
    for name in names:
        for suffix in (".svg", "-column.svg"):
            root = ElementTree.parse(folder / "figures" / f"{name}{suffix}").getroot()
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
        with Image.open(folder / "figures" / f"{name}.png") as picture:
            assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)


def test_the_page_needs_nothing_else(run: Path, page: Page) -> None:
    found = [address for address in page.addresses() if address]
    assert found and all(each.startswith("data:image/svg+xml;base64,") for each in found)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "url(" not in text


def test_the_pictures_in_the_page_are_those_beside_it(run: Path, page: Page) -> None:
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    narrow = [attributes for tag, attributes in page.elements if tag == "source"]
    assert len(pictures) == len(narrow) == 5
    for name, wide, column in zip(
        ("accuracy-top5", "accuracy-top1", "change-top5", "heat-map-top5", "layers-top5"),
        pictures,
        narrow,
        strict=True,
    ):
        for address, suffix in ((wide["src"], ".svg"), (column["srcset"], "-column.svg")):
            data = base64.b64decode(str(address).partition(",")[2])
            assert data == (run / "figures" / f"{name}{suffix}").read_bytes()
        assert str(wide["alt"]).startswith("Figure ")
        assert column["media"] == "(max-width: 640px)"


def test_the_page_says_what_was_run_and_found(run: Path, page: Page) -> None:
    result = jr.open_run(run)
    assert page.text.startswith("How small breaks 4 layers of small, damaged one at a time")
    assert "undamaged top-5 accuracy 90.0 % 88.0 to 91.7 % over images like these" in page.text
    # 9 knockouts and 10 noises that are not the undamaged network, 4 layers, 4 seeds.
    assert f"trials {19 * 4 * 4:,} 4 layers, 2 kinds of damage" in page.text
    assert "not finished" not in page.text
    for finding in findings(result):
        assert f"{finding.verdict} {finding.claim}. {finding.evidence}" in page.text
    for part in (
        "2025-01-02",
        "a small one (cpu)",
        "jax 0.10.0",
        "float32",
        "feed",
        "beef",
        "cafe",
    ):
        assert part in page.text
    assert f"jr.open_run({str(run)!r})" in page.text


def test_the_tables_hold_every_layer_and_every_cell(run: Path, page: Page) -> None:
    result = jr.open_run(run)
    left, table = jr.accuracy(result, "top5"), jr.by_layer(result, "top5")
    rows = {row[0]: row for row in page.rows if len(row) == 7}
    assert set(ALEXNET[:4]) <= set(rows)
    cell = left.sel(perturbation="synapse_knockout", layer="conv3", strength=0.5)
    mean, low, high = (100 * float(cell[part]) for part in ("mean", "low", "high"))
    assert rows["conv3"][1] == f"{mean:.1f} % ({low:.1f} to {high:.1f})"
    own = table.sel(perturbation="weight_noise", layer="conv3")
    assert rows["conv3"][5] == half_text(own)
    assert rows["conv3"][6].startswith(f"{100 * float(own['area']):.1f} % (")
    cells = [row for row in page.rows if len(row) == 6 and row[0] in STUDY]
    assert len(cells) == sum(len(grid) for grid in STUDY.values()) * 4
    top1 = jr.accuracy(result, "top1")["mean"]
    for perturbation, layer, strength, first, _, seeds in cells[::7]:
        where = {"perturbation": perturbation, "layer": layer, "strength": float(strength)}
        mean = 100 * float(top1.sel(where))
        assert re.fullmatch(rf"{mean:.1f} % \([\d.]+ to [\d.]+\)", first) and seeds == "4"


def test_hostile_names_stay_text() -> None:
    layers, grids = (ATTACK, "fc"), {ATTACK: KNOCKOUTS, "synapse_knockout": KNOCKOUTS}
    result = made(like_the_study, grids, layers, network=ATTACK, data=f"folder:{ATTACK}")
    page = page_of(result, ATTACK)
    assert [tag for tag, _ in page.elements].count("img") == 1
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert not {name for _, attributes in page.elements for name in attributes if "on" == name[:2]}
    assert f"How {ATTACK} breaks" in page.text and f"folder:{ATTACK}" in page.text
    assert {row[0] for row in page.rows if len(row) == 7} >= set(layers)


def test_contradictions_are_told() -> None:
    page = page_of(made(against_the_study, {"synapse_knockout": KNOCKOUTS}))
    verdicts = [words for tag, words in page.words if tag == "span"]
    assert verdicts == ["contradicted"] * 3 + ["not measured"] * 2


def test_an_unfinished_run_says_so() -> None:
    def interrupted(perturbation: str, layer: int, strength: float, seed: int) -> float:
        return np.nan if layer else like_the_study(perturbation, layer, strength, seed)

    result = made(interrupted, {"synapse_knockout": (0.3, 0.7)}, ALEXNET[:2], finished=0)
    page = page_of(result)
    assert "This run is not finished" in page.text
    assert ["conv2", "–", "–", "–"] in page.rows
    assert "trials 8 2 layers, 1 kind of damage" in page.text


def test_groups_of_layers_are_called_so() -> None:
    result = made(like_the_study, STUDY, ("early", "late"), depth=json.dumps(ALEXNET))
    assert "2 groups of layers of small, damaged one at a time" in page_of(result).text


def test_top_1_leads_where_five_guesses_are_all_the_classes(tmp_path: Path) -> None:
    result = made(like_the_study, {"resample": (0.5,)}, ("fc",), classes=4)
    paths = write_report(written(result, tmp_path))
    names = ("accuracy-top1", "change-top1", "heat-map-top1", "layers-top1")
    assert [path.stem for path in paths if path.suffix == ".png"] == list(names)
    assert "Top-1 accuracy under damage" in Page(paths[0].read_text(encoding="utf-8")).text


def test_a_folder_without_a_run_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no results\.nc"):
        write_report(tmp_path)
    written(made(like_the_study, {"resample": (0.5,)}, ("fc",)), tmp_path)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no sweep\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "figures").exists()


def test_the_page_of_a_sweep_to_a_precision_says_how_much_is_known(tmp_path: Path) -> None:
    result = made_precise(lambda layer, _: 48 if layer == 0 else 32, 0.011)
    folder = written(result, tmp_path / "run")
    paths = write_report(folder)
    assert folder / "figures" / "effort.png" in paths
    text = Page((folder / "report.html").read_text(encoding="utf-8")).text
    for sentence in known(result):
        assert sentence[1:] in text
    met = jr.accuracy(result).met.sel(strength=[0.3, 0.6])
    assert f"{int(met.sum())} of {met.size}" in text and "cells known to ±1.1 %" in text
    # It is about what the sweep has aimed at.
    assert not list((folder / "figures").glob("*top5*"))
    assert "Where the effort went" in text
    assert jr.accuracy(result).attrs["method"] in text
