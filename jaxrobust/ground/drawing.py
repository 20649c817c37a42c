"""matplotlib, whatever backend the environment asks for."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from types import ModuleType


def import_matplotlib() -> ModuleType:
    """Imports matplotlib.

    Nothing here draws in a window, so that a backend that is not installed is no reason to stop: a
    notebook leaves `MPLBACKEND=module://matplotlib_inline.backend_inline` to what it starts, with
    which importing matplotlib fails elsewhere. One that there is stays the user's.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    wanted = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ["MPLBACKEND"] = wanted
    if wanted:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = wanted
    return matplotlib
