"""What an adapter makes of a framework's module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pure:
    """A module as a pure function.

    Attributes:
        apply: `apply(params, images) -> logits`.
        params: the parameter pytree; statistics of normalisation layers travel in it too.
        frozen: paths of the leaves that are never damaged.
    """

    apply: Callable[[Any, Any], Any]
    params: Any
    frozen: frozenset[str]
