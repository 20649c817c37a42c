"""What is measured of each image, and the registry of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.ground.importing import imported

Function = Callable[[Any, Any, Any], Any]
"""`(logits [n, classes], labels [n], clean_logits [n, classes]) -> [n]` or `[n, bins]`."""


def _not_here(*_: Any) -> Any:
    raise SpecificationError("this metric is known from a result only: it cannot be computed")


@dataclass(frozen=True)
class Metric:
    """A number for each image, whose mean over the images is reported.

    Attributes:
        name: in results and on the command line.
        function: pure, traced by JAX: logits float32 [n, classes], labels int32 [n] and the
            undamaged network's logits [n, classes] to one number per image, [n]. An image's number
            depends on its own row alone.
        label: what tables and axes call it; by default its name as words.
        unit: "nats", or "" for a number without one.
        share: each image either counts or does not (the function gives booleans); the mean is a
            share of the images, shown in per cent.
        finite: only images with finite logits count, and the mean is over these; otherwise over
            all, and images for which the number itself is not finite are counted beside it.
        bins: 0, or how many numbers the function gives for each image, [n, bins]; reported is the
            sum of the absolute values of their means.
        chance: what guessing gets among a number of classes, if that can be said.
        best: whether damage lowers it ("high") or raises it ("low"); None if it may do either.
        low, high: between which values it can lie.
        import_path: of one that is not built in.
    """

    name: str
    function: Function = field(default=_not_here, hash=False)
    label: str = ""
    unit: str = ""
    share: bool = False
    finite: bool = False
    bins: int = 0
    chance: Callable[[int], float] | None = None
    best: Literal["high", "low"] | None = None
    low: float = -math.inf
    high: float = math.inf
    import_path: str | None = None

    def __post_init__(self) -> None:
        if self.share and self.bins:
            raise SpecificationError(f"metric {self.name!r}: a share of the images has no bins")
        if not self.label and isinstance(self.name, str):
            object.__setattr__(self, "label", self.name.replace("_", " "))

    @property
    def is_mean(self) -> bool:
        """Whether what is reported is a mean over images."""
        return not self.bins

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of the package's own."""
        return self.import_path is None and REGISTRY.get(self.name) is self

    @property
    def axis_label(self) -> str:
        """Label and unit."""
        return f"{self.label} in {self.unit}" if self.unit else self.label

    @property
    def first_line(self) -> str:
        """The first line of what its function says of itself."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def long_name(self) -> str:
        """What its sums over images are, for those who read a result's file."""
        what = "images that count for it" if self.share else "sum over images"
        return f"{self.axis_label}: {what}{' with finite logits' if self.finite else ''}"

    def in_words(self, value: float) -> str:
        """A value as text: shares in per cent, others to three digits.

        Example:
            >>> find("top1").in_words(0.125), find("loss").in_words(2.3456)
            ('12.5 %', '2.35')
        """
        if not self.share:
            return f"{value:.3g}"
        return "–" if math.isnan(value) else f"{100 * value:.1f} %"

    def with_interval(self, mean: float, low: float, high: float) -> str:
        """A mean with its interval, as far as the metric can go.

        Example:
            >>> top1 = find("top1")
            >>> top1.with_interval(0.427, -0.16, 1.02), top1.with_interval(0.5, math.nan, math.nan)
            ('42.7 % (0.0 to 100.0)', '50.0 %')
        """
        if math.isnan(low) or math.isnan(high):
            return self.in_words(mean)
        ends = [self.in_words(end) for end in (max(low, self.low), min(high, self.high))]
        return f"{self.in_words(mean)} ({' to '.join(end.removesuffix(' %') for end in ends)})"

    def half_width_in_words(self, half_width: float) -> str:
        """Half of an interval's width as text.

        Example:
            >>> find("top1").half_width_in_words(0.02), find("loss").half_width_in_words(0.1)
            ('±2 %', '±0.1 nats')
        """
        number, unit = (100 * half_width, "%") if self.share else (half_width, self.unit)
        return f"±{number:g} {unit}".rstrip()

    def to_attributes(self, classes: int) -> dict[str, Any]:
        """What a result says of it: numbers and text that netCDF can hold.

        Args:
            classes: of the network.
        """
        chance = {} if self.chance is None else {"chance": self.chance(classes)}
        ends = {"low": self.low, "high": self.high}
        return {
            "label": self.label,
            "unit": self.unit,
            "share": int(self.share),
            "finite": int(self.finite),
            "bins": self.bins,
            "long_name": self.long_name,
            "best": self.best or "",
            **{name: end for name, end in ends.items() if math.isfinite(end)},
            **chance,
        }

    @staticmethod
    def from_attributes(name: str, attributes: Mapping[str, Any]) -> Metric:
        """A metric as a result describes it, without its function.

        Args:
            name: in the result.
            attributes: of its variable; a result of version 0.1 says nothing of what is built in.
        """
        if "share" not in attributes:
            return next((each for each in always() if each.name == name), Metric(name))
        best: Any = attributes["best"] or None
        chance = attributes.get("chance")
        return Metric(
            name,
            label=attributes["label"],
            unit=attributes["unit"],
            share=bool(attributes["share"]),
            finite=bool(attributes["finite"]),
            bins=int(attributes["bins"]),
            chance=None if chance is None else lambda _: float(chance),
            best=best,
            low=float(attributes.get("low", -math.inf)),
            high=float(attributes.get("high", math.inf)),
        )


