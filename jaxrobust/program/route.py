"""The way that damage takes through a network: what has to be run again for each trial."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from jaxrobust.program.jaxprs import (
    Equation,
    dependents,
    needed,
    operations,
    peak_bytes,
    size_in_bytes,
)
from jaxrobust.program.products import Product
from jaxrobust.program.segments import Cut, Piece


@dataclass(frozen=True, eq=False)
class Route:
    """What damage to some leaves reaches in a network that is cut into segments.

    Attributes:
        cut: the network.
        damaged: the variables of the damaged leaves, and the images where nothing is shared.
        product: the product that the only damaged kernel enters, where trials share it: it is
            given to the pieces. None where each trial computes its own.
    """

    cut: Cut
    damaged: frozenset[int]
    product: Product | None = None

    @cached_property
    def reached(self) -> set[int]:
        """The variables that depend on what is damaged."""
        return dependents(self.cut.program.equations, self.damaged)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What is run for each trial, one after the other: whole segments, but perhaps the first.

        Where the product is given, the pieces do not make it.
        """
        shared = set(map(id, self.product.equations)) if self.product else set()
        found = []
        for whole, group in zip(self.cut.segments, self.cut.groups, strict=True):
            own = [e for e in group if self.reached.intersection(e.outputs)]
            own = [e for e in own if id(e) not in shared]
            if len(own) == len(group):
                found.append(whole)
            elif own:
                made = {v for equation in own for v in equation.outputs}
                found.append(self.cut.piece(own, [v for v in whole.makes if v in made]))
        output = self.cut.program.output
        if self.product and self.product.output == output:
            found.append(self.cut.passing(output))
        return tuple(found)

    @cached_property
    def multiply(self) -> Piece:
        """The product of what reaches the layer with a kernel; linear in the kernel."""
        product, images = self.the_product, self.cut.from_images
        own = [e for e in product.equations if images.intersection(e.outputs)]
        return self.cut.piece(own, [product.output])

    @property
    def the_product(self) -> Product:
        """The product of a route that has one."""
        if self.product is None:
            raise ValueError("no damaged kernel enters exactly one product")
        return self.product

    @cached_property
    def residuals(self) -> tuple[int, ...]:
        """The undamaged network's variables that the trials read, but for the product."""
        pieces = (*self.pieces, *([self.multiply] if self.product else []))
        made = {v for piece in pieces for v in piece.makes}
        read = {v for piece in pieces for v in piece.reads} - made
        if self.cut.program.output not in self.reached:
            read.add(self.cut.program.output)
        return tuple(sorted(read))

    @cached_property
    def suffix_equations(self) -> tuple[Equation, ...]:
        """What is run for each trial that shares no product."""
        groups = self.cut.groups
        return tuple(e for group in groups for e in group if self.reached.intersection(e.outputs))

    @cached_property
    def prefix_equations(self) -> tuple[Equation, ...]:
        """What the undamaged network computes for the trials."""
        ends = set(self.residuals) - self.damaged
        return tuple(
            equation
            for equation in needed(self.cut.program.equations, ends)
            if self.cut.from_images.intersection(equation.outputs)
        )

    @property
    def exact(self) -> bool:
        """Whether the trials compute what the network itself does.

        Otherwise a convolution is computed in a way that is only accurate where no number is far
        greater than the others.
        """
        return self.cut.inexact.isdisjoint(self.reached)

    @property
    def product_bytes(self) -> int:
        """Bytes of the product for one batch, 0 without one."""
        return self._size([self.product.output]) if self.product else 0

    @property
    def product_operations(self) -> int:
        """Floating-point operations of the product on one batch, 0 without one."""
        shapes = self.cut.program.shapes
        return operations(self.product.equations, shapes) if self.product else 0

    @property
    def residual_bytes(self) -> int:
        """Bytes of the residuals of one batch."""
        return self._size(self.residuals)

    @property
    def suffix_peak_bytes(self) -> int:
        """An upper estimate of the bytes of one trial's intermediate values."""
        return self._peak(self.suffix_equations, [self.cut.program.output])

    @property
    def prefix_peak_bytes(self) -> int:
        """An upper estimate of the bytes of images and undamaged intermediate values."""
        images = self._size([self.cut.program.images])
        return images + self._peak(self.prefix_equations, self.residuals)

    @property
    def suffix_operations(self) -> int:
        """Floating-point operations of one trial on one batch."""
        return operations(self.suffix_equations, self.cut.program.shapes)

    @property
    def prefix_operations(self) -> int:
        """Floating-point operations of the undamaged network on one batch."""
        return operations(self.prefix_equations, self.cut.program.shapes)

    def _size(self, variables: Iterable[int]) -> int:
        return sum(size_in_bytes(self.cut.program.shapes[v]) for v in variables)

    def _peak(self, equations: tuple[Equation, ...], wanted: Collection[int]) -> int:
        made = {v for equation in equations for v in equation.outputs}
        given = {v for equation in equations for v in equation.reads} - made
        return peak_bytes(equations, self.cut.program.shapes, given, wanted)
