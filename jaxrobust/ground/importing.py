"""Importing what a user names by its import path."""

from __future__ import annotations

import importlib
import operator
from pathlib import PurePath
from typing import Any

from jaxrobust.ground.errors import SpecificationError, first_line


def imported(what: str, path: str) -> Any:
    """What lies at an import path `module:attribute`.

    Args:
        what: it is to be, for the error.
        path: the import path; the attribute may have dots.

    Raises:
        SpecificationError: there is nothing, or the module fails.
    """
    module, _, attribute = path.partition(":")
    if module.endswith(".py"):
        raise SpecificationError(
            f"{what} {path!r}: an import path names a module, not a file; write "
            f"{PurePath(module).stem}:{attribute}, with the file's folder on Python's path"
        )
    try:
        return operator.attrgetter(attribute)(importlib.import_module(module))
    except SpecificationError:
        raise
    except Exception as error:  # whatever a module of the user's does when it is imported
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        raise SpecificationError(
            f"cannot import the {what} {path!r}: {kind}{first_line(error)}"
        ) from error
