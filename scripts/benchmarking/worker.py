"""One contender on one workload, in a process of its own: requests and answers are lines of JSON.

The first request names the workload and the folder of its weights and images; the others name a
method of the contender, `start`, `run` or `finish`. Every answer tells the peak memory so far.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from benchmarking.workloads import Workload


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):  # not on Linux; macOS counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    # Whatever a library prints goes to the error output, so that answers stay lines of JSON.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps({**values, "peak_bytes": peak_bytes()}), file=answers, flush=True)

    first = json.loads(sys.stdin.readline())
    try:
        module = importlib.import_module(f"benchmarking.contenders.{first['contender']}")
    except ImportError as error:
        answer(missing=str(error))
        return
    workload = Workload(**first["workload"])
    contender = module.Contender(workload, Path(first["folder"]), first["accelerator"])
    answer()
    for line in sys.stdin:
        request = json.loads(line)
        answer(**getattr(contender, request["method"])(*request["arguments"]))


if __name__ == "__main__":
    main()
