"""The `jaxrobust` command: a file for each of its commands."""

from jaxrobust.cli.main import main, run_or_leave

__all__ = ["main", "run_or_leave"]
