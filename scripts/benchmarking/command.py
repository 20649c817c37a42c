"""The command line of the benchmark: see `scripts/benchmark --help`."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarking.measurements import (
    measure,
    measure_first_run,
    measure_precision,
    measure_saving,
)
from benchmarking.table import first_run_table, precision_table, saving_table, table
from benchmarking.workloads import FIRST_RUNS, FULL, PRECISE, QUICK

PRECISION = "float32 at full precision for all (TF32 off)"
EPILOG = """
example: scripts/benchmark alexnet alexnet-glyphs --rounds 5 --json benchmark.json

Each table has the median over the rounds; "times as fast" is the median and range of the rounds'
ratios to the first contender. "GFLOP/s" counts the convolutions and matrix products of every trial
for the plain loops, those that the damage can reach for the careful one, and for jaxrobust those
that a sweep cannot do without. "of JAX" is its share of the rate of JAX's matrix products, and "of
peak" of the fastest operation measured beside: those, and PyTorch's products and convolutions.
"top-1" is the mean under damage: other random draws in
PyTorch, other trials where only some are measured, so only nearly equal.

--saving times the same sweep without and with a run folder, in turn, and how long it is held up by
a save of its counts and of 100 MiB of them.

--first-run gives the CPU seconds of whole processes: a sweep with an empty cache, the same one
again with what the first left there, and the same trials in a plain loop in JAX.

--precision 0.02 runs a sweep until every cell is known to ±0.02. Its seeds' spread tells how many
seeds the worst cell needs in the fixed design, every image for every seed, and that design's time
follows from a sweep of one seed and one of a few, as the PyTorch loop's does from some trials.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="Times the same sweeps as a plain and a careful loop in PyTorch, as a plain "
        "loop in JAX and with jaxrobust, in turn.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(FULL)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help=f"{', '.join(QUICK)} in small: under 3 minutes"
    )
    parser.add_argument(
        "--saving", action="store_true", help="what a run folder costs (default: alexnet-glyphs)"
    )
    parser.add_argument(
        "--first-run",
        action="store_true",
        help=f"what first sweeps cost, compilation included, of {', '.join(FIRST_RUNS)}",
    )
    parser.add_argument(
        "--precision",
        type=float,
        metavar="HALF-WIDTH",
        help=f"a sweep to a precision against the fixed design, of {', '.join(PRECISE)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    known: Mapping[str, Any] = FULL
    for asked, others in (
        (arguments.precision, PRECISE),
        (arguments.quick, QUICK),
        (arguments.first_run, FIRST_RUNS),
    ):
        known = others if asked else known
    names = arguments.workloads or (["alexnet-glyphs"] if arguments.saving else list(known))
    measured_by: Any = measure
    shown_by: Any = table
    if arguments.saving:
        measured_by, shown_by = measure_saving, saving_table
    if arguments.first_run:
        measured_by, shown_by = measure_first_run, first_run_table
    if arguments.precision:
        measured_by = functools.partial(measure_precision, half_width=arguments.precision)
        shown_by = precision_table
    for name in names:
        if name not in known:
            parser.error(f"workload {name!r} is unknown; possible: {', '.join(known)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: at least 1 is needed")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no folder {arguments.json.parent}")

    report: dict[str, Any] = {
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "precision": PRECISION,
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "workloads": {},
    }
    for name in names:
        workload = known[name]
        measured, facts = measured_by(name, workload, arguments.rounds)
        if not report["workloads"]:
            report["machine"] |= facts
            versions = ", ".join(f"{p} {number}" for p, number in facts["versions"].items())
            cores = f"{os.cpu_count()} cores, {facts['device']}"
            print(f"{platform.platform()}, {cores}; {versions}\n{PRECISION}")
        report["workloads"][name] = measured
        print(f"\n{shown_by(name, workload.title, measured)}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    disagreeing = [
        name for name, each in report["workloads"].items() if not each.get("agree", True)
    ]
    if disagreeing:
        raise SystemExit(
            f"the contenders count differently on the same network of {', '.join(disagreeing)}"
        )
