"""Runs the contenders in turn, each in a process of its own, of which only one works at a time."""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarking.figures import figures
from benchmarking.table import precision_table, saving_table, table
from benchmarking.workloads import FULL, PRECISE, QUICK, Workload

CONTENDERS = ("pytorch", "pytorch_careful", "jax_loop", "jaxrobust")
PRECISION = "float32 at full precision for all (TF32 off)"
BEGAN = time.perf_counter()
SCRIPTS = Path(__file__).resolve().parents[1]
EPILOG = """
example: scripts/benchmark alexnet alexnet-glyphs --rounds 5 --json benchmark.json

Each table has the median over the rounds; "times as fast" is the median and range of the rounds'
ratios to the first contender. "GFLOP/s" counts the convolutions and matrix products of every trial
for the loops, and for jaxrobust those that a sweep cannot do without; "of peak" is its share of the
rate of matrix products, measured beside. "top-1" is the mean under damage: other random draws in
PyTorch, other trials where only some are measured, so only nearly equal.

--saving times the same sweep without and with a run folder, in turn, and how long it is held up by
a save of its counts and of 100 MiB of them.

--precision 0.02 runs a sweep until every cell is known to ±0.02. Its seeds' spread tells how many
seeds the worst cell needs in the fixed design, every image for every seed, and that design's time
follows from a sweep of one seed and one of a few, as the PyTorch loop's does from some trials.
"""


class Worker:
    """A contender's process, asked over its standard input and output."""

    def __init__(self, contender: str, environment: Mapping[str, str]) -> None:
        self.contender = contender
        command = [sys.executable, "-m", "benchmarking.worker"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=SCRIPTS,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contender} failed; the lines above say why")
        return json.loads(line)

    def call(self, method: str, *arguments: Any) -> dict[str, Any]:
        return self.send(method=method, arguments=arguments)


def say(text: str) -> None:
    print(f"{time.perf_counter() - BEGAN:5.0f} s  {text}", file=sys.stderr, flush=True)


def prepare(workload: Workload, folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Has weights and images written; returns facts about JAX and its device."""
    command = [sys.executable, "-m", "benchmarking.data", workload.network, str(workload.images)]
    done = subprocess.run(
        [*command, folder],
        env={**os.environ, **environment},
        cwd=SCRIPTS,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit("the networks and images cannot be made; the lines above say why")
    return json.loads(done.stdout)


@contextmanager
def prepared(
    name: str, workload: Workload
) -> Iterator[tuple[dict[str, Any], Callable[[str], Worker | None]]]:
    """Writes weights and images; gives facts about JAX and what starts a contender on them."""
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        # Nothing of the user's own cache; no process keeps an accelerator's memory to itself.
        environment = {
            "JAXROBUST_CACHE": str(folder / "cache"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        say(f"{name}: weights and images")
        facts = prepare(workload, folder, environment)

        def opened(contender: str) -> Worker | None:
            worker = stack.enter_context(Worker(contender, environment))
            answer = worker.send(
                contender=contender,
                workload=asdict(workload),
                folder=made,
                accelerator=facts["platform"] != "cpu",
            )
            if "missing" in answer:
                say(f"{contender} is left out: {answer['missing']}")
                return None
            say(f"{name}: {contender} starts")
            return worker

        yield facts, opened


def measure(name: str, workload: Workload, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs one workload.

    Returns:
        Its figures, and facts about JAX and its device.
    """
    with prepared(name, workload) as (facts, opened):
        workers, answers = {}, {}
        for contender in CONTENDERS:
            if worker := opened(contender):
                workers[contender] = worker
                answers[contender] = {"start": worker.call("start"), "rounds": []}
        for number in range(rounds):
            for contender, worker in workers.items():
                answer = worker.call("run", number)
                answers[contender]["rounds"].append(answer)
                say(
                    f"{name}: round {number + 1} of {rounds}, {contender}: {answer['trials']} "
                    f"trials in {answer['seconds']:.1f} s"
                )
        for contender, worker in workers.items():
            answers[contender]["finish"] = worker.call("finish")
        return figures(workload, answers), facts


def measure_saving(
    name: str, workload: Workload, rounds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What it costs to save one workload; as `measure`."""
    with prepared(name, workload) as (facts, opened):
        worker = opened("saving")
        if worker is None:
            raise SystemExit("saving cannot be measured; the line above says why")
        worker.call("start")
        answers = []
        for number in range(rounds):
            answers.append(worker.call("run", number))
            say(
                f"{name}: round {number + 1} of {rounds}: {answers[-1]['seconds']:.1f} s without "
                f"a run folder, {answers[-1]['saving_seconds']:.1f} s with one"
            )
        found = {
            "seconds": [each["seconds"] for each in answers],
            "cost": [each["saving_seconds"] / each["seconds"] - 1 for each in answers],
            "saves": worker.call("finish")["saves"],
        }
        return found, facts


def measure_precision(
    name: str, workload: Workload, rounds: int, half_width: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sweep to a precision against fixed designs; as `measure`."""
    with prepared(name, workload) as (facts, opened):
        precise, loop = opened("precision"), opened("pytorch")
        if precise is None:
            raise SystemExit("it cannot be measured; the line above says why")
        for worker in filter(None, (precise, loop)):
            worker.call("start")
        answers = []
        for number in range(rounds):
            answer = precise.call("compare", half_width)
            if loop is not None:
                one = loop.call("run", number)
                answer["loop_seconds"] = one["seconds"] / one["trials"] * answer["fixed_trials"]
            answers.append(answer)
            say(
                f"{name}: round {number + 1} of {rounds}: {answer['precise_seconds']:.1f} s to "
                f"±{half_width:g}, fixed design {answer['fixed_seconds']:.1f} s"
            )
        return {"half_width": half_width, "reduced": workload.reduced, "rounds": answers}, facts


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description="Times the same sweeps as a loop in PyTorch, as a plain loop in JAX and with "
        "jaxrobust, in turn.",
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
        "--precision",
        type=float,
        metavar="HALF-WIDTH",
        help=f"a sweep to a precision against the fixed design, of {', '.join(PRECISE)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    known = QUICK if arguments.quick else PRECISE if arguments.precision else FULL
    names = arguments.workloads or (["alexnet-glyphs"] if arguments.saving else list(known))
    measured_by, shown_by = measure, table
    if arguments.saving:
        measured_by, shown_by = measure_saving, saving_table
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
