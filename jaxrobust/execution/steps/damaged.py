"""What damage to some leaves makes of the network behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxrobust.execution.steps.chain import Chain, Images
from jaxrobust.execution.steps.programs import Shared, piece_program, sharing_program
from jaxrobust.perturbations.linear import Affine, PerUnit
from jaxrobust.program.route import Route
from jaxrobust.program.segments import Piece

if TYPE_CHECKING:
    from jaxtyping import Array

Values = Mapping[int, Any]


class Damaged:
    """A network with damage to some of its leaves, several trials at a time.

    Args:
        chain: the network.
        route: what the damage reaches.
        single: a device runs one trial at a time, on its own.
        shares: some trials share the product of the undamaged kernel.

    Attributes:
        chain, route, single, shares: see above.
    """

    def __init__(self, chain: Chain, route: Route, *, single: bool, shares: bool) -> None:
        self.chain, self.route, self.single, self.shares = chain, route, single, shares

    def undamaged(self, images: Images, keep: bool) -> dict[int, Array]:
        """What trials read of the undamaged network, and the product that they may share.

        Args:
            images: of one step.
            keep: as for `Chain.undamaged`.
        """
        product = [self.route.the_product.output] if self.shares else []
        return self.chain.undamaged(images, [*self.route.residuals, *product], keep)

    def multiply(self, kernels: Array, undamaged: Values) -> Array:
        """What reaches the layer times each kernel.

        Args:
            kernels: [trials, …], or the directions in which they are damaged.
            undamaged: what trials read.

        Returns:
            [devices, trials, …], in the single case [devices, …].
        """
        piece = self.route.multiply
        own = {self._variable(self.route.the_product.kernel): kernels}
        return self._run(piece, own, undamaged, frozenset())[0][piece.makes[0]]

    def logits(self, leaves: Mapping[str, Array], undamaged: Values, products: Any) -> Any:
        """Those of trials that share nothing.

        Args:
            leaves: path -> damaged leaf [trials, …], without a kernel that was multiplied.
            undamaged: what trials read.
            products: of each trial's kernel; None where there is no such product.

        Returns:
            [devices, trials, images, classes], and whether the trials' axis is there.
        """
        values, behind = dict(undamaged), set()
        if products is not None:
            output = self.route.the_product.output
            values[output] = products
            behind |= set() if self.single else {output}
        return self._rest(self.route.pieces, leaves, values, behind)

    def logits_of_shared(
        self,
        acts: Affine | PerUnit,
        leaves: Mapping[str, Array],
        undamaged: Values,
        shared: Shared,
    ) -> tuple[Any, Any]:
        """Those of trials whose product follows from the undamaged kernel's.

        Args:
            acts: how.
            leaves: path -> damaged leaf [trials, …], without the kernel.
            undamaged: what trials read, and the product.
            shared: what each trial's product follows from.

        Returns:
            As `logits`, and whether trials are strange, [devices, trials].
        """
        product = self.route.the_product
        values, behind = dict(undamaged), set()
        pieces, odd = [], None
        for piece in self.route.pieces:
            if product.output not in piece.reads:
                pieces.append(piece)
                continue
            given, own = self._given(piece, self._by_variable(leaves))
            place = piece.reads.index(product.output)
            program = sharing_program(
                piece, own, acts, place, product.unit_axis, self.single, self.chain.mesh
            )
            made, odd = program(given, [values[v] for v in piece.reads], shared)
            values |= zip(piece.makes, made, strict=True)
            behind |= set() if self.single else set(piece.makes)
        return self._rest(pieces, leaves, values, behind), odd

    def _rest(
        self,
        pieces: Any,
        leaves: Mapping[str, Array],
        values: dict[int, Any],
        behind: set[int],
    ) -> Any:
        own = self._by_variable(leaves)
        output = self.chain.cut.program.output
        last = {v: n for n, piece in enumerate(pieces) for v in piece.reads if v != output}
        for number, piece in enumerate(pieces):
            made, per_trial = self._run(piece, own, values, behind)
            values |= made
            behind |= set(made) if per_trial else set()
            for variable in piece.reads:
                if last.get(variable) == number:
                    del values[variable]
        return values[output], output in behind

    def _run(
        self, piece: Piece, own: Values, values: Values, behind: Any
    ) -> tuple[dict[int, Any], bool]:
        """What a piece makes, and whether that is [devices, trials, …]."""
        given, damaged = self._given(piece, own)
        reads = tuple(v in behind for v in piece.reads)
        program = piece_program(piece, damaged, reads, self.chain.mesh)
        made = program(given, [values[v] for v in piece.reads])
        per_trial = any((*damaged, *reads))
        return dict(zip(piece.makes, made, strict=True)), per_trial

    def _given(self, piece: Piece, own: Values) -> tuple[list[Any], tuple[bool, ...]]:
        """What a piece takes of the parameters, and of which each trial has its own."""
        reached = self.route.reached
        given = self.chain.given(piece, reached, own, self.single)
        return given, tuple(v in reached and not self.single for v in piece.given)

    def _by_variable(self, leaves: Mapping[str, Array]) -> dict[int, Array]:
        return {self._variable(path): leaf for path, leaf in leaves.items()}

    def _variable(self, path: str) -> int:
        return self.chain.cut.program.variables[path]
