"""`jaxrobust report`."""

from __future__ import annotations

from dataclasses import dataclass

from jaxrobust.cli.arguments import RunArgument
from jaxrobust.cli.show import show


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
        show(f"report:  {page}")
        show(f"figures: {figures[0].parent} ({names}; PNG and SVG)")
