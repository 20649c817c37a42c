"""The report of a run: figures and one HTML page that holds everything."""

from jaxrobust.report.write import write_report

__all__ = ["write_report"]
