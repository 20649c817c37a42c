"""`jaxrobust status`."""

from __future__ import annotations

from dataclasses import dataclass

from jaxrobust.cli.arguments import RunArgument
from jaxrobust.cli.show import show


@dataclass
class Status:
    """Print how far a sweep has come, while it runs or afterwards.

    Example: jaxrobust status runs/mine
    """

    run_folder: RunArgument

    def run(self) -> None:
        from jaxrobust.storage.status import status

        show(status(self.run_folder))
