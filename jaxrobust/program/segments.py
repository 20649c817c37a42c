"""A traced network cut into segments, each of which is compiled on its own.

A segment begins with a layer's convolution or matrix product (or with a loop) and takes what
follows from it alone: bias, normalisation, non-linearity, pooling. What joins several branches
belongs to the segment of one of them if the others' damage reaches that one as well, as at the end
of a residual block, and is a segment of its own otherwise. So whatever is damaged before a segment
reaches all of it or nothing.

A segment takes what depends on parameters as arguments. Two segments that compute the same, as in
repeated blocks, have the same digest and share one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxrobust.program.convolutions import faster, keeps_proportions
from jaxrobust.program.digests import digest_of_equations
from jaxrobust.program.jaxprs import Equation, Program, dependents, rewrite, run
from jaxrobust.program.rounding import PrecisionMode, rounded

_PRODUCTS = ("conv_general_dilated", "dot_general")
_LOOPS = ("scan", "while", "cond")
_EXPANSIONS = ("broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims")


@dataclass(frozen=True, eq=False)
class Piece:
    """Some equations of a program as a function; pieces that compute the same are equal.

    Attributes:
        equations: in order of execution.
        given: the variables that do not depend on the images: arguments.
        reads: the variables that depend on the images: further arguments.
        makes: the variables that it returns.
        digest: of what it computes of its arguments.
    """

    equations: tuple[Equation, ...]
    given: tuple[int, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    digest: str

    def __call__(self, given: Sequence[Any], reads: Sequence[Any]) -> list[Any]:
        """The values of `makes`; pure, meant to be compiled."""
        values = dict(zip(self.given, given, strict=True))
        values |= zip(self.reads, reads, strict=True)
        return run(self.equations, values, self.makes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Piece) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, eq=False)
class Cut:
    """A network cut into segments, for one batch size.

    Attributes:
        program: the traced network, with other ways to compute some of its convolutions.
        written: the equations that stand in the place of others, by the `id` of these.
        inexact: variables of convolutions that are computed in a way that is only accurate where
            no number is far greater than the others.
        groups: the equations of each segment that depend on the images.
    """

    program: Program
    written: Mapping[int, tuple[Equation, ...]]
    inexact: frozenset[int]
    groups: tuple[tuple[Equation, ...], ...]

    @cached_property
    def from_images(self) -> set[int]:
        """The variables that depend on the images, and the images."""
        return dependents(self.program.equations, [self.program.images])

    @cached_property
    def segments(self) -> tuple[Piece, ...]:
        """Whole segments, each behind those that it reads from."""
        return tuple(self.piece(group, self.wanted_of(group)) for group in self.groups)

    @cached_property
    def maker(self) -> dict[int, int]:
        """For each variable that depends on the images the index of the segment that makes it."""
        return {v: n for n, group in enumerate(self.groups) for e in group for v in e.outputs}

    @cached_property
    def _readers(self) -> dict[int, set[int]]:
        readers: dict[int, set[int]] = {self.program.output: {-1}}
        for number, group in enumerate(self.groups):
            for variable in (v for equation in group for v in equation.reads):
                readers.setdefault(variable, set()).add(number)
        return readers

    def wanted_of(self, group: Iterable[Equation]) -> tuple[int, ...]:
        """The variables of a segment that others read, or that are the output."""
        made = [v for equation in group for v in equation.outputs]
        return tuple(v for v in made if self._readers.get(v, set()) - {self.maker[v]})

    def last_reader(self, variable: int) -> int:
        """The index of the last segment that reads a variable; -1 if none does."""
        return max(self._readers.get(variable, {-1}))

    def piece(self, equations: Iterable[Equation], wanted: Sequence[int]) -> Piece:
        """Equations that depend on the images, or on what is damaged, as a piece of their own.

        A broadcast bias is larger than what it is made of, and a reshaped one is a copy: what only
        lays parameters out anew is made where it is read.

        Args:
            equations: in order of execution.
            wanted: variables that they make.
        """
        body, placed = [], {id(equation) for equation in equations}
        inside = {v for equation in equations for v in equation.outputs}
        makers = self._expansions

        def place(variable: int) -> None:
            maker = makers.get(variable)
            if maker is None or id(maker) in placed or variable in inside:
                return
            placed.add(id(maker))
            for each in maker.reads:
                place(each)
            body.append(maker)

        for equation in equations:
            for variable in equation.reads:
                place(variable)
            body.append(equation)
        inside |= {v for equation in body for v in equation.outputs}
        outer = list(dict.fromkeys(v for e in body for v in e.reads if v not in inside))
        return self._piece(
            body,
            [v for v in outer if v not in self.from_images],
            [v for v in outer if v in self.from_images],
            wanted,
        )

    def passing(self, variable: int) -> Piece:
        """A piece that returns what it reads."""
        return self._piece([], [], [variable], [variable])

    def derivation(self, wanted: Sequence[int]) -> Piece:
        """What makes variables that depend on parameters only, of parameters and constants."""
        makers = {v: e for e in self.program.equations for v in e.outputs}
        body: list[Equation] = []
        placed: set[int] = set()

        def place(variable: int) -> None:
            maker = makers.get(variable)
            if maker is None or id(maker) in placed:
                return
            placed.add(id(maker))
            for each in maker.reads:
                place(each)
            body.append(maker)

        for variable in wanted:
            place(variable)
        inside = {v for equation in body for v in equation.outputs}
        outer = dict.fromkeys(v for e in body for v in e.reads if v not in inside)
        outer |= dict.fromkeys(v for v in wanted if v not in inside)
        return self._piece(body, list(outer), [], wanted)

    def _piece(
        self,
        body: Sequence[Equation],
        given: Sequence[int],
        reads: Sequence[int],
        wanted: Sequence[int],
    ) -> Piece:
        inputs = (*given, *reads)
        digest = digest_of_equations(body, self.program.shapes, inputs, wanted, len(given))
        return Piece(tuple(body), tuple(given), tuple(reads), tuple(wanted), digest)

    @cached_property
    def _expansions(self) -> dict[int, Equation]:
        """The equations that only lay out anew what does not depend on the images, by variable."""
        return {
            v: e
            for e in self.program.equations
            for v in e.outputs
            if e.primitive in _EXPANSIONS and v not in self.from_images
        }


def cut(
    traced: Program,
    *,
    segmented: bool,
    reformulate: bool,
    precision: PrecisionMode,
    platform: str,
) -> Cut:
    """Cuts a traced network into segments.

    Args:
        traced: any network.
        segmented: False leaves it in one piece, which is a single segment.
        reformulate: whether convolutions are computed in the ways that are faster on a CPU, as far
            as the network keeps their errors small; not where numbers are rounded.
        precision: what the operands of convolutions and matrix products are rounded to.
        platform: what it will run on: "cpu", "gpu" or "tpu".
    """
    reformulate = reformulate and precision == "float32"
    tame, inexact = reformulate and keeps_proportions(traced), set()

    def instead(equation: Equation) -> Callable[..., Any] | None:
        if not reformulate:
            return rounded(equation, traced, precision, platform)
        formulation = faster(equation, traced)
        if formulation is None or not (formulation.exact or tame):
            return None
        if not formulation.exact:
            inexact.update(equation.outputs)
        return formulation.compute

    program, written = rewrite(traced, instead)
    from_images = dependents(program.equations, [program.images])
    groups = [
        tuple(
            new
            for old in group
            for new in written.get(id(old), (old,))
            if from_images.intersection(new.outputs)
        )
        for group in (_groups(traced) if segmented else [traced.equations])
    ]
    return Cut(program, written, frozenset(inexact), tuple(groups))


def _groups(program: Program) -> list[list[Equation]]:
    """The equations that depend on the images, by segment."""
    from_images = dependents(program.equations, [program.images])
    groups: list[list[Equation]] = []
    above: list[set[int]] = []  # the segments that each one depends on
    home: dict[int, int] = {}
    first: int | None = None  # of what is done to the images before any layer
    for equation in program.equations:
        if not from_images.intersection(equation.outputs):
            continue
        sources = {home[v] for v in equation.reads if v in home}
        begins = _begins_segment(equation, from_images)
        number = max(sources, default=-1 if first is None else first)
        if begins or number < 0 or not sources - {number} <= above[number]:
            number = len(groups)
            groups.append([])
            above.append(set(sources).union(*(above[source] for source in sources)))
            if not (sources or begins):
                first = number
        groups[number].append(equation)
        home |= dict.fromkeys(equation.outputs, number)
    return groups


def _begins_segment(equation: Equation, from_images: set[int]) -> bool:
    if equation.primitive in _LOOPS:
        return True
    return equation.primitive in _PRODUCTS and not from_images.issuperset(equation.reads)
