"""Splitting a network into the part that damage cannot reach and the part that it can.

Every equation of the traced network belongs to one of three classes: it depends on parameters
only (`shared`, computed once per network), on the images but on no damaged leaf (`prefix`, once
per batch of images), or on a damaged leaf (`suffix`, once per trial).

Where a damaged kernel enters one convolution or matrix product, the suffix is cut once more behind
it: the product is linear in the kernel, so trials that damage the kernel linearly share it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax

from jaxrobust.layers import leaf_paths
from jaxrobust.network import Network
from jaxrobust.products import Product, product_of
from jaxrobust.program.convolutions import faster, keeps_proportions
from jaxrobust.program.jaxprs import (
    Equation,
    Program,
    dependents,
    needed,
    operations,
    peak_bytes,
    rewrite,
    run,
    size_in_bytes,
)
from jaxrobust.program.rounding import PrecisionMode, rounded

if TYPE_CHECKING:
    from jaxtyping import Array, Float


_EXPANSIONS = ("broadcast_in_dim", "iota", "reshape", "squeeze", "expand_dims")


@dataclass(frozen=True, eq=False)
class Split:
    """A network cut at the leaves that are damaged, for one batch size.

    The three methods are pure and meant to be jitted; composed they are the network:

        shared = split.shared(params)
        residuals = split.prefix(params, shared, images)
        logits = split.suffix({path: leaf}, params, shared, residuals)

    With a `product` the suffix can be run in two parts:

        product = split.multiply(kernel, params, shared, residuals)
        logits = split.suffix(other_leaves, params, shared, residuals, product)

    Attributes:
        program: the traced network.
        paths: the path of every parameter leaf.
        damaged: paths of the damaged leaves.
        derived: variables that depend on parameters only, or on nothing (arrays that the network's
            function closes over), and cross into prefix or suffix.
        residuals: variables that depend on images and that the suffix reads.
        shared_equations, prefix_equations, suffix_equations: the three classes; cheap expansions
            of parameters are made where they are read, and so can stand in two of them.
        product: the product that the only damaged kernel enters, if there is one.
        exact: the suffix computes what the network itself does; False if a convolution in it is
            computed in a way that is only accurate where no number is far greater than the others.
    """

    program: Program
    paths: tuple[str, ...]
    damaged: tuple[str, ...]
    derived: tuple[int, ...]
    residuals: tuple[int, ...]
    shared_equations: tuple[Equation, ...]
    prefix_equations: tuple[Equation, ...]
    suffix_equations: tuple[Equation, ...]
    product: Product | None
    exact: bool = True

    @cached_property
    def _variables(self) -> dict[str, int]:
        return dict(zip(self.paths, self.program.parameters, strict=True))

    def _parameters(self, params: Any) -> dict[int, Any]:
        return dict(zip(self.program.parameters, jax.tree.leaves(params), strict=True))

    def shared(self, params: Any) -> list[Array]:
        """What prefix and suffix need and depends on parameters only."""
        values = self._parameters(params) | self.program.constants
        return run(self.shared_equations, values, self.derived)

    def prefix(
        self, params: Any, shared: list[Array], images: Float[Array, "images h w c"]
    ) -> list[Array]:
        """What the suffix reads of the undamaged network's values on these images."""
        values = self._parameters(params) | dict(zip(self.derived, shared, strict=True))
        values[self.program.images] = images
        return run(self.prefix_equations, values, self.residuals)

    def multiply(
        self, kernel: Array | None, params: Any, shared: list[Array], residuals: list[Array]
    ) -> Array:
        """The product of what reaches the layer with a kernel (None: the undamaged one).

        It is linear in the kernel.
        """
        product = self._product
        values = self._undamaged(params, shared, residuals)
        if kernel is not None:
            values[self._variables[product.kernel]] = kernel
        return run(product.equations, values, [product.output])[0]

    def suffix(
        self,
        damaged: Mapping[str, Array],
        params: Any,
        shared: list[Array],
        residuals: list[Array],
        product: Array | None = None,
    ) -> Float[Array, "images classes"]:
        """The logits with the damaged leaves in place.

        Args:
            damaged: the damaged leaves by path, without the kernel where `product` is given.
            params, shared, residuals: of the undamaged network.
            product: what `multiply` gave for the damaged kernel.
        """
        values = self._undamaged(params, shared, residuals)
        values |= {self._variables[path]: leaf for path, leaf in damaged.items()}
        equations = self.suffix_equations
        if product is not None:
            values[self._product.output] = product
            done = set(map(id, self._product.equations))
            equations = [equation for equation in equations if id(equation) not in done]
        return run(equations, values, [self.program.output])[0]

    def whole(
        self, params: Any, images: Float[Array, "images h w c"]
    ) -> Float[Array, "images classes"]:
        """The logits of the undamaged network."""
        values = self._parameters(params) | self.program.constants | {self.program.images: images}
        return run(self.program.equations, values, [self.program.output])[0]

    @property
    def kernel(self) -> str:
        """The path of the kernel that enters the product."""
        return self._product.kernel

    @property
    def unit_axis(self) -> int:
        """The axis of the product that counts the kernel's output units."""
        return self._product.unit_axis

    @property
    def _product(self) -> Product:
        if self.product is None:
            raise ValueError("no damaged kernel enters exactly one product")
        return self.product

    def _undamaged(
        self, params: Any, shared: list[Array], residuals: list[Array]
    ) -> dict[int, Array]:
        values = self._parameters(params) | dict(zip(self.derived, shared, strict=True))
        return values | dict(zip(self.residuals, residuals, strict=True))

    @property
    def product_bytes(self) -> int:
        """Bytes of the product for one batch, 0 without one."""
        return size_in_bytes(self.program.shapes[self.product.output]) if self.product else 0

    @property
    def product_operations(self) -> int:
        """Floating-point operations of the product on one batch, 0 without one."""
        return operations(self.product.equations, self.program.shapes) if self.product else 0

    @property
    def residual_bytes(self) -> int:
        """Bytes of the residuals of one batch."""
        return sum(size_in_bytes(self.program.shapes[v]) for v in self.residuals)

    @property
    def suffix_peak_bytes(self) -> int:
        """An upper estimate of the bytes of the suffix's intermediate values, per trial."""
        given = {*self.program.parameters, *self.derived, *self.residuals}
        shapes, output = self.program.shapes, self.program.output
        return peak_bytes(self.suffix_equations, shapes, given, [output])

    @property
    def prefix_peak_bytes(self) -> int:
        """An upper estimate of the bytes of images and intermediate values of the prefix."""
        given = {*self.program.parameters, *self.derived, self.program.images}
        shapes = self.program.shapes
        images = size_in_bytes(shapes[self.program.images])
        return images + peak_bytes(self.prefix_equations, shapes, given, self.residuals)

    @property
    def suffix_operations(self) -> int:
        """Floating-point operations of the suffix on one batch, per trial."""
        return operations(self.suffix_equations, self.program.shapes)

    @property
    def prefix_operations(self) -> int:
        """Floating-point operations of the prefix on one batch."""
        return operations(self.prefix_equations, self.program.shapes)


