"""The `jaxrobust` command."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from jaxrobust.arguments import (
    DataArgument,
    ImagesArgument,
    NetworkArgument,
    PrecisionArgument,
    ResizeArgument,
    SkipBrokenArgument,
    SmallArgument,
    SweepArguments,
    load_network,
    open_images,
)
from jaxrobust.durable.interrupts import at_most_once_a_second, never_again
from jaxrobust.errors import ProcessLostError, SpecificationError
from jaxrobust.text import aligned, printable

RunArgument = Annotated[Positional[str], arg(metavar="RUN", help="the folder of a sweep")]


@dataclass
class List:
    """Print what can be used.

    Example: jaxrobust list networks
    """

    what: Positional[Literal["networks", "perturbations", "data"]]

    def run(self) -> None:
        rows = {"networks": _networks, "perturbations": _perturbations, "data": _sources}
        _show(aligned(rows[self.what]()))


@dataclass
class Evaluate:
    """Count what an undamaged network gets right: top-1 and top-5, with intervals.

    Example: jaxrobust evaluate runs/squeezenet --data folder:photographs --images 500
    """

    network: NetworkArgument
    data: DataArgument
    images: ImagesArgument = None
    resize: ResizeArgument = None
    small: SmallArgument = None
    precision_mode: PrecisionArgument = "float32"
    skip_broken: SkipBrokenArgument = False
    json: Annotated[bool, arg(help="print counts as one JSON object")] = False

    def run(self) -> None:
        from jaxrobust.bars import work_progress
        from jaxrobust.engine import evaluate

        images = open_images(self.data, self.images)
        network = load_network(self.network, self.resize, self.small)
        with work_progress(self.json) as report:
            images = images.without_broken(report) if self.skip_broken else images
            found = evaluate(network, images, precision_mode=self.precision_mode, report=report)
        counts: dict[str, Any] = {"images": found.images, "top1": found.top1, "top5": found.top5}
        if self.skip_broken:
            counts["left_out"] = list(images.left_out)
        if self.json:
            _show(json.dumps(counts))
            return
        _show(found)
        if images.left_out:
            _show(f"left out, since they are broken: {printable(', '.join(images.left_out))}")


@dataclass(kw_only=True)
class Sweep(SweepArguments):
    """Damage a network one part at a time and measure what is left of it.

    Example: jaxrobust sweep runs/squeezenet --data folder:photographs --layers conv1 'fire*'
    --strengths synapse_knockout=0:0.9:0.1 weight_noise=0:2:0.2 --seeds 5 --out runs/mine
    """

    out: Annotated[
        str, arg(metavar="DIR", help="the run folder; a sweep that was interrupted there goes on")
    ]
    precision: Annotated[
        float | None,
        arg(
            metavar="HALF-WIDTH",
            help="in place of --seeds: as many as it takes until every cell's 95 % interval of "
            "mean top-1 accuracy is this wide to each side, as in 0.01",
            help_behavior_hint="(default: a fixed number of seeds)",
        ),
    ] = None
    max_seconds: Annotated[
        float | None,
        arg(
            metavar="SECONDS",
            help="with --precision: begin nothing more after that; the same command goes on",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    extend: Annotated[
        bool,
        arg(help="add seeds, strengths, layers, perturbations or images to the sweep in DIR"),
    ] = False
    save_every: Annotated[
        float, arg(metavar="SECONDS", help="least time from one save of the counts to the next")
    ] = 30.0
    quiet: Annotated[bool, arg(help="no progress and no table")] = False
    distributed: Annotated[
        bool,
        arg(
            help="share the sweep with other processes, each started with the same command; on TPU "
            "pods, under Slurm, Open MPI and in Kubernetes they find each other, elsewhere the "
            "three options below say how"
        ),
    ] = False
    coordinator: Annotated[
        str | None, arg(metavar="HOST:PORT", help="where process 0 is reached")
    ] = None
    processes: Annotated[int | None, arg(metavar="N", help="how many processes there are")] = None
    process: Annotated[int | None, arg(metavar="I", help="which one this is, from 0")] = None

    def run(self) -> None:
        from jaxrobust.bars import work_progress
        from jaxrobust.engine import check_precision, sweep
        from jaxrobust.run_folder import check_run_folder
        from jaxrobust.summary import text_table

        quiet = self.quiet or not self._is_primary()
        folder = check_run_folder(self.out)
        check_precision(self.precision, self.max_seconds, self.seeds)
        arguments = self.checked()
        try:
            with work_progress(quiet, whole=self.precision is None) as report:
                result = sweep(
                    *self.opened(report),
                    **arguments,
                    precision=self.precision,
                    max_seconds=self.max_seconds,
                    run_dir=folder,
                    extend=self.extend,
                    save_every=self.save_every,
                    report=report,
                )
        except KeyboardInterrupt:
            done = "nothing was done yet"
            if folder.exists():
                done = f"what was done is in {folder}; the same command goes on with it"
            raise KeyboardInterrupt(done) from None
        if not quiet:
            _show(text_table(result))
            tables = ["results.csv"] + (["cells.csv"] if self.precision is not None else [])
            others = ", ".join(f"{folder}/{name}" for name in (*tables, "sweep.json"))
            _show(f"results: {folder}/results.nc (xarray), {others}")
            if not result.attrs["finished"] and self.max_seconds is not None:
                _show(f"stopped after {self.max_seconds:g} s: the same command goes on with it")

    def _is_primary(self) -> bool:
        """Joins the other processes, if there are any."""
        given = (self.coordinator, self.processes, self.process)
        if not self.distributed:
            if any(each is not None for each in given):
                raise SpecificationError(
                    "--coordinator, --processes and --process need --distributed"
                )
            return True
        from jaxrobust.hosts import Processes, initialize

        initialize(*given)
        return Processes.of_this_job().is_primary


@dataclass(kw_only=True)
class Plan(SweepArguments):
    """Say what a sweep would cost before it is launched: operations, memory and time.

    Example: jaxrobust plan alexnet-glyphs --data glyphs --images 1000 --seeds 100
    --accelerator h200 --devices 8
    """

    accelerator: Annotated[
        str | None,
        arg(
            metavar="NAME",
            help="also the time on such devices, by the peak that their maker states: v100, a100, "
            "h100, h200, tpu-v4, tpu-v5e, tpu-v5p or tpu-v6e",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    devices: Annotated[int, arg(help="how many of them")] = 1
    efficiency: Annotated[
        float, arg(metavar="SHARE", help="the share of the stated peak that is assumed")
    ] = 0.2
    timing_seconds: Annotated[
        float,
        arg(metavar="SECONDS", help="after this long the time of other layers is extrapolated"),
    ] = 15.0
    json: Annotated[bool, arg(help="print everything as one JSON object")] = False

    def run(self) -> None:
        from jaxrobust.bars import work_progress
        from jaxrobust.engine.estimate import plan

        arguments = self.checked()
        with work_progress(self.json) as report:
            estimate = plan(
                *self.opened(report),
                **arguments,
                accelerator=self.accelerator,
                devices=self.devices,
                efficiency=self.efficiency,
                timing_seconds=self.timing_seconds,
                report=report,
            )
        _show(json.dumps(estimate.to_json()) if self.json else estimate)


@dataclass
class Status:
    """Print how far a sweep has come, while it runs or afterwards.

    Example: jaxrobust status runs/mine
    """

    run_folder: RunArgument

    def run(self) -> None:
        from jaxrobust.status import status

        _show(status(self.run_folder))


@dataclass
class Report:
    """Write the figures of a run, finished or not, and a page that shows them, report.html.

    Example: jaxrobust report runs/mine
    """

    run_folder: RunArgument

    def run(self) -> None:
        from jaxrobust.report import write_report

        page, *figures = write_report(self.run_folder)
        names = ", ".join(path.stem for path in figures if path.suffix == ".png")
        _show(f"report:  {page}")
        _show(f"figures: {figures[0].parent} ({names}; PNG and SVG)")


@dataclass
class Port:
    """Turn a weight file, given or downloaded, into a checkpoint that the other commands take.

    Example: jaxrobust port vgg16 --out runs/vgg16
    """

    network: Annotated[Positional[str], arg(metavar="NETWORK", help="a name of `list networks`")]
    out: Annotated[Path, arg(metavar="DIR", help="the folder to write")]
    file: Annotated[
        Positional[Path | None],
        arg(
            metavar="FILE",
            help="the weight file",
            help_behavior_hint="(default: the published one is downloaded)",
        ),
    ] = None
    no_verify: Annotated[
        bool,
        arg(help="accept another file than the published one, from a server of your own"),
    ] = False

    def run(self) -> None:
        from jaxrobust.bars import download_progress
        from jaxrobust.networks.port import port

        with download_progress() as report:
            _show(port(self.network, self.file, self.out, verify=not self.no_verify, report=report))


@dataclass
class Prepare:
    """Download and prepare a data set of TensorFlow Datasets, for sources like tfds:NAME:SPLIT.

    Example: jaxrobust prepare imagenet_v2/matched-frequency
    """

    name: Annotated[Positional[str], arg(metavar="NAME", help="a name of TensorFlow Datasets")]
    manual_dir: Annotated[
        Path | None,
        arg(metavar="DIR", help="where the archives lie that you downloaded yourself"),
    ] = None
    data_dir: Annotated[
        Path | None,
        arg(
            metavar="DIR",
            help="where to keep it",
            help_behavior_hint="(default: TensorFlow Datasets' own)",
        ),
    ] = None

    def run(self) -> None:
        from jaxrobust.data.tfds import prepare

        _show(prepare(self.name, manual_dir=self.manual_dir, data_dir=self.data_dir))


Command = (
    Annotated[List, subcommand("list")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Sweep, subcommand("sweep")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Status, subcommand("status")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Port, subcommand("port")]
    | Annotated[Prepare, subcommand("prepare")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; bad input ends it with one line and exit status 2."""
    command = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="jaxrobust",
        description="Measures how a trained network breaks from the inside.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    if not sys.flags.safe_path:
        sys.path.append("")  # module:attribute may be in the current folder
    warnings.showwarning = lambda message, *_: _say(f"note: {message}")
    at_most_once_a_second()
    if isinstance(command, Sweep) and command.distributed:
        _run_or_leave(command)
    else:
        _run(command)


