"""What saving costs: the same sweep without and with a run folder, and how long a save takes."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarking.contenders import jaxrobust as sweeping
from benchmarking.workloads import Workload
from jaxrobust.results import TRIALS
from jaxrobust.storage.durable.store import Store

_LARGE = 100 * 2**20


class Contender(sweeping.Contender):
    def __init__(self, workload: Workload, folder: Path, accelerator: bool) -> None:
        super().__init__(workload, folder, accelerator)
        self.folder, self.run_dir = folder, folder / "run"

    def start(self) -> dict[str, Any]:
        self.run(0)  # compiles everything
        return {}

    def run(self, number: int) -> dict[str, Any]:
        seconds = {}
        for saving in (number % 2 == 0, number % 2 == 1):
            shutil.rmtree(self.run_dir, ignore_errors=True)
            began = time.perf_counter()
            self.sweep(self.run_dir if saving else None)
            seconds["saving_seconds" if saving else "seconds"] = time.perf_counter() - began
        return seconds

    def finish(self) -> dict[str, Any]:
        """Saves the sweep's state, and one with so many seeds that it takes 100 MiB."""
        self.sweep(self.run_dir)
        with closing(Store(self.run_dir, read_only=True)) as store:
            found = store.load()
        assert found
        arrays, record = found
        size = sum(array.nbytes for name, array in arrays.items() if name.startswith(TRIALS))
        times = -(-_LARGE // size)
        large = {
            name: np.repeat(array, times, 3) if name.startswith(TRIALS) else array
            for name, array in arrays.items()
        }
        return {"saves": [self._saved(each, record) for each in (arrays, large)]}

    def _saved(
        self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
    ) -> dict[str, float]:
        stalls = []
        with closing(Store(self.folder / "saves")) as store:
            for _ in range(5):
                began = time.perf_counter()
                store.save(arrays, record)
                stalls.append(time.perf_counter() - began)
                store.wait()
        size = sum(array.nbytes for array in arrays.values())
        return {"bytes": size, "stall_seconds": statistics.median(stalls)}
