"""The benchmark on a sweep of a few seconds: its figures, not its times."""

import collections
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarking.figures import PRODUCT, peak
from benchmarking.workloads import (
    FULL,
    IMAGES,
    PERTURBATIONS,
    QUICK,
    WEIGHTS,
    Trial,
    Workload,
    batch_sizes,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = Workload("alexnet-glyphs", ("fc8",), ("0.3", "0.6"), seeds=2, images=16, block=8, every=1)
PROGRAM = """
import sys
from benchmarking import command
from benchmarking.workloads import Workload
command.QUICK = {{"small": {workload!r}}}
command.main()
"""


def benchmark(
    workload: Workload, folder: Path, *paths: Path, option: str = "--quick"
) -> tuple[dict[str, Any], str, str]:
    """The figures, the table and the progress of one workload, measured in two rounds.

    Args:
        workload: what is measured.
        folder: an empty one.
        paths: further folders of Python modules, which come first.
        option: a further one of the command.
    """
    path = os.pathsep.join(map(str, [*paths, ROOT, ROOT / "scripts"]))
    report = folder / "report.json"
    arguments = ["small", "--quick", option, "--rounds", "2", "--json", str(report)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(workload=workload), *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text())["workloads"]["small"], done.stdout, done.stderr


@pytest.mark.slow
def test_figures_without_pytorch(tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise ImportError('no PyTorch here')")
    found, table, progress = benchmark(SMALL, tmp_path, tmp_path)
    assert "pytorch is left out: no PyTorch here" in progress
    assert max(map(len, table.splitlines())) <= 100
    loop, sweep = found["contenders"]["jax_loop"], found["contenders"]["jaxrobust"]
    assert list(found["contenders"]) == ["jax_loop", "jaxrobust"]
    trials, images = len(PERTURBATIONS) * 2 * 2, SMALL.images
    assert found["trials"] == loop["trials_timed"] == sweep["trials_timed"] == trials

    # Both ran the same trials on the same images.
    assert found["agree"] and loop["clean_top1"] == sweep["clean_top1"] > images / 2
    difference = loop["damaged_accuracy"] - sweep["damaged_accuracy"]
    assert abs(difference) * trials * images <= 1.5
    assert 0 < sweep["damaged_accuracy"] < sweep["clean_top1"] / images

    for each in (loop, sweep, sweep["without_compilation"]):
        assert each["median_seconds"] * each["images_per_second"] == pytest.approx(trials * images)
        assert each["ratio"] == statistics.median(each["ratios"])
        product = max(found["operation_gflops"][PRODUCT])
        assert each["share_of_product"] == pytest.approx(each["gflops"] / product)
        assert each["share_of_peak"] == each["share_of_product"]  # no other operation without it
    for each in (loop, sweep):
        assert each["gflops"] * each["median_seconds"] * 1e9 == pytest.approx(each["operations"])
        assert each["peak_bytes"] > 2**20
    assert loop["ratios"] == [1, 1]
    ratios = [a / b for a, b in zip(loop["seconds"], sweep["seconds"], strict=True)]
    assert sweep["ratios"] == pytest.approx(ratios)

    # No less than one pass of the whole network for each layer, no more than the loop.
    one_pass = loop["operations"] / trials
    assert one_pass <= sweep["operations"] < loop["operations"]
    assert sweep["cold_sweep"]["compile_seconds"] > max(sweep["compile_seconds"]) > 0
    for whole, part in zip(sweep["seconds"], sweep["seconds_without_compilation"], strict=True):
        assert 0 < part < whole
    assert sweep["draw_seconds"] > 0


@pytest.mark.slow
def test_what_saving_costs(tmp_path: Path):
    found, table, _ = benchmark(SMALL, tmp_path, option="--saving")
    assert max(map(len, table.splitlines())) <= 100
    assert len(found["seconds"]) == len(found["cost"]) == 2 and min(found["cost"]) > -1
    own, large = found["saves"]
    assert 0 < own["bytes"] < 100 * 2**20 <= large["bytes"]
    assert own["stall_seconds"] > 0 and large["stall_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "layers"),
    [("alexnet-glyphs", ("conv2", "fc6")), ("squeezenet1_1", ("fire9/expand3x3", "conv10"))],
)
def test_pytorch_agrees(tmp_path: Path, network: str, layers: tuple[str, ...]):
    pytest.importorskip("torch")
    workload = replace(SMALL, network=network, layers=layers, every=2)
    found, table, _ = benchmark(workload, tmp_path)
    loop, sweep = found["contenders"]["pytorch"], found["contenders"]["jaxrobust"]
    careful = found["contenders"]["pytorch_careful"]
    assert found["agree"] and careful["trials_timed"] == loop["trials_timed"]
    assert careful["operations"] < loop["operations"]
    assert len(found["operation_gflops"]) == 5
    assert sweep["share_of_peak"] <= sweep["share_of_product"]
    assert found["peak"] in table and max(map(len, table.splitlines())) <= 100
    assert loop["trials_timed"] * 2 == sweep["trials_timed"]
    assert abs(loop["clean_top1"] - sweep["clean_top1"]) <= 1
    # Other random draws of the same damage.
    assert abs(loop["damaged_accuracy"] - sweep["damaged_accuracy"]) < 0.15


def test_the_peak_is_the_largest_rate_of_any_operation():
    assert peak({PRODUCT: [5.0, 2.0]}) == (PRODUCT, 5.0)
    assert peak({PRODUCT: [5.0, 2.0], "convolution": [1.0, 7.0]}) == ("convolution", 7.0)
    assert peak({"convolution": [4.0, 4.5], PRODUCT: [5.0, 2.0]}) == (PRODUCT, 5.0)


TINY = {
    "alexnet-glyphs": {
        **{f"conv{n}/kernel": (3, 3, a, b) for n, a, b in ((3, 6, 5), (4, 5, 5), (5, 5, 4))},
        "conv1/kernel": (5, 5, 3, 4),
        "conv2/kernel": (5, 5, 4, 6),
        **{f"fc{n}/kernel": shape for n, shape in ((6, (36, 9)), (7, (9, 8)), (8, (8, 5)))},
    },
    "squeezenet1_1": {
        "conv1/kernel": (3, 3, 3, 4),
        "conv10/kernel": (1, 1, 6, 5),
        **{
            path: shape
            for n in range(2, 10)
            for path, shape in {
                f"fire{n}/squeeze1x1/kernel": (1, 1, 4 if n == 2 else 6, 3),
                f"fire{n}/expand1x1/kernel": (1, 1, 3, 2),
                f"fire{n}/expand3x3/kernel": (3, 3, 3, 4),
            }.items()
        },
    },
}


@pytest.mark.parametrize("network", TINY)
@pytest.mark.parametrize("budget", [1, 2**20])
def test_the_careful_loop_counts_like_brute_force(tmp_path: Path, network: str, budget: int):
    torch = pytest.importorskip("torch")
    from benchmarking.contenders import pytorch, pytorch_careful
    from benchmarking.contenders.pytorch_networks import build

    generator = np.random.default_rng(0)
    weights = {}
    for path, shape in TINY[network].items():
        scale = (2 / np.prod(shape[:-1])) ** 0.5
        weights[path] = (scale * generator.standard_normal(shape)).astype(np.float32)
        bias = path.replace("kernel", "bias")
        weights[bias] = 0.1 * generator.standard_normal(shape[-1]).astype(np.float32)
    inputs = generator.standard_normal((12, 63, 63, 3), np.float32)
    labels = generator.integers(0, 5, 12)
    np.savez(tmp_path / WEIGHTS, allow_pickle=False, **weights)
    np.savez(tmp_path / IMAGES, inputs=inputs, labels=labels)
    layers = tuple(path.rsplit("/", 1)[0] for path in reversed(TINY[network]))
    workload = Workload(network, layers, ("0.4", "0.7"), seeds=2, images=12, block=4, every=2)

    careful = pytorch_careful.Contender(workload, tmp_path, False)
    careful.budget = budget
    careful._lay_out("NCHW", 4)
    found = careful.run(1)
    right = 0
    for trial in workload.timed(1):
        fresh = build(network, weights)
        layer = fresh.get_submodule(trial.layer.replace("/", "."))
        draws = torch.Generator().manual_seed(trial.seed)
        with torch.inference_mode():
            pytorch.DAMAGE[trial.perturbation](list(layer.parameters()), trial.strength, draws)
            logits = fresh(torch.from_numpy(inputs).permute(0, 3, 1, 2)).numpy()
        right += int((logits.argmax(1) == labels).sum())
    assert found["top1"] == right > 0
    assert found["trials"] == len(layers) * len(PERTURBATIONS) * 2
    assert 0 < found["once_seconds"] < found["seconds"]
    # Every trial has restored what it damaged.
    for name, leaf in build(network, weights).named_parameters():
        assert torch.equal(leaf, careful.network.get_parameter(name))


@pytest.mark.parametrize("workload", [*FULL.values(), *QUICK.values()])
def test_rounds_time_every_trial_in_turn(workload: Workload):
    seen = collections.Counter[Trial]()
    for number in range(workload.every):
        timed = workload.timed(number)
        each = collections.Counter((trial.layer, trial.perturbation) for trial in timed)
        assert len(each) == len(workload.layers) * len(PERTURBATIONS)
        assert len(set(each.values())) == 1
        seen.update(timed)
    assert len(seen) == workload.trials and set(seen.values()) == {1}
    assert workload.images % workload.block == 0


def test_batch_sizes_divide_the_images():
    assert batch_sizes(250) == [10, 50, 250]
    assert batch_sizes(32) == [16, 32]


@pytest.mark.slow
def test_what_a_precision_saves(tmp_path: Path):
    found, table, _ = benchmark(SMALL, tmp_path, option="--precision=0.2")
    assert "every cell to ±0.2" in table and "trial-images" in table
    for one in found["rounds"]:
        assert one["met"] and one["most_seeds"] == 32
        trials = one["fixed_seeds"] * len(PERTURBATIONS) * len(SMALL.strengths)
        assert one["fixed_trials"] == trials
        assert one["fixed_trial_images"] == trials * SMALL.images


@pytest.mark.slow
def test_what_a_first_run_costs(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, ROOT / "scripts" / "benchmark", "tiny-vit", "--first-run"]
    done = subprocess.run(
        [*command, "--rounds", "1", "--json", report], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())["workloads"]["tiny-vit"]
    # Patches, four layers in each of three blocks, head; three perturbations, three strengths.
    assert {each: own[0]["trials"] for each, own in figures.items()} == {
        "first": 14 * 9,
        "second": 14 * 9,
        "loop": 14 * 9,
    }
    assert all(own[0]["cpu_seconds"] > 0 and own[0]["peak_bytes"] > 0 for own in figures.values())
    for row in ("first sweep, empty cache", "second sweep", "plain loop in JAX"):
        assert row in done.stdout