REGISTRY: dict[str, Metric] = {}
Wanted = str | Metric | Sequence[str | Metric] | Mapping[str, Function | str | Metric] | None
"""What names the metrics of a sweep."""


def metric(name: str, **options: Any) -> Callable[[Function], Metric]:
    """Registers a metric; decorates its function.

    Args:
        name: its name in the registry, on the command line and in results.
        options: further fields of `Metric`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.metrics import REGISTRY, metric
        >>> @metric("greatest", label="greatest logit")
        ... def greatest(logits, labels, clean_logits):
        ...     "The greatest logit."
        ...     return jnp.max(logits, axis=1)
        >>> REGISTRY.pop("greatest").first_line
        'The greatest logit.'
    """

    def register(function: Function) -> Metric:
        built_in = function.__module__.startswith("jaxrobust.")
        if not built_in and name in REGISTRY and REGISTRY[name].import_path is None:
            raise SpecificationError(f"{name} is a built-in metric: choose another name")
        path = None if built_in else f"{function.__module__}:{function.__qualname__}"
        made = Metric(name, function, import_path=path, **options)
        REGISTRY[name] = made
        return made

    return register


def find(wanted: str | Metric) -> Metric:
    """A metric by its name in the registry or its import path `module:attribute`.

    What is found there may also be a function, whose name is the metric's.

    Raises:
        SpecificationError: nothing of that name.
    """
    if isinstance(wanted, Metric):
        return wanted
    if isinstance(wanted, str) and wanted in REGISTRY:
        return REGISTRY[wanted]
    if not isinstance(wanted, str):
        raise SpecificationError(f"metric {wanted!r:.80}: a name, a function or a Metric is needed")
    if not all(wanted.partition(":")):
        raise SpecificationError(
            unknown("metric", wanted, REGISTRY) + ", or the import path module:attribute"
        )
    found = imported("metric", wanted)
    if isinstance(found, Metric):
        return found
    if not callable(found):
        raise SpecificationError(
            f"{wanted!r} is a {type(found).__name__}, not a jaxrobust.Metric or a function"
        )
    return Metric(wanted.rpartition(":")[2].rpartition(".")[2], found, import_path=wanted)


def resolve(wanted: Wanted) -> dict[str, Metric]:
    """The metrics of a sweep by name, without those that are always counted.

    Args:
        wanted: names, import paths or `Metric` objects; or a mapping from names to functions.

    Raises:
        SpecificationError: an unknown one, one that is named twice, something else.
    """
    if wanted is None:
        return {}
    if isinstance(wanted, Mapping):
        named = [
            Metric(name, each) if callable(each) and not isinstance(each, Metric) else each
            for name, each in wanted.items()
        ]
        found = [find(each) for each in named]
        for name, each in zip(wanted, found, strict=True):
            if each.name != name:
                raise SpecificationError(f"metric {name!r} is called {each.name!r}: use one name")
    elif isinstance(wanted, str | Metric):
        found = [find(wanted)]
    elif isinstance(wanted, Sequence) and all(isinstance(each, str | Metric) for each in wanted):
        found = [find(each) for each in wanted]
    else:
        raise SpecificationError(
            f"metrics {wanted!r:.80}: a mapping from names to functions is needed, or names or "
            "jaxrobust.Metric objects"
        )
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise SpecificationError(f"a metric is named twice: {', '.join(names)}")
    return {each.name: each for each in found if each not in always()}


def always() -> list[Metric]:
    """The metrics that every sweep counts."""
    return [REGISTRY[name] for name in ("top1", "top5", "changed", "loss")]
