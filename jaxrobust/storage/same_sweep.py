"""Comparing a sweep with the one that a folder holds."""

from __future__ import annotations

from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from jaxrobust.data.source import ImageSource
from jaxrobust.design.code import SweepCode, told_apart
from jaxrobust.design.specification import Specification
from jaxrobust.ground.errors import SpecificationError

# Arguments of `sweep` that have another name than the field that they become.
_ASKED_AS = {"precision": "precision_mode"}


def check_same(
    folder: Path,
    held: Specification,
    asked: Specification,
    images: ImageSource,
    code: SweepCode,
    extend: bool,
    upgraded: str,
    seeds: int,
) -> None:
    """Makes sure that a folder's sweep may be gone on with.

    Args:
        folder: of the run.
        held, asked: its specification, and the one that is asked for.
        images, code: those that are asked for.
        extend: whether the one that is asked for may add to the other.
        upgraded: the packages that have another version now, in words.
        seeds: how many the folder's sweep has come to.

    Raises:
        SpecificationError: in one line that names what differs, and both values.
    """
    if not held.code:
        raise SpecificationError(
            f"{folder} holds a sweep of an earlier jaxrobust, which did not record what its code "
            "computes: it can be opened and reported, but not gone on with: choose another folder"
        )
    names = [f.name for f in fields(held) if f.compare and f.name != "code"]
    differing = [name for name in names if getattr(held, name) != getattr(asked, name)]
    lacking = [name for name in differing if not _adds(name, held, asked, images, seeds)]
    named = lacking if extend else differing
    otherwise = _otherwise(held, asked, code) if held.code != asked.code else []
    if not (named or otherwise):
        return
    if "images" in named:  # then their fingerprint tells nothing more
        named = [name for name in named if name != "data_fingerprint"]
    texts = [_in_words(name, held, asked, seeds) for name in named]
    texts += otherwise
    if lacking or otherwise:
        hint = "choose another folder" + (": --extend only adds" if extend else "")
        if otherwise and upgraded:
            hint = f"{upgraded}, which may be why: go on with the version before, or {hint}"
    else:
        hint = "choose another folder, or --extend (extend=True), which adds to it"
    raise SpecificationError(f"{folder} holds another sweep: {'; '.join(texts)}: {hint}")


def _in_words(field: str, held: Specification, asked: Specification, seeds: int) -> str:
    """What differs, under the name of the argument that says it."""
    if field != "sampling":
        before, now = getattr(held, field), getattr(asked, field)
        return f"{_ASKED_AS.get(field, field)} {_short(before)}, not {_short(now)}"
    if held.half_width is None and asked.half_width is None:
        return f"seeds {seeds}, not {asked.sampling.first_seeds}"
    before, now = (_precision(each) for each in (held, asked))
    return f"precision {before}, not {now}"


def _precision(spec: Specification) -> str:
    other = spec.half_width_metric != "top1"
    return _short(spec.half_width) + f" of {spec.half_width_metric}" * other


def _adds(
    field: str, held: Specification, asked: Specification, images: ImageSource, seeds: int
) -> bool:
    """Whether a field only adds to the one that a folder holds."""
    if field == "sampling":
        return asked.half_width is not None or asked.sampling.first_seeds >= seeds
    if field == "images":
        return asked.images >= held.images
    if field == "data_fingerprint":
        first = images[: held.images]
        return len(first) == held.images and first.fingerprint() == held.data_fingerprint
    if field == "layers":
        return set(getattr(held, field)) <= set(getattr(asked, field))
    if field == "strengths":
        grids = dict(asked.strengths)
        return all(set(grid) <= set(grids.get(name, ())) for name, grid in held.strengths)
    return False


def _otherwise(held: Specification, asked: Specification, code: SweepCode) -> list[str]:
    """What computes otherwise on the layers and at the strengths of the one that is held."""
    if held.network != asked.network or not set(held.layers) <= set(asked.layers):
        return []  # that says enough
    strengths = {name: tuple(map(Decimal, grid)) for name, grid in held.strengths}
    same_weights = held.parameters == asked.parameters
    return told_apart(held.code, code.on(held.layers, strengths), same_weights=same_weights)


def _short(value: Any) -> str:
    text = " ".join(map(_named, value)) if isinstance(value, tuple) else str(value)
    text = "none" if text in ("", "None") else text
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 60 else f"{text[:40]}…{text[-19:]}"


def _named(entry: Any) -> str:
    """A name, or one with what belongs to it, as on the command line."""
    if isinstance(entry, str):
        return entry
    name, own = entry[:2]
    if isinstance(own, bool):  # a metric, and what kind of sums it has
        return name
    own = own if isinstance(own, str) else ",".join(own)
    return name if own == name else f"{name}={own}"
