"""`sweep` and `evaluate`: from a network and images to a labelled result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.counts.state import State
from jaxrobust.data import images as source_of
from jaxrobust.data.progress import Report, silent
from jaxrobust.design.options import Options
from jaxrobust.design.request import resolve_request, sampling_rule
from jaxrobust.design.specification import DEFAULT_BLOCK, Grid, Keep, check_block
from jaxrobust.execution.baseline.answers import run_baseline
from jaxrobust.execution.executor import Executor
from jaxrobust.execution.images import Images
from jaxrobust.execution.job import Job
from jaxrobust.execution.plan import is_segmented
from jaxrobust.execution.run import run_trials
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.layers import Selector
from jaxrobust.metrics import Wanted, always
from jaxrobust.network import Network, check_network
from jaxrobust.perturbations import Perturbation
from jaxrobust.program.rounding import PrecisionMode, check_mode
from jaxrobust.results import sum_blocks
from jaxrobust.rounds import Deadline, run_to_precision
from jaxrobust.runtime.compiling import keep_compiled_programs
from jaxrobust.runtime.hosts import Processes
from jaxrobust.runtime.machine import Machine
from jaxrobust.runtime.partition import Alone
from jaxrobust.sampling import FixedSeeds, UntilHalfWidth
from jaxrobust.statistics import wilson_interval
from jaxrobust.storage.folder import saved
from jaxrobust.storage.progress import SweepProgress
from jaxrobust.storage.run_folder import check_run_folder

if TYPE_CHECKING:
    import xarray


def sweep(
    network: Network,
    images: Any,
    *,
    perturbations: Sequence[str | Perturbation] = (
        "synapse_knockout",
        "node_knockout",
        "weight_noise",
    ),
    layers: Selector = "all",
    strengths: Grid | Mapping[str, Grid] | None = None,
    seeds: int | None = None,
    precision: float | None = None,
    precision_metric: str = "top1",
    max_seconds: float | None = None,
    root: int = 0,
    block: int = DEFAULT_BLOCK,
    metrics: Wanted = None,
    precision_mode: PrecisionMode = "float32",
    keep: Keep = "counts",
    run_dir: str | Path | None = None,
    extend: bool = False,
    save_every: float = 30.0,
    blocks: bool = False,
    options: Options | None = None,
    report: Report = silent,
) -> xarray.Dataset:
    """Damages a network one part at a time and measures what is left of it.

    Args:
        network: what is damaged.
        images: whatever `jaxrobust.images` takes, or a slice of what it gives.
        perturbations: names, import paths `module:attribute`, or `Perturbation` objects.
        layers: "all" (each layer with a kernel of rank 2 or more), names, globs, one depth of a
            stack of layers (`blocks/fc[1]`), or a mapping from a group's name to layers that are
            damaged together.
        strengths: a grid for all perturbations (numbers, or `start:stop:step` with both ends),
            a mapping from a perturbation's name to its grid, or None for the default grids.
        seeds: independent random draws per cell, with indices 0 … seeds - 1; 5 by default.
        precision: run each cell, in place of a fixed number of seeds, until the 95 % interval of
            mean of `precision_metric` has this half-width: 32 seeds, 48, 72 and so on, each on as
            few images as do (see `jaxrobust.sampling`).
        precision_metric: a metric that is measured and is a mean over images, in whose unit the
            precision is; by default top-1 accuracy.
        max_seconds: with `precision`, nothing more is begun when so many seconds have passed. What
            was counted then is the result, and the same sweep in `run_dir` goes on from there.
        root: the root of all random keys.
        block: consecutive images that are counted together, at most a million.
        metrics: what is measured beside `top1`, `top5`, `loss` and `changed`: names of built-in
            ones (`jaxrobust list metrics`), import paths `module:attribute`, `Metric` objects; or
            a mapping from names to functions f(logits [n, classes], labels [n], clean_logits
            [n, classes]) -> [n], traced by JAX, of which an image's number depends on its own row
            alone. A name is that of a variable in `results.nc`.
        precision_mode: what the operands of matrix products and convolutions are rounded to:
            "float32" (not at all), "tensorfloat32" or "bfloat16", which accelerators compute
            faster; sums are kept in float32.
        keep: "images" also keeps, in 2 bits per trial and image, which images were right at top-1
            and top-5, for `jaxrobust.right`.
        run_dir: the folder for `sweep.json`, `results.nc`, `results.csv` and checkpoints of the
            counts. A sweep that was interrupted or killed goes on from there when it is run again;
            a finished one gives its result at once.
        extend: the sweep adds seeds, strengths, layers, perturbations or images to the one in
            `run_dir`, whose counts are not counted again.
        save_every: least seconds from one save of the counts to the next; they are more where
            saves would hold the sweep up for more than 1 % of the time.
        blocks: keep the dimension `block` in the result.
        options: how to run it; never changes what is measured.
        report: called with what is being done, how much of it is done, and how much there is:
            images while they are decoded, then trial-images.

    Returns:
        A dataset with the dimensions perturbation, layer, strength and seed: per trial the counts
        `images`, `top1`, `top5`, `changed`, `nonfinite`, the sum `loss` and those of the other
        metrics, those of the user's with `nonfinite_…`, the images for which it is not a finite
        number; the same of the undamaged network as `clean_…`. With keep="images" also
        `top1_bits` and `top5_bits`, packed along images, and the images' `label`.

    Raises:
        SpecificationError: anything that cannot be run as asked, before any long work starts; a
            `run_dir` that holds another sweep, is in use by another run or cannot be written.

    Warns:
        UserWarning: the undamaged network is no better than chance, or gives probabilities; what
            a perturbation has to say about a layer, such as node knockout before batch
            normalisation; layers that "all" leaves out because their kernels are no floats; a
            damaged checkpoint, instead of which the one before was used.
    """
    keep_compiled_programs()
    processes = Processes.of_this_job()
    if processes.count > 1 and run_dir is None:
        raise SpecificationError(
            f"{processes.count} processes share a sweep through its run folder: give run_dir"
        )
    folder = None if run_dir is None else check_run_folder(run_dir)
    if not save_every >= 0:
        raise SpecificationError(f"save_every {save_every}: 0 or more seconds are needed")
    sampling = sampling_rule(
        seeds=seeds,
        precision=precision,
        precision_metric=precision_metric,
        max_seconds=max_seconds,
        metrics=metrics,
    )
    deadline = Deadline(max_seconds)
    request = resolve_request(
        network,
        images,
        perturbations=perturbations,
        layers=layers,
        strengths=strengths,
        sampling=sampling,
        root=root,
        block=block,
        metrics=metrics,
        precision_mode=precision_mode,
        keep=keep,
        options=options,
        report=report,
    )
    machine = Machine.of(request.options.devices, request.options.memory)
    State.check_size(request.spec, request.spec.sampling.first_seeds, machine.memory)
    measured = (*always(), *request.metrics.values())
    progress = SweepProgress(
        network, request.spec, request.perturbations, request.source.labels, measured
    )
    saving = nullcontext(Alone())
    if folder is not None:
        how = {"extend": extend, "save_every": save_every}
        saving = saved(progress, folder, request.source, request.code, processes, **how)
    with saving as follower:
        executor = None
        if not progress.finished:
            decoded = Images.decode(network, request.source, report)
            executor = Executor(Job.of(request, decoded, machine))
            progress.warnings = executor.clean.warnings
        for warning in progress.warnings:
            warnings.warn(warning, stacklevel=2)
        if executor and isinstance(sampling, FixedSeeds):
            run_trials(executor, progress.state, progress.plans, follower)
            progress.finished = True
        elif executor and isinstance(sampling, UntilHalfWidth):
            run_to_precision(executor, progress, sampling, deadline, follower, processes)
    return progress.result if blocks else sum_blocks(progress.result)


@dataclass(frozen=True)
class Evaluation:
    """How well an undamaged network does.

    Attributes:
        images: how many were seen.
        top1, top5, nonfinite: how many of them were right, or had a logit that isn't finite.
        loss: mean cross entropy in nats, over images with finite logits; NaN if none has them.
        top1_interval, top5_interval: Wilson's 95 % interval of the proportion.
        warnings: what is suspicious about that, a sentence each.
    """

    images: int
    top1: int
    top5: int
    nonfinite: int
    loss: float
    top1_interval: tuple[float, float]
    top5_interval: tuple[float, float]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        def line(name: str, hits: int, interval: tuple[float, float]) -> str:
            low, high = interval
            share = f"{hits / self.images:7.2%}  ({low:.2%} to {high:.2%})"
            return f"{name}  {share}  {hits:,} of {self.images:,} images"

        lines = [f"WARNING: {warning}" for warning in self.warnings]
        lines.append(line("top-1", self.top1, self.top1_interval))
        lines.append(line("top-5", self.top5, self.top5_interval))
        lines.append(f"loss   {self.loss:.4f} nats")
        if self.nonfinite:
            lines.append(f"{self.nonfinite:,} images with a logit that is not finite")
        return "\n".join([*lines, "intervals: Wilson, 95 %, over images like these"])


def evaluate(
    network: Network,
    images: Any,
    *,
    block: int = DEFAULT_BLOCK,
    precision_mode: PrecisionMode = "float32",
    report: Report = silent,
) -> Evaluation:
    """Counts what the undamaged network gets right.

    Args:
        network: any network.
        images: whatever `jaxrobust.images` takes, or a slice of what it gives.
        block: consecutive images that are counted together, at most a million.
        precision_mode: as for `sweep`.
        report: called with what is being done, images done and all of them.

    Raises:
        SpecificationError: labels or images that don't fit the network, no images.

    Warns:
        UserWarning: top-1 accuracy is no better than chance, or outputs are probabilities.
    """
    check_network(network)
    source = source_of(images)
    if len(source) == 0:
        raise SpecificationError(f"no images in {source.name}")
    check_block(block)
    check_mode(precision_mode)
    keep_compiled_programs()
    source = source.with_classes(network.class_names, network.classes)
    decoded = Images.decode(network, source, report)
    machine = Machine.of(1)
    segmented = is_segmented(network, block, len(source), machine=machine, options=Options())
    clean = run_baseline(
        network,
        decoded,
        block,
        machine,
        segmented=segmented,
        metrics=always(),
        precision=precision_mode,
    )
    for warning in clean.warnings:
        warnings.warn(warning, stacklevel=2)
    total = {name: values.sum(dtype=float) for name, values in clean.sums.items()}
    seen = int(total["images"])
    finite = seen - int(total["nonfinite"])

    def interval(hits: float) -> tuple[float, float]:
        low, high = wilson_interval(np.asarray(hits), np.asarray(seen))
        return float(low), float(high)

    return Evaluation(
        images=seen,
        top1=int(total["top1"]),
        top5=int(total["top5"]),
        nonfinite=int(total["nonfinite"]),
        loss=float(total["loss"] / finite) if finite else float("nan"),
        top1_interval=interval(total["top1"]),
        top5_interval=interval(total["top5"]),
        warnings=clean.warnings,
    )
