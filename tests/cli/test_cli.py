"""The command: what it prints, what it writes, and how it ends when asked for nonsense."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands_for_tests import CLASSES, ends_with
from PIL import Image

import jaxrobust as jr
from jaxrobust.cli import main
from jaxrobust.networks.zoo import ZOO
from jaxrobust.perturbations import REGISTRY
from jaxrobust.sampling import unseen_events


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("networks", list(ZOO)),
        ("perturbations", list(REGISTRY)),
        ("data", ["npz:PATH", "tar:PATH", "folder:PATH"]),
    ],
)
def test_list_prints_a_table(
    what: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["list", what])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith({"networks": "network", "data": "source"}.get(what, "perturbation"))
    assert set(names) <= {row.split()[0] for row in rows}
    last = header.index("what it ")
    assert all(row[last - 1] == " " and row[last] != " " for row in rows), "aligned"


@pytest.mark.parametrize(
    "command", ["list", "evaluate", "sweep", "plan", "status", "report", "port"]
)
def test_the_help_of_every_command_has_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"Example: jaxrobust {command} " in " ".join(capsys.readouterr().out.split())


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    words = capsys.readouterr().out.split()
    assert {"list", "evaluate", "sweep", "plan", "status", "report", "port"} <= set(words)


@pytest.mark.parametrize(
    "program",
    [
        "import jaxrobust.cli",
        "import jaxrobust",
        "from jaxrobust.cli import main; main(['list', 'networks'])",
        "from jaxrobust.cli import main; main(['list', 'data'])",
    ],
)
def test_the_command_starts_without_jax(program: str) -> None:
    program += "; import sys; print(sorted({'jax', 'flax', 'orbax'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_evaluate_prints_the_counts_as_json(
    network: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", network, "--data", data, "--images", "17", "--json"])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    net, source = jr.load(network), jr.images(data)[:17]
    batch, labels = net.prepare(source)
    ranks = (-np.asarray(net.apply(net.params, batch))).argsort(1)
    assert json.loads(out) == {
        "images": 17,
        "top1": int((ranks[:, 0] == labels).sum()),
        "top5": 17,  # of four classes every one is among the first five
    }


def test_plan_takes_the_arguments_of_sweep(
    network: str, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", network, "--data", data, "--images", "17", "--layers", "conv1", "fc8"]
    words += ["--strengths", "synapse_knockout=0.5", "--seeds", "3", "--timing-seconds", "0"]
    words += ["--perturbations", "synapse_knockout", "--accelerator", "h200", "--devices", "8"]
    main(words)
    shown = capsys.readouterr().out
    assert "6, 102 trial-images\n" in shown and "8 × NVIDIA H200 SXM" in shown
    main([*words, "--json"])
    estimate = json.loads(capsys.readouterr().out)
    assert (estimate["trials"], estimate["trial_images"]) == (6, 102)
    assert [each["layers"] for each in estimate["targets"]] == ["conv1", "fc8"]


def test_evaluate_resizes_as_asked(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(2)
    for label in "abcd":
        (tmp_path / label).mkdir()
        for index in range(2):
            pixels = random.integers(0, 256, (40, 70, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{index}.png")
    losses = set()
    for resize in ("squash", "shorter"):
        main(["evaluate", network, "--data", f"folder:{tmp_path}", "--resize", resize])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("top-1") and lines[0].endswith("of 8 images")
        losses.add(next(line for line in lines if line.startswith("loss")))
    assert len(losses) == 2


def test_sweep_runs_and_writes_a_result(
    network: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["sweep", network, "--data", data, "--images", "20", "--block", "10"]
    arguments += ["--perturbations", "synapse_knockout", "weight_noise"]
    arguments += ["--layers", "fc[78]", "--seeds", "3", "--root", "5", "--out", str(out)]
    arguments += ["--strengths", "synapse_knockout=0:0.6:0.3", "weight_noise=0,1"]
    main(arguments)
    printed = capsys.readouterr()
    expected = jr.sweep(
        jr.load(network),
        jr.images(data)[:20],
        perturbations=["synapse_knockout", "weight_noise"],
        layers=["fc7", "fc8"],
        strengths={"synapse_knockout": [0, 0.3, 0.6], "weight_noise": [0, 1]},
        seeds=3,
        root=5,
        block=10,
    )
    found = jr.open_run(out)
    assert found.identical(expected)
    assert int((found.images > 0).sum()) == (3 + 2) * 2 * 3

    lines = printed.out.splitlines()
    cells = jr.accuracy(found, "top1")
    assert lines[0] == f"top-1 accuracy left (undamaged: {cells.attrs['clean']:.1%})"
    assert lines[1].split() == ["layer", "synapse_knockout", "0.3", "weight_noise", "1"]
    for line, layer in zip(lines[2:4], ("fc7", "fc8"), strict=True):
        cell = cells.sel(perturbation="synapse_knockout", layer=layer, strength=0.3)
        assert line.split()[:2] == [layer, f"{float(cell['mean']):.1%}"]
    assert lines[-1].startswith(f"results: {out}/results.nc")


def test_a_sweep_to_a_precision_says_what_it_knows(
    network: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["sweep", network, "--data", data, "--images", "20", "--block", "10"]
    arguments += ["--perturbations", "weight_noise", "--layers", "fc8", "--strengths", "0.5"]
    main([*arguments, "--precision", "0.1", "--out", str(out)])
    *_, known, unseen, files = capsys.readouterr().out.splitlines()
    seeds = jr.accuracy(jr.open_run(out)).seeds.item()
    assert known == "every cell is known to ±10 % (top-1 accuracy)"
    assert unseen == unseen_events(seeds)
    assert f"{out}/cells.csv" in files and (out / "cells.csv").exists()


def test_sweep_damages_groups_and_can_be_quiet(
    network: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["sweep", network, "--data", data, "--out", str(out), "--quiet"]
    arguments += ["--layers", "late=fc7,fc8", "last=fc8", "--seeds", "1"]
    main([*arguments, "--perturbations", "node_knockout", "--strengths", "0.5"])
    assert capsys.readouterr() == ("", "")
    assert list(jr.open_run(out).layer.values) == ["late", "last"]
    layers = json.loads((out / "sweep.json").read_text())["specification"]["layers"]
    assert layers == [["late", ["fc7", "fc8"]], ["last", ["fc8"]]]


OWN = """
import jaxrobust.perturbations
import jaxrobust as jr

