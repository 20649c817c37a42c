"""A network on its devices, run piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust.execution.job import Job
from jaxrobust.execution.routes import route_of
from jaxrobust.execution.steps.programs import derivation_program, piece_program
from jaxrobust.program.jaxprs import needed
from jaxrobust.program.route import Route
from jaxrobust.program.segments import Cut, Piece
from jaxrobust.runtime.meshes import IMAGES, divided, shared_by_trials

if TYPE_CHECKING:
    from jaxtyping import Array

Images = tuple[int, int]
"""The first of some consecutive images, and where those that are counted end."""


class Chains:
    """A sweep's network on its devices, cut for one or another number of images.

    Args:
        job: the sweep; its parameters are on all devices.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._chains: dict[tuple[Cut, Mesh], Chain] = {}
        self._leaves: dict[Mesh, list[Array]] = {}

    def route(
        self, touched: Sequence[str], images: int, *, segmented: bool, reformulate: bool
    ) -> Route:
        """What damage to some leaves reaches, for a number of images on each device.

        Args:
            touched: paths of the leaves.
            images: on one device in one step.
            segmented: as for `route_of`.
            reformulate: whether convolutions are computed in faster ways.
        """
        options = self._job.options
        return route_of(
            self._job.network,
            touched,
            images,
            platform=self._job.machine.platform,
            segmented=segmented,
            hoist=options.hoist,
            share=options.share,
            reformulate=reformulate,
            precision=self._job.spec.precision,
        )

    def chain(self, cut: Cut, mesh: Mesh) -> Chain:
        """The network on a mesh."""
        if (cut, mesh) not in self._chains:
            if mesh not in self._leaves:
                leaves = jax.tree.leaves(self._job.network.params)
                self._leaves[mesh] = shared_by_trials(leaves, mesh)
            self._chains[cut, mesh] = Chain(cut, self._leaves[mesh], mesh, self._inputs)
        return self._chains[cut, mesh]

    def _inputs(self, images: Images, size: int, mesh: Mesh) -> Array:
        parts = mesh.shape["image"]
        index = np.minimum(
            np.arange(images[0], images[0] + size * parts), len(self._job.images.labels) - 1
        )
        inputs = self._job.images.inputs(self._job.network, index, parts)
        return divided(inputs, mesh, IMAGES)


