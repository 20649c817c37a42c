"""`jaxrobust sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from jaxrobust.cli.arguments import SweepArguments
from jaxrobust.cli.show import show
from jaxrobust.ground.errors import SpecificationError


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
            "mean top-1 accuracy is this wide to each side, as in 0.01 (see --precision-metric)",
            help_behavior_hint="(default: a fixed number of seeds)",
        ),
    ] = None
    precision_metric: Annotated[
        str,
        arg(
            metavar="NAME",
            help="with --precision: the metric whose mean is to be known so well, in its unit; one "
            "that is a mean over images and is measured, as top1, loss or one of --metrics",
        ),
    ] = "top1"
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
        from jaxrobust.design.request import sampling_rule
        from jaxrobust.results import SweepInfo
        from jaxrobust.storage.run_folder import check_run_folder
        from jaxrobust.summary import text_table
        from jaxrobust.sweeps import sweep

        quiet = self.quiet or not self._is_primary()
        folder = check_run_folder(self.out)
        arguments = self.checked()
        precision = {
            "precision": self.precision,
            "precision_metric": self.precision_metric,
            "max_seconds": self.max_seconds,
        }
        sampling_rule(seeds=self.seeds, metrics=self.metrics, **precision)
        try:
            with work_progress(quiet, whole=self.precision is None) as report:
                result = sweep(
                    *self.opened(report),
                    **arguments,
                    **precision,
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
            show(text_table(result))
            tables = ["results.csv"] + (["cells.csv"] if self.precision is not None else [])
            others = ", ".join(f"{folder}/{name}" for name in (*tables, "sweep.json"))
            show(f"results: {folder}/results.nc (xarray), {others}")
            if not SweepInfo.of(result).finished and self.max_seconds is not None:
                show(f"stopped after {self.max_seconds:g} s: the same command goes on with it")

    def _is_primary(self) -> bool:
        """Joins the other processes, if there are any."""
        given = (self.coordinator, self.processes, self.process)
        if not self.distributed:
            if any(each is not None for each in given):
                raise SpecificationError(
                    "--coordinator, --processes and --process need --distributed"
                )
            return True
        from jaxrobust.runtime.hosts import Processes, initialize

        initialize(*given)
        return Processes.of_this_job().is_primary
