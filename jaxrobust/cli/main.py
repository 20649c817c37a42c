"""The `jaxrobust` command."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from jaxrobust.cli.evaluate import Evaluate
from jaxrobust.cli.list import List
from jaxrobust.cli.plan import Plan
from jaxrobust.cli.port import Port
from jaxrobust.cli.prepare import Prepare
from jaxrobust.cli.report import Report
from jaxrobust.cli.show import say
from jaxrobust.cli.status import Status
from jaxrobust.cli.sweep import Sweep
from jaxrobust.ground.errors import ProcessLostError, SpecificationError
from jaxrobust.storage.durable.interrupts import at_most_once_a_second, never_again

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
    warnings.showwarning = lambda message, *_: say(f"note: {message}")
    at_most_once_a_second()
    if isinstance(command, Sweep) and command.distributed:
        run_or_leave(command)
    else:
        _run(command)


def _run(command: Any) -> None:
    try:
        command.run()
    except BrokenPipeError:  # whoever reads this has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # it is flushed at the end
    except (SpecificationError, OSError, ProcessLostError) as error:
        say(f"error: {error}")
        raise SystemExit(1 if isinstance(error, ProcessLostError) else 2) from None
    except KeyboardInterrupt as interrupt:
        never_again()
        print(file=sys.stderr)
        say(": ".join(["interrupted", *map(str, interrupt.args)]))
        raise SystemExit(130) from None


def run_or_leave(command: Any) -> None:
    """Runs a command of one of several processes, which must not wait for each other at the end."""
    from jaxrobust.runtime.hosts import leave

    try:
        _run(command)
    except SystemExit as end:
        leave(int(end.code or 0))
    except BaseException:
        traceback.print_exc()
        leave(1)