def split(
    network: Network,
    damaged: Collection[str],
    images: int,
    *,
    hoist: bool = True,
    reformulate: bool | None = None,
    precision: PrecisionMode = "float32",
) -> Split:
    """Splits a network for damage to some of its leaves.

    Args:
        network: any network; chains, skip connections and branches split alike.
        damaged: paths of the leaves that will be damaged.
        images: the batch size for which the parts are made.
        hoist: False puts everything that depends on images into the suffix: the plain forward
            pass, to compare with.
        reformulate: whether convolutions are computed in the ways that are faster on a CPU, as far
            as the network keeps their errors small; by default on a CPU, unless `hoist` is False or
            numbers are rounded.
        precision: what the operands of convolutions and matrix products are rounded to. Rounded
            ones are not linear in the kernel, so that no product is shared.
    """
    program = network.program(images)
    paths = tuple(leaf_paths(network.params))
    variables = dict(zip(paths, program.parameters, strict=True))
    exact = hoist and precision == "float32"
    product = product_of(network, damaged, variables, program) if exact else None
    if reformulate is None:
        reformulate = exact and jax.default_backend() == "cpu"
    traced, inexact = program, set()
    tame = reformulate and keeps_proportions(program)

    def instead(equation: Equation) -> Callable[..., Any] | None:
        if not reformulate:
            return rounded(equation, traced, precision)
        formulation = faster(equation, traced)
        if formulation is None or not (formulation.exact or tame):
            return None
        if not formulation.exact:
            inexact.update(equation.outputs)
        return formulation.compute

    program, written = rewrite(traced, instead)
    equations = program.equations

    touched = {variables[path] for path in damaged}
    if not hoist:
        touched.add(program.images)
    in_suffix = dependents(equations, touched)
    if product:
        product = product.written_as(written, in_suffix)
    from_images = dependents(equations, [program.images]) - in_suffix

    suffix = [e for e in equations if in_suffix.intersection(e.outputs)]
    suffix, read = _with_expansions(program, suffix, in_suffix | from_images)
    residuals = {v for v in (*read, program.output) if v in from_images}
    if not hoist:
        residuals.add(program.images)
    prefix = needed([e for e in equations if from_images.intersection(e.outputs)], residuals)
    prefix, read_before = _with_expansions(program, prefix, in_suffix | from_images)

    given = {*program.parameters, *in_suffix, *from_images}
    derived = sorted({*read, *read_before} - given)
    return Split(
        program=program,
        paths=paths,
        damaged=tuple(damaged),
        derived=tuple(derived),
        residuals=tuple(sorted(residuals)),
        shared_equations=needed(equations, derived),
        prefix_equations=tuple(prefix),
        suffix_equations=tuple(suffix),
        product=product,
        exact=inexact.isdisjoint(in_suffix),
    )


def _with_expansions(
    program: Program, chosen: Iterable[Equation], outside: Collection[int]
) -> tuple[list[Equation], set[int]]:
    """Adds the equations that only lay parameters out anew, and collects what is then read.

    A broadcast bias is larger than what it is made of, and a reshaped one is a copy: both are made
    again where they are read rather than stored.
    """
    makers = {v: e for e in program.equations for v in e.outputs}
    keep = {id(equation) for equation in chosen}
    read = {v for equation in chosen for v in equation.reads}
    pending = list(read)
    while pending:
        variable = pending.pop()
        maker = makers.get(variable)
        if maker is None or variable in outside or id(maker) in keep:
            continue
        if maker.primitive in _EXPANSIONS:
            keep.add(id(maker))
            pending += set(maker.reads) - read
            read.update(maker.reads)
    made = {v for e in program.equations if id(e) in keep for v in e.outputs}
    return [e for e in program.equations if id(e) in keep], read - made
