"""`jaxrobust prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from jaxrobust.cli.show import show


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
        from jaxrobust.data.kinds.tfds import prepare

        show(prepare(self.name, manual_dir=self.manual_dir, data_dir=self.data_dir))
