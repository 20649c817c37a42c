"""Each kind of measurement: runs the contenders in turn and gathers what they answer."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from benchmarking.figures import figures
from benchmarking.processes import Worker, answer_of, prepared, say
from benchmarking.workloads import FirstRun, Workload

CONTENDERS = ("pytorch", "pytorch_careful", "jax_loop", "jaxrobust")


def measure(name: str, workload: Workload, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs one workload.

    Returns:
        Its figures, and facts about JAX and its device.
    """
    with prepared(name, workload) as (facts, opened):
        workers, answers, rates = {}, {}, {}
        for contender in CONTENDERS:
            if worker := opened(contender):
                workers[contender] = worker
                answers[contender] = {"start": worker.call("start"), "rounds": []}
        _rate(workers, rates)
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
        _rate(workers, rates)
        return figures(workload, answers, rates), facts


def _rate(workers: Mapping[str, Worker], rates: dict[str, list[float]]) -> None:
    """Measures once more, and adds, how fast some operations are."""
    for contender in ("pytorch", "jaxrobust"):
        if contender in workers:
            for operation, rate in workers[contender].call("rates")["rates"].items():
                rates.setdefault(operation, []).append(rate)


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


def measure_first_run(
    name: str, run: FirstRun, rounds: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sweep with an empty cache, the same with what the first one left there, and a loop."""
    answers: dict[str, list[dict[str, Any]]] = {"first": [], "second": [], "loop": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for each, how in (("first", "sweep"), ("second", "sweep"), ("loop", "loop")):
                found = answer_of("benchmarking.first_run", name, how, JAXROBUST_CACHE=cache)
                answers[each].append(found)
                seconds = found["cpu_seconds"]
                say(f"{name}: round {number + 1} of {rounds}, {each}: {seconds:.1f} CPU s")
    return answers, answer_of("benchmarking.facts")


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
