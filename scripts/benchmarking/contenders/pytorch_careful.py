"""The loop that a careful engineer writes in PyTorch: only what the damage reaches is run again.

What the undamaged network hands to the damaged layer is kept for each batch of images, and made
from what it hands to the layer before.
"""

# Only the PyTorch contenders need PyTorch; where it is missing there is nothing to check against.
# pyright: reportMissingImports=false
from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from benchmarking.contenders import pytorch
from benchmarking.workloads import Trial


def run_steps(steps: Iterable[tuple[str, Any]], x: Any) -> Any:
    for _, step in steps:
        x = step(x)
    return x


def bytes_of(kept: Any) -> int:
    """Of a tensor or a tuple of tensors."""
    tensors = kept if isinstance(kept, tuple) else (kept,)
    return sum(each.numel() * each.element_size() for each in tensors)


class Contender(pytorch.Contender):
    budget = 2**30  # bytes of activations that are kept at a time

    @torch.inference_mode()
    def run(self, number: int) -> dict[str, Any]:
        """Runs the trials layer by layer.

        Returns:
            As the plain loop, and `once_seconds`, those of the whole that make the activations:
            they do not grow with the number of trials.
        """
        trials = self.workload.timed(number)
        began = time.perf_counter()
        hits, once = 0, 0.0
        for batches in self._parts(trials):
            part_hits, part_once = self._part(trials, batches)
            hits, once = hits + part_hits, once + part_once
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "once_seconds": once, "trials": len(trials), "top1": hits}

    def _place(self, trial: Trial) -> int:
        return [name for name, _ in self.network.steps].index(trial.layer)

    def _parts(self, trials: list[Trial]) -> Iterator[list[Any]]:
        """Runs of batches whose activations fit into the budget together; at least one batch."""
        places = sorted(set(map(self._place, trials)))
        x, _ = self.batches[0]
        largest, done = 0, 0
        for place in places:
            x, done = run_steps(self.network.steps[done:place], x), place
            largest = max(largest, bytes_of(x))
        count = max(1, self.budget // largest)
        for at in range(0, len(self.batches), count):
            yield self.batches[at : at + count]

    def _part(self, trials: list[Trial], batches: list[Any]) -> tuple[int, float]:
        """How many images of these batches are right in all trials; seconds for activations."""
        steps = self.network.steps
        kept, done, once = [x for x, _ in batches], 0, 0.0
        hits = []
        in_order = sorted(trials, key=self._place)
        for place, of_layer in itertools.groupby(in_order, self._place):
            began = time.perf_counter()
            for index, x in enumerate(kept):
                kept[index] = run_steps(steps[done:place], x)
            self._wait()
            done, once = place, once + time.perf_counter() - began
            for trial in of_layer:
                with self._damaged(trial):
                    for x, (_, labels) in zip(kept, batches, strict=True):
                        hits.append((run_steps(steps[place:], x).argmax(1) == labels).sum())
        return int(torch.stack(hits).sum()), once

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
