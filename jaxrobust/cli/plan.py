"""`jaxrobust plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from jaxrobust.cli.arguments import SweepArguments
from jaxrobust.cli.show import show


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
        from jaxrobust.costing.estimate import plan

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
        show(json.dumps(estimate.to_json()) if self.json else estimate)
