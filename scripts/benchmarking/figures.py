"""From what the workers answered to the figures of one workload, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarking.workloads import PERTURBATIONS, Workload

Answers = dict[str, dict[str, Any]]
# An operation whose rate is measured beside: every contender is compared with it.
PRODUCT = "JAX matrix product"


def peak(rates: Mapping[str, Sequence[float]]) -> tuple[str, float]:
    """The fastest of some operations, and its best rate.

    Args:
        rates: operation -> its rates, one for each time it was measured; at least one.
    """
    fastest = max(rates, key=lambda operation: max(rates[operation]))
    return fastest, max(rates[fastest])


def figures(
    workload: Workload, workers: Answers, rates: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """The figures of one workload.

    Args:
        workload: what was run.
        workers: contender -> `start`, `rounds` and `finish`, its answers; `jaxrobust` last.
        rates: operation -> its operations per second before and after; `PRODUCT` is one of them.

    Returns:
        Plain values for JSON: seconds of the whole workload per round, scaled up for the loops;
        rates from their medians; ratios round by round: how many times as fast as the first
        contender; operations per second in GFLOP/s.
    """
    own = workers["jaxrobust"]
    fastest, most = peak(rates)
    peaks = {"share_of_product": max(rates[PRODUCT]), "share_of_peak": most}
    first = next(iter(workers))
    contenders = {name: _contender(workload, answers) for name, answers in workers.items()}
    sweep = contenders["jaxrobust"]
    sweep["cold_sweep"] = own["start"]["cold"]
    compiling = [each["compile_seconds"] for each in own["rounds"]]
    waiting = [each["waiting_seconds"] for each in own["rounds"]]
    sweep["compile_seconds"] = compiling
    sweep["seconds_without_compilation"] = [
        all_of_it - wait for all_of_it, wait in zip(sweep["seconds"], waiting, strict=True)
    ]
    sweep["draw_seconds"] = own["finish"]["draw_seconds"]
    sweep["draw_share"] = sweep["draw_seconds"] / statistics.median(sweep["seconds"])
    for name, each in contenders.items():
        operations = own["start"]["operations"]
        each["operations"] = operations.get(name, operations["loop"])
        each |= _rates(workload, each, each["seconds"], contenders[first], peaks)
    sweep["without_compilation"] = _rates(
        workload, sweep, sweep["seconds_without_compilation"], contenders[first], peaks
    )
    counts = [each["clean_top1"] for each in contenders.values()]
    careful = contenders.get("pytorch_careful")
    if careful:
        pairs = zip(careful["seconds"], sweep["seconds"], strict=True)
        sweep["ratios_to_pytorch_careful"] = [theirs / ours for theirs, ours in pairs]
    return {
        "network": workload.network,
        "layers": list(workload.layers),
        "perturbations": list(PERTURBATIONS),
        "strengths": [float(strength) for strength in workload.strengths],
        "seeds": workload.seeds,
        "images": workload.images,
        "trials": workload.trials,
        "reduced": workload.reduced,
        "operation_gflops": {name: [rate / 1e9 for rate in each] for name, each in rates.items()},
        "peak": fastest,
        "ratios_to": first,
        "contenders": contenders,
        "agree": max(counts) - min(counts) <= 1 and _loops_agree(workload, workers),
    }


def _loops_agree(workload: Workload, workers: Answers) -> bool:
    """Whether the PyTorch loops count the same under damage, up to one image in a thousand.

    Their draws are the same where the weights lie in memory in the same order.
    """
    loops = [workers[name] for name in ("pytorch", "pytorch_careful") if name in workers]
    if len({loop["start"]["layout"] for loop in loops}) != 1 or len(loops) != 2:
        return True
    plain, careful = (sum(each["top1"] for each in loop["rounds"]) for loop in loops)
    images = sum(each["trials"] for each in loops[0]["rounds"]) * workload.images
    return abs(plain - careful) <= max(1, images / 1000)


def _contender(workload: Workload, answers: dict[str, Any]) -> dict[str, Any]:
    rounds = answers["rounds"]
    trials = sum(each["trials"] for each in rounds)
    device_peaks = [each.get("device_peak_bytes") for each in rounds]
    return {
        "settings": answers["start"]["settings"],
        "clean_top1": answers["start"]["clean_top1"],
        "damaged_accuracy": sum(each["top1"] for each in rounds) / (trials * workload.images),
        "trials_timed": rounds[0]["trials"],
        "seconds": [_of_all_trials(workload, each) for each in rounds],
        "peak_bytes": rounds[-1]["peak_bytes"],
        "device_peak_bytes": device_peaks[-1],
    }


def _of_all_trials(workload: Workload, answer: dict[str, Any]) -> float:
    """Seconds of the whole workload: what a loop does once is not scaled up with its trials."""
    once = answer.get("once_seconds", 0.0)
    return once + (answer["seconds"] - once) * workload.trials / answer["trials"]


def _rates(
    workload: Workload,
    contender: dict[str, Any],
    seconds: Sequence[float],
    baseline: dict[str, Any],
    peaks: Mapping[str, float],
) -> dict[str, Any]:
    median = statistics.median(seconds)
    ratios = [theirs / ours for theirs, ours in zip(baseline["seconds"], seconds, strict=True)]
    return {
        "median_seconds": median,
        "images_per_second": workload.trials * workload.images / median,
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "gflops": contender["operations"] / median / 1e9,
        **{name: contender["operations"] / median / rate for name, rate in peaks.items()},
    }