class Kinds:
    @jr.perturbation("halved_here", amount=jaxrobust.perturbations.scales, draw=None)
    def halve(leaves, noise, amounts):
        return {path: leaf / 2 for path, leaf in leaves.items()}
"""


def test_perturbations_of_the_current_folder_are_found(
    network: str,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_damage.py").write_text(OWN)
    (tmp_path / "broken_damage.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(REGISTRY, "halved_here", raising=False)
    sweep = ["sweep", network, "--data", data, "--layers", "fc8", "--strengths", "1"]
    sweep += ["--out", "run", "--quiet", "--perturbations"]
    assert ends_with([*sweep, "broken_damage:it"], capsys) == (
        "jaxrobust: error: cannot import the perturbation 'broken_damage:it': ZeroDivisionError: "
        "division by zero\n"
    )
    main([*sweep, "my_damage:Kinds.halve"])
    assert jr.open_run("run").perturbation.item() == "halved_here"
    monkeypatch.delitem(REGISTRY, "halved_here")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:it", "No module named 'no_such_module'"),
        (":it", "unknown perturbation ':it'"),
        ("damage.py:it", "write damage:it"),
        (".damage:it", "TypeError: the 'package' argument is required"),
        ("json:loads.it", "AttributeError: 'function' object has no attribute 'it'"),
        ("json:", "unknown perturbation 'json:'"),
    ],
)
def test_an_import_path_that_leads_nowhere_ends_in_one_line(
    path: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "none", "--data", "none", "--out", "none", "--perturbations", path]
    assert message in ends_with(words, capsys)


def test_report_shows_a_sweep(
    network: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    sweep = ["sweep", network, "--data", data, "--out", str(out), "--layers", "fc8", "--quiet"]
    main([*sweep, "--perturbations", "node_knockout", "--strengths", "0.5", "--seeds", "3"])
    main(["report", str(out)])
    shown = capsys.readouterr().out
    page, figures = out / "report.html", out / "figures"
    assert str(page) in shown and str(figures) in shown
    for name in ("accuracy-top1", "heat-map-top1", "layers-top1"):
        assert name in shown
        assert (figures / f"{name}.png").stat().st_size > 1000
        assert (figures / f"{name}.svg").stat().st_size > 1000
    assert "1 layer of small" in page.read_text(encoding="utf-8")
    result = jr.open_run(out)
    assert result.attrs["classes"] == CLASSES
    assert json.loads(result.attrs["identity"]) == {"node_knockout": 0.0}
    assert json.loads(result.attrs["depth"])[-1] == "fc8"
