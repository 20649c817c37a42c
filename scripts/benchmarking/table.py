"""The figures of one workload as text of at most 100 columns."""

from __future__ import annotations

import statistics
import textwrap
from typing import Any

from benchmarking.figures import PRODUCT
from jaxrobust.ground.text import aligned

_HEAD: tuple[str, ...] = (
    "",
    "wall s",
    "images/s",
    "times as fast",
    "GFLOP/s",
    "of JAX",
    "of peak",
    "top-1",
    "memory",
)
_SAVED_EVERY = 30  # seconds, by default


def table(name: str, title: str, figures: dict[str, Any]) -> str:
    """The figures of a workload, with what stands behind them.

    Args:
        name, title: of the workload.
        figures: from `figures`.
    """
    rows = [_HEAD]
    for contender, each in figures["contenders"].items():
        rows.append(_row(contender.replace("_", " "), each, each))
        if "without_compilation" in each:
            rows.append(_row("  once compiled", each["without_compilation"], None))
    first, *others = zip(*rows, strict=True)
    others = [[cell.rjust(max(map(len, column))) for cell in column] for column in others]
    lines = aligned(list(zip(first, *others, strict=True))).splitlines()
    lines += [textwrap.fill(note, 98, subsequent_indent="  ") for note in _notes(figures)]
    return "\n".join([f"{name}: {title}", *(textwrap.indent(line, "  ") for line in lines)])


