"""What the zoo says about a named network."""

from __future__ import annotations

from dataclasses import dataclass

from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.porting.recipes import Recipe


@dataclass(frozen=True)
class WeightSource:
    """Where a network's trained weights come from.

    Args:
        publisher: Who published the file, in a word or two.
        file: What the file is, for somebody who has to find it.
        format: Ending of the file's name, which tells its format: `.pth`.
        recipe: What the network's parameters are called in the file.
        url: Address of the file, if it is known.
        checksum: Its checksum, if one is published (see `download`).
    """

    publisher: str
    file: str
    format: str
    recipe: Recipe
    url: str | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Published:
    """The accuracy that is reported for a network, on the images that it is meant for.

    Args:
        top1: Percentage of the validation or test images whose class has the largest logit.
        top5: Percentage of them whose class is among the five largest logits, if reported.
        source: Who reports it.
    """

    top1: float
    top5: float | None
    source: str


@dataclass(frozen=True)
class Entry:
    """A named network.

    Args:
        blueprint: The network but for its parameters; its name is the entry's.
        summary: What it is, in a few words.
        parameters: How many numbers were trained: running statistics don't count.
        weights: Where its trained weights come from; None for the package's own.
        published: The accuracy that it is known to have, if any is.
    """

    blueprint: Blueprint
    summary: str
    parameters: int
    weights: WeightSource | None = None
    published: Published | None = None
