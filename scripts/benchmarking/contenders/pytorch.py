"""The loop that people write, in PyTorch: damage in place, the whole network, restore."""

# Only this contender needs PyTorch; where it is missing there is nothing to check it against.
# pyright: reportMissingImports=false
from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarking.contenders import pytorch_rates
from benchmarking.contenders.pytorch_networks import build
from benchmarking.workloads import (
    IMAGES,
    PERTURBATIONS,
    WEIGHTS,
    Trial,
    Workload,
    batch_sizes,
    best_seconds,
)

Tensors = Sequence[torch.Tensor]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def synapse_knockout(leaves: Tensors, strength: Decimal, generator: torch.Generator) -> None:
    """An exact number of entries, chosen without replacement, as in jaxrobust."""
    for leaf in leaves:
        size = leaf.numel()
        order = torch.randperm(size, generator=generator, device=leaf.device)
        in_memory = leaf.as_strided((size,), (1,))
        in_memory[order[: int(strength * size)]] = 0


def node_knockout(leaves: Tensors, strength: Decimal, generator: torch.Generator) -> None:
    units = len(leaves[0])
    order = torch.randperm(units, generator=generator, device=leaves[0].device)
    for leaf in leaves:
        leaf[order[: int(strength * units)]] = 0


def weight_noise(leaves: Tensors, strength: Decimal, generator: torch.Generator) -> None:
    for leaf in leaves:
        noise = torch.empty_like(leaf).normal_(generator=generator)
        leaf.add_(noise, alpha=float(strength) * float(leaf.std(correction=0)))


DAMAGE = {each.__name__: each for each in (synapse_knockout, node_knockout, weight_noise)}


class Contender:
    def __init__(self, workload: Workload, folder: Path, accelerator: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self.workload = workload
        self.device = "cuda" if accelerator and torch.cuda.is_available() else "cpu"
        self.generator = torch.Generator(self.device)
        with np.load(folder / WEIGHTS) as weights:
            self.network: Any = build(workload.network, dict(weights)).to(self.device)
        with np.load(folder / IMAGES) as arrays:
            inputs = torch.from_numpy(arrays["inputs"]).permute(0, 3, 1, 2)
            self.inputs = inputs.contiguous().to(self.device)
            self.labels = torch.from_numpy(arrays["labels"]).to(self.device)

    @torch.inference_mode()
    def start(self) -> dict[str, Any]:
        """Takes the fastest of a few batch sizes in both layouts."""
        seconds = {}
        sizes = batch_sizes(self.workload.images)
        for layout, size in itertools.product(LAYOUTS, sizes):
            self._lay_out(layout, size)
            seconds[layout, size] = best_seconds(self._hits)
        layout, size = min(seconds, key=lambda each: seconds[each])
        self._lay_out(layout, size)
        first = self.workload.timed(0)[0]
        for name in PERTURBATIONS:
            self._trial(replace(first, perturbation=name))
        device = f"{torch.get_num_threads()} threads"
        if self.device == "cuda":
            device = torch.cuda.get_device_name()
        settings = f"PyTorch {torch.__version__}, {layout}, batches of {size}, {device}"
        return {"settings": settings, "layout": layout, "clean_top1": self._hits()}

    def _lay_out(self, layout: str, size: int) -> None:
        form = LAYOUTS[layout]
        self.network.to(memory_format=form)
        parts = zip(self.inputs.split(size), self.labels.split(size), strict=True)
        self.batches = [(x.contiguous(memory_format=form), y) for x, y in parts]

    def _hits(self) -> int:
        hits = [(self.network(x).argmax(1) == labels).sum() for x, labels in self.batches]
        return int(torch.stack(hits).sum())

    @contextmanager
    def _damaged(self, trial: Trial) -> Iterator[None]:
        """The network is damaged in place inside, and intact again behind it."""
        layer = self.network.get_submodule(trial.layer.replace("/", "."))
        leaves = list(layer.parameters())
        intact = [leaf.clone() for leaf in leaves]
        self.generator.manual_seed(trial.seed)
        DAMAGE[trial.perturbation](leaves, trial.strength, self.generator)
        yield
        for leaf, values in zip(leaves, intact, strict=True):
            leaf.copy_(values)

    def _trial(self, trial: Trial) -> int:
        with self._damaged(trial):
            return self._hits()

    @torch.inference_mode()
    def run(self, number: int) -> dict[str, Any]:
        trials = self.workload.timed(number)
        began = time.perf_counter()
        hits = [self._trial(trial) for trial in trials]
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "trials": len(trials), "top1": sum(hits)}

    @torch.inference_mode()
    def rates(self) -> dict[str, Any]:
        return {"rates": pytorch_rates.rates(self.device)}

    @torch.inference_mode()
    def finish(self) -> dict[str, Any]:
        """The undamaged count again: every trial has restored what it damaged."""
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else None
        return {"clean_top1": self._hits(), "device_peak_bytes": peak}