class Chain:
    """A network that is cut into segments, on a mesh.

    Args:
        cut: the network, for the images of one device in one step.
        leaves: of its parameters, as `shared_by_trials` gives them.
        mesh: the devices.
        inputs_of: gives the inputs for some images, so many on each device of a mesh; None for a
            chain that only gives logits.
    """

    def __init__(
        self,
        cut: Cut,
        leaves: Sequence[Array],
        mesh: Mesh,
        inputs_of: Callable[[Images, int, Mesh], Array] | None = None,
    ) -> None:
        self.cut, self.mesh, self._inputs_of = cut, mesh, inputs_of
        constants = cut.program.constants
        shared = shared_by_trials(list(constants.values()), mesh)
        self._leaves = {
            **dict(zip(cut.program.parameters, leaves, strict=True)),
            **dict(zip(constants, shared, strict=True)),
        }
        self._size = cut.program.shapes[cut.program.images].shape[0]
        self._derived: dict[int, Any] = {}
        self._held: dict[Images, dict[int, Array]] = {}
        self._heads: dict[tuple[int, ...], Piece] = {}
        self._lock = Lock()

    def given(
        self,
        piece: Piece,
        reached: Collection[int] = (),
        own: Mapping[int, Any] = MappingProxyType({}),
        single: bool = False,
    ) -> list[Any]:
        """What a piece takes that does not depend on the images, each [trials, …] or [1, …].

        Args:
            piece: of this network.
            reached: the variables that damage reaches.
            own: damaged leaves by variable, [trials, …].
            single: there is one trial, whose leaves are [1, …] as those that trials share.
        """
        damaged = [v for v in piece.given if v in reached]
        made = dict(zip(damaged, self._derive(damaged, own, single), strict=True))
        lacking = [v for v in piece.given if v not in reached and v not in self._derived]
        if lacking:
            self._derived |= zip(lacking, self._derive(lacking, {}, True), strict=True)
        return [made[v] if v in made else self._derived[v] for v in piece.given]

    def _derive(self, wanted: Sequence[int], own: Mapping[int, Any], single: bool) -> list[Any]:
        if all(v in own or v in self._leaves for v in wanted):
            return [own[v] if v in own else self._leaves[v] for v in wanted]
        piece = self.cut.derivation(wanted)
        values = [own[v] if v in own else self._leaves[v] for v in piece.given]
        flags = tuple(v in own and not single for v in piece.given)
        program = derivation_program(piece, flags, self.mesh)
        return program(*values)

    def run(self, piece: Piece, values: Mapping[int, Array]) -> dict[int, Array]:
        """What a piece of the undamaged network makes."""
        none = (False,) * len(piece.given), (False,) * len(piece.reads)
        program = piece_program(piece, *none, self.mesh)
        made = program(self.given(piece), [values[v] for v in piece.reads])
        return dict(zip(piece.makes, made, strict=True))

    def logits(self, inputs: Array) -> Array:
        """Those of the undamaged network, [devices, images, classes]."""
        values = {self.cut.program.images: inputs}
        for number, piece in enumerate(self.cut.segments):
            values |= self.run(piece, values)
            values = {v: x for v, x in values.items() if self._is_read_behind(v, number)}
        return values[self.cut.program.output]

    def _is_read_behind(self, variable: int, number: int) -> bool:
        return variable == self.cut.program.output or self.cut.last_reader(variable) > number

    def undamaged(self, images: Images, wanted: Sequence[int], keep: bool) -> dict[int, Array]:
        """Variables of the undamaged network for some images.

        Args:
            images: of one step.
            wanted: variables that depend on them.
            keep: what a damaged layer further on needs is held, so that it goes on from there.
        """
        with self._lock:
            values = dict(self._held.get(images, {}))
        first = min((self.cut.maker.get(v, 0) for v in wanted), default=0)
        inner: dict[int, list[int]] = {}
        for variable in wanted:
            if variable in self.cut.maker:
                inner.setdefault(self.cut.maker[variable], []).append(variable)
        for number in sorted(inner):
            self._make(values, images, number, inner[number])
        found = {v: self._value(values, images, v) for v in wanted}
        if keep:
            held = {v: x for v, x in values.items() if self._goes_on(v, first)}
            with self._lock:
                self._held[images] = held
        return found

    def _goes_on(self, variable: int, first: int) -> bool:
        before = self.cut.maker.get(variable, -1) < first
        return before and self.cut.last_reader(variable) >= first

    def _make(
        self, values: dict[int, Array], images: Images, number: int, wanted: Sequence[int]
    ) -> None:
        """Runs what is needed of a segment, and before it what that needs."""
        wanted = [v for v in wanted if v not in values]
        if not wanted:
            return
        piece = self._head(number, wanted)
        for variable in piece.reads:
            self._value(values, images, variable)
        values |= self.run(piece, values)

    def _value(self, values: dict[int, Array], images: Images, variable: int) -> Array:
        if variable not in values:
            if variable == self.cut.program.images:
                if self._inputs_of is None:
                    raise ValueError("a chain without inputs runs on those that it is given")
                values[variable] = self._inputs_of(images, self._size, self.mesh)
            else:
                number = self.cut.maker[variable]
                self._make(values, images, number, self.cut.segments[number].makes)
        return values[variable]

    def _head(self, number: int, wanted: Sequence[int]) -> Piece:
        whole, group = self.cut.segments[number], self.cut.groups[number]
        if tuple(wanted) == whole.makes:
            return whole
        key = (number, *wanted)
        if key not in self._heads:
            self._heads[key] = self.cut.piece(needed(group, wanted), wanted)
        return self._heads[key]
