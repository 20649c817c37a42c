"""`jaxrobust port`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from jaxrobust.cli.show import show


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
            show(port(self.network, self.file, self.out, verify=not self.no_verify, report=report))