def _row(label: str, rates: dict[str, Any], whole: dict[str, Any] | None) -> tuple[str, ...]:
    ratios = rates["ratios"]
    return (
        label,
        f"{rates['median_seconds']:,.1f}",
        f"{rates['images_per_second']:,.0f}",
        f"{rates['ratio']:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        f"{rates['gflops']:,.0f}",
        f"{rates['share_of_product']:.0%}",
        f"{rates['share_of_peak']:.0%}",
        f"{whole['damaged_accuracy']:.1%}" if whole else "",
        _gib(whole["peak_bytes"]) if whole else "",
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _notes(figures: dict[str, Any]) -> list[str]:
    contenders = figures["contenders"]
    sweep = contenders["jaxrobust"]
    notes = [f"reduced: {figures['reduced']}"] if figures["reduced"] else []
    for name, each in contenders.items():
        scaled = ""
        if each["trials_timed"] < figures["trials"]:
            scaled = f"; measured on {each['trials_timed']} of {figures['trials']} trials, scaled"
        if each["device_peak_bytes"]:
            scaled += f"; {_gib(each['device_peak_bytes'])} of the device's memory"
        notes.append(f"{name.replace('_', ' ')}: {each['settings']}{scaled}")
    cold = sweep["cold_sweep"]
    warm = sorted(sweep["compile_seconds"])
    left = sweep["operations"] / contenders["jax_loop"]["operations"]
    counts = [each["clean_top1"] for each in contenders.values()]
    rates = figures["operation_gflops"]
    before, after = rates[PRODUCT]
    careful = sweep.get("ratios_to_pytorch_careful")
    if careful:
        notes.append(
            f"jaxrobust is {statistics.median(careful):.2f} ({min(careful):.2f}–"
            f"{max(careful):.2f}) times as fast as the careful PyTorch loop"
        )
    return [
        *notes,
        f"compilation: {cold['compile_seconds']:.1f} s of the first sweep's {cold['seconds']:.1f} "
        f"s; {warm[0]:.1f} to {warm[-1]:.1f} s of the later ones, whose programs come from JAX's "
        "cache",
        f"operations that remain in the sweep: {sweep['operations'] / 1e9:,.0f} of the loops' "
        f"{contenders['jax_loop']['operations'] / 1e9:,.0f} GFLOP, {left:.0%}",
        f"of JAX: its float32 matrix product, {before:,.0f} GFLOP/s before, {after:,.0f} after; "
        f"of peak: the fastest operation measured, {figures['peak']}, "
        f"{max(rates[figures['peak']]):,.0f} GFLOP/s",
        f"random draws alone: {sweep['draw_seconds']:.1f} s, {sweep['draw_share']:.0%} of a sweep",
        f"right of {figures['images']} images without damage: {', '.join(map(str, counts))}"
        + ("" if figures["agree"] else ": THE CONTENDERS DISAGREE"),
    ]


def saving_table(name: str, title: str, figures: dict[str, Any]) -> str:
    """What saving costs, as text.

    Args:
        name, title: of the workload.
        figures: from `measure_saving`.
    """
    cost = figures["cost"]
    lines = [
        f"{name}: {title}",
        f"  without a run folder {statistics.median(figures['seconds']):,.1f} s, with one "
        f"{statistics.median(cost):+.1%} ({min(cost):+.1%} to {max(cost):+.1%})",
    ]
    for save in figures["saves"]:
        stall = save["stall_seconds"]
        lines.append(
            f"  a save of {save['bytes'] / 2**20:,.1f} MiB holds a sweep up for "
            f"{1000 * stall:,.0f} ms, {stall / _SAVED_EVERY:.2%} of {_SAVED_EVERY} s"
        )
    return "\n".join(lines)


def first_run_table(name: str, title: str, figures: dict[str, Any]) -> str:
    """What a first and a second sweep cost, and a loop; as `table`."""
    rows = [("", "CPU s", "memory")]
    for label, each in (
        ("first sweep, empty cache", "first"),
        ("second sweep", "second"),
        ("plain loop in JAX", "loop"),
    ):
        seconds = [answer["cpu_seconds"] for answer in figures[each]]
        peak = max(answer["peak_bytes"] for answer in figures[each])
        rows.append((label, f"{statistics.median(seconds):.1f}", _gib(peak)))
    lines = aligned(rows).splitlines()
    trials = f"{figures['first'][0]['trials']} trials"
    return "\n".join(
        [f"{name}: {title}, {trials}", *(textwrap.indent(each, "  ") for each in lines)]
    )


def precision_table(name: str, title: str, figures: dict[str, Any]) -> str:
    """A sweep to a precision against fixed designs, as text.

    Args:
        name, title: of the workload.
        figures: from `measure_precision`.
    """
    rounds, (*grid, _, images) = figures["rounds"], title.split(" × ")

    def middle(key: str) -> float:
        return statistics.median(each[key] for each in rounds)

    def times(key: str, other: str) -> str:
        ratios = [each[key] / each[other] for each in rounds]
        spread = f" ({min(ratios):.1f} to {max(ratios):.1f})" if len(ratios) > 1 else ""
        return f"{statistics.median(ratios):.1f} times{spread}"

    lines = [
        f"{name}: every cell to ±{figures['half_width']:g}; {' × '.join([*grid, images])}",
        f"  to a precision  {middle('precise_seconds'):9,.1f} s  "
        f"{middle('precise_trial_images'):14,.0f} trial-images  up to "
        f"{middle('most_seeds'):,.0f} seeds",
        f"  fixed design    {middle('fixed_seconds'):9,.1f} s  "
        f"{middle('fixed_trial_images'):14,.0f} trial-images  {middle('fixed_seeds'):,.0f} seeds: "
        f"takes {times('fixed_seconds', 'precise_seconds')} as long",
    ]
    if all("loop_seconds" in each for each in rounds):
        lines.append(
            f"  PyTorch loop    {middle('loop_seconds'):9,.1f} s  the same trials: takes "
            f"{times('loop_seconds', 'precise_seconds')} as long"
        )
    if figures["reduced"]:
        lines.append(f"  reduced: {figures['reduced']}")
    if not all(each["met"] for each in rounds):
        lines.append("  NOT EVERY CELL IS KNOWN THAT WELL")
    return "\n".join(lines)