def _run(command: Any) -> None:
    try:
        command.run()
    except BrokenPipeError:  # whoever reads this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed at the end
    except (SpecificationError, OSError, ProcessLostError) as error:
        _say(f"error: {error}")
        raise SystemExit(1 if isinstance(error, ProcessLostError) else 2) from None
    except KeyboardInterrupt as interrupt:
        never_again()
        print("\njaxrobust: interrupted", *interrupt.args, sep=": ", file=sys.stderr)
        raise SystemExit(130) from None


def _show(what: object) -> None:
    """Prints lines of which names, of files and layers, may be anybody's."""
    print("\n".join(map(printable, str(what).split("\n"))))


def _say(text: str) -> None:
    print(f"jaxrobust: {printable(text)}", file=sys.stderr)


def _run_or_leave(command: Any) -> None:
    from jaxrobust.hosts import leave

    try:
        _run(command)
    except SystemExit as end:
        leave(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        leave(1)


def _networks() -> list[tuple[str, ...]]:
    from jaxrobust.networks.zoo import ZOO, packed_checkpoint

    header = ("network", "parameters", "input", "top-1", "top-5", "weights", "what it is")
    rows: list[tuple[str, ...]] = [header]
    for name, entry in ZOO.items():
        size = "×".join(map(str, entry.blueprint.preprocessing.shape))
        reported = (entry.published.top1, entry.published.top5) if entry.published else (None, None)
        accuracies = [f"{value:.1f}" if value is not None else "-" for value in reported]
        source = entry.weights
        if source is None or packed_checkpoint(name):
            weights = "included"
        else:
            weights = source.publisher if source.url else "port a file"
        rows.append((name, f"{entry.parameters:,}", size, *accuracies, weights, entry.summary))
    return rows


def _perturbations() -> list[tuple[str, ...]]:
    from jaxrobust.perturbations import REGISTRY

    rows: list[tuple[str, ...]] = [("perturbation", "range", "default", "what it does")]
    for name, each in REGISTRY.items():
        summary = each.description.split("\n")[0]
        rows.append((name, f"{each.low:g} to {each.high:g}", each.strengths, summary))
    return rows


def _sources() -> list[tuple[str, ...]]:
    from jaxrobust.data import SOURCES

    return [("source", "what it is"), *((k.usage, k.summary) for k in SOURCES.values())]
