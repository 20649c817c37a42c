"""What to run: the specification of a sweep, checked, hashable and serialisable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any, Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data.progress import Report, silent
from jaxrobust.design.code import SweepCode, metric_arguments
from jaxrobust.ground.errors import SpecificationError, first_line, unknown
from jaxrobust.ground.names import check_name, check_variable_names
from jaxrobust.layers import Selector, select
from jaxrobust.metrics import Metric, always
from jaxrobust.network import Network
from jaxrobust.networks.fingerprint import fingerprint
from jaxrobust.perturbations import Code, Perturbation, check_fits, decimal, find
from jaxrobust.program.rounding import PrecisionMode, check_mode
from jaxrobust.results import BITS, CONTROL, NONFINITE, SEEN
from jaxrobust.sampling import FixedSeeds, SamplingRule, rule_from_json

DEFAULT_BLOCK = 50
# The network is traced for a block, whose values have to be counted in 64 bits.
LARGEST_BLOCK = 10**6
# What a result calls its own variables and dimensions.
_TAKEN = ("images", "nonfinite", "perturbation", "layer", "strength", "seed", "block", "bin")
_TAKEN += (*BITS, SEEN, "image", "label", "byte")

Grid = str | Sequence[Any] | np.ndarray | jax.Array
Keep = Literal["counts", "images"]


@dataclass(frozen=True)
class Specification:
    """A sweep's identity: what trials of equal specifications count is equal.

    Attributes:
        network: the network's name.
        preprocessing: what it does to an image first, as JSON.
        parameters: fingerprint of its parameters.
        data: the data source's string.
        data_fingerprint: fingerprint of exactly these images and labels.
        images: how many images.
        block: consecutive images that are counted together.
        layers: group name and the layers that it damages together, in order.
        strengths: perturbation and its strengths, as decimal strings, ascending.
        import_paths: perturbation and the import path of one that isn't built in; where it lies
            is no part of the identity.
        sampling: how many seeds each cell gets, or what it takes.
        root: the root of all random keys.
        metrics: what is measured of each image: name, and `share`, `finite` and `bins` of
            `jaxrobust.Metric`.
        precision: what the operands of matrix products and convolutions are rounded to.
        keep: "counts", or "images": also which images were right.
        code: what computes the numbers, which part of it, and the digest of what that computes;
            empty in sweeps of version 0.1, which did not know.
    """

    network: str
    preprocessing: str
    parameters: str
    data: str
    data_fingerprint: str
    images: int
    block: int
    layers: tuple[tuple[str, tuple[str, ...]], ...]
    strengths: tuple[tuple[str, tuple[str, ...]], ...]
    import_paths: tuple[tuple[str, str], ...] = field(compare=False)
    sampling: SamplingRule
    root: int
    metrics: tuple[tuple[str, bool, bool, int], ...]
    precision: PrecisionMode = "float32"
    keep: Keep = "counts"
    code: Code = ()

    @property
    def half_width(self) -> float | None:
        """That of each cell's 95 % interval, in a sweep to a precision."""
        return getattr(self.sampling, "half_width", None)

    @property
    def half_width_metric(self) -> str:
        """The metric whose mean that interval is of."""
        return getattr(self.sampling, "metric", "top1")

    @property
    def blocks(self) -> int:
        """How many blocks the images make, the last one perhaps not full."""
        return -(-self.images // self.block)

    @cached_property
    def grid(self) -> tuple[Decimal, ...]:
        """All strengths of all perturbations, ascending."""
        return tuple(sorted({Decimal(s) for _, strengths in self.strengths for s in strengths}))

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json`."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Specification:
        """The inverse of `to_json`, after a round trip through `json`.

        Raises:
            TypeError: these are not the values of a specification.
        """

        def frozen(value: Any) -> Any:
            return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value

        if not isinstance(values, Mapping):
            raise TypeError("a specification is a mapping")
        frozen_values = {name: frozen(value) for name, value in values.items()}
        sampling = rule_from_json(values["sampling"]) if "sampling" in values else None
        spec = Specification(**{**frozen_values, "sampling": sampling})
        for name, kind in get_type_hints(Specification).items():
            if not _is_of(getattr(spec, name), kind):
                raise TypeError(f"{name} of a specification is not {kind}")
        numbers = [strength for _, strengths in spec.strengths for strength in strengths]
        if min(spec.images, spec.block) < 1 or not all(map(_is_number, numbers)):
            raise TypeError("a number in a specification is out of its range")
        return spec

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON form of what is compared, in hexadecimal."""
        compared = [f.name for f in fields(self) if f.compare]
        values = {name: value for name, value in self.to_json().items() if name in compared}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a type that a field of a specification has."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(value) == len(inner) and all(map(_is_of, value, inner))
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is not None:  # one of several
        return any(_is_of(value, each) for each in inner)
    if kind is bool:
        return isinstance(value, bool)
    # A whole number is written as one where a fraction may stand; true is none.
    kind = int | float if kind is float else kind
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


def parse_grid(text: str) -> list[Decimal]:
    """Reads `start:stop:step`, both ends included, or strengths separated by commas.

    Raises:
        SpecificationError: anything else, or a step that doesn't lead from start to stop.

    Example:
        >>> [float(s) for s in parse_grid("0:0.9:0.3")], [float(s) for s in parse_grid("0.1,0.7")]
        ([0.0, 0.3, 0.6, 0.9], [0.1, 0.7])
    """
    if ":" not in text:
        return [decimal(part) for part in text.split(",")]
    parts = [decimal(part) for part in text.split(":")]
    if len(parts) != 3:
        raise SpecificationError(f"strengths {text!r}: start:stop:step is needed, as in 0:0.9:0.1")
    start, stop, step = parts
    steps = (stop - start) / step if step else Decimal(-1)
    if steps < 0 or steps != int(steps):
        raise SpecificationError(
            f"strengths {text!r}: steps of {step} do not lead from {start} to {stop}"
        )
    if steps > 10_000:
        raise SpecificationError(f"strengths {text!r}: {int(steps) + 1} strengths; at most 10001")
    return [start + index * step for index in range(int(steps) + 1)]


def resolve_strengths(
    perturbations: Sequence[Perturbation], strengths: Grid | Mapping[str, Grid] | None
) -> dict[str, tuple[Decimal, ...]]:
    """The strengths of each perturbation, ascending, each within its range.

    Args:
        perturbations: those that the sweep runs.
        strengths: one grid for all, a grid for each by name (a perturbation that isn't named
            keeps its default), or None for the defaults.

    Raises:
        SpecificationError: a strength outside the range, a name that isn't swept, an empty grid.
    """
    by_name = {p.name: p for p in perturbations}
    if isinstance(strengths, Mapping):
        # An import path stands for the name of what is found there.
        strengths = {find(n).name if ":" in n else n: grid for n, grid in strengths.items()}
        for name in strengths:
            if name not in by_name:
                raise SpecificationError(unknown("perturbation in strengths", name, by_name))
    resolved = {}
    for name, perturbation in by_name.items():
        grid = strengths.get(name) if isinstance(strengths, Mapping) else strengths
        grid = perturbation.strengths if grid is None else grid
        values = parse_grid(grid) if isinstance(grid, str) else [decimal(s) for s in grid]
        if not values:
            raise SpecificationError(f"no strengths for {name}")
        for value in values:
            perturbation.check(value)
        resolved[name] = tuple(sorted(set(values)))
    _check_told_apart(perturbations, resolved)
    return resolved


def _check_told_apart(
    perturbations: Sequence[Perturbation], strengths: Mapping[str, Sequence[Decimal]]
) -> None:
    """Makes sure that results, in which strengths are float64, tell all of them apart."""
    exact: dict[float, Decimal] = {}
    for each in perturbations:
        for strength in (decimal(each.identity), *strengths[each.name]):
            other = exact.setdefault(float(strength), strength)
            if other != strength:
                raise SpecificationError(
                    f"strength {strength} of {each.name} is {float(strength)} as a float64, as "
                    f"{other} is: results could not tell them apart; leave one out"
                )


def resolve_perturbations(wanted: Sequence[str | Perturbation]) -> list[Perturbation]:
    """The perturbations of a sweep, each once.

    Raises:
        SpecificationError: an unknown one, one named twice, none.
    """
    wanted = [wanted] if isinstance(wanted, str | Perturbation) else wanted
    found = [find(each) for each in wanted]
    names = [each.name for each in found]
    if not found:
        raise SpecificationError("no perturbations were asked for")
    if len(set(names)) < len(names):
        raise SpecificationError(f"a perturbation is named twice: {', '.join(names)}")
    return found


def check_whole(name: str, value: Any, least: int, most: int = 2**32 - 1) -> None:
    """Raises SpecificationError for anything but a whole number in this range."""
    if not isinstance(value, int | np.integer) or not least <= value <= most:
        upto = "2^32 - 1" if most == 2**32 - 1 else f"{most:,}"
        raise SpecificationError(
            f"{name} {value!r}: a whole number from {least} to {upto} is needed"
        )


def check_block(block: Any) -> None:
    """Raises SpecificationError for what cannot be a number of images in a block."""
    check_whole("block", block, 1, LARGEST_BLOCK)


def specify(
    network: Network,
    images: Any,
    *,
    perturbations: Sequence[Perturbation],
    layers: Selector,
    strengths: Mapping[str, Sequence[Decimal]],
    sampling: SamplingRule,
    root: int,
    block: int,
    metrics: Mapping[str, Metric],
    precision: PrecisionMode = "float32",
    keep: Keep = "counts",
    report: Report = silent,
) -> Specification:
    """Checks that a sweep can be run as asked, and writes down what it is.

    Args:
        network, images, layers, root, block, keep: as for `jaxrobust.sweep`; the labels of
            the images are indices of the network's classes.
        perturbations: from `resolve_perturbations`.
        strengths: from `resolve_strengths`.
        sampling: how many seeds each cell gets.
        metrics: beside those that are always counted, by name.
        precision: of matrix products and convolutions.
        report: called while the images are read for their fingerprint.

    Raises:
        SpecificationError: anything that would fail later.
    """
    if isinstance(sampling, FixedSeeds):
        check_whole("seeds", sampling.seeds, 1)
    check_whole("root", root, 0)
    check_block(block)
    check_mode(precision)
    if keep not in get_args(Keep):
        raise SpecificationError(unknown("keep", keep, get_args(Keep)))
    if len(images) == 0:
        raise SpecificationError(f"no images in {images.name}")
    check_name("network", network.name)
    check_name("data source", images.name)
    check_variable_names("metric", metrics)
    for name, metric in metrics.items():
        _check_metric(name, metric, network.classes)
    if len({each.bins for each in metrics.values() if each.bins}) > 1:
        sizes = ", ".join(f"{name} {each.bins}" for name, each in metrics.items() if each.bins)
        raise SpecificationError(f"metrics with other numbers of bins in one sweep: {sizes}")
    groups = select(network.layers, layers)
    for name in groups:
        check_name("layer" if name in network.layers else "group of layers", name)
    for perturbation in perturbations:
        for name in dict.fromkeys(name for members in groups.values() for name in members):
            check_fits(perturbation, network.layers[name], strengths[perturbation.name])
    code = SweepCode(network, perturbations, metrics)
    return Specification(
        network=network.name,
        preprocessing=json.dumps(network.preprocessing.to_json(), sort_keys=True),
        parameters=fingerprint(network.params),
        data=images.name,
        data_fingerprint=images.fingerprint(report),
        images=len(images),
        block=int(block),
        layers=tuple(groups.items()),
        strengths=tuple((name, tuple(map(_plain, s))) for name, s in strengths.items()),
        import_paths=tuple((p.name, p.import_path) for p in perturbations if p.import_path),
        sampling=sampling,
        root=int(root),
        metrics=tuple(
            (each.name, each.share, each.finite, each.bins)
            for each in (*always(), *metrics.values())
        ),
        precision=precision,
        keep=keep,
        code=code.on(groups.items(), strengths),
    )


def _plain(strength: Decimal) -> str:
    """One notation for equal numbers: 0.20 is 0.2."""
    return format(strength.normalize() + 0, "f")


def _check_metric(name: str, metric: Metric, classes: int) -> None:
    taken = (*_TAKEN, *(each.name for each in always()))
    if name in taken or name.startswith(("clean_", CONTROL, NONFINITE)):
        raise SpecificationError(f"metric {name!r}: that name is taken; choose another")
    arguments = metric_arguments(classes)
    wanted = (*arguments[1].shape, *([metric.bins] if metric.bins else []))
    try:
        found = jax.eval_shape(metric.function, *arguments)
    except (TypeError, ValueError) as error:
        raise SpecificationError(f"metric {name!r} failed: {first_line(error)}") from error
    numbers = f"{metric.bins} real numbers" if metric.bins else "one real number"
    if getattr(found, "shape", None) != wanted or jnp.iscomplexobj(found):
        raise SpecificationError(
            f"metric {name!r} gave {found} for {wanted[0]} images: {numbers} per image, "
            f"shape {wanted}, {'are' if metric.bins else 'is'} needed"
        )
    if metric.share and found.dtype != bool:
        raise SpecificationError(
            f"metric {name!r} is a share of the images, but gave {found.dtype}: true or false is "
            "needed"
        )
