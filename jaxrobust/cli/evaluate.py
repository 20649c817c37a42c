"""`jaxrobust evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from jaxrobust.cli.arguments import (
    DataArgument,
    ImagesArgument,
    NetworkArgument,
    PrecisionArgument,
    ResizeArgument,
    SkipBrokenArgument,
    SmallArgument,
    load_network,
    open_images,
)
from jaxrobust.cli.show import show
from jaxrobust.ground.text import printable


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
        from jaxrobust.sweeps import evaluate

        images = open_images(self.data, self.images)
        network = load_network(self.network, self.resize, self.small)
        with work_progress(self.json) as report:
            images = images.without_broken(report) if self.skip_broken else images
            found = evaluate(network, images, precision_mode=self.precision_mode, report=report)
        counts: dict[str, Any] = {"images": found.images, "top1": found.top1, "top5": found.top5}
        if self.skip_broken:
            counts["left_out"] = list(images.left_out)
        if self.json:
            show(json.dumps(counts))
            return
        show(found)
        if images.left_out:
            show(f"left out, since they are broken: {printable(', '.join(images.left_out))}")
