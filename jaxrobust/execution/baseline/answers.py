"""The undamaged network's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.design.specification import Keep, Metric
from jaxrobust.execution.baseline.checks import check_metrics, check_network
from jaxrobust.execution.baseline.forward import Forward
from jaxrobust.execution.baseline.plausible import warnings_of
from jaxrobust.execution.images import Images
from jaxrobust.execution.plan import images_per_step
from jaxrobust.execution.routes import route_of
from jaxrobust.execution.steps.programs import STRANGE, Scoring
from jaxrobust.network import Network
from jaxrobust.program.rounding import PrecisionMode
from jaxrobust.runtime.machine import Machine
from jaxrobust.runtime.meshes import mesh_of

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Baseline:
    """The undamaged network's answers, on the host.

    Attributes:
        logits: float32 [images, classes].
        sums: quantity -> [blocks] or [blocks, bytes], as in `State.clean`.
        ordinary: faster ways of computing it give what the definition gives.
        warnings: what is suspicious about the logits.
    """

    logits: Float[np.ndarray, "images classes"]
    sums: dict[str, np.ndarray]
    ordinary: bool
    warnings: tuple[str, ...] = ()


def run_baseline(
    network: Network,
    images: Images,
    block: int,
    machine: Machine,
    *,
    segmented: bool,
    metrics: Sequence[Metric],
    keep: Keep = "counts",
    precision: PrecisionMode = "float32",
) -> Baseline:
    """Runs the undamaged network once over all images.

    Args:
        network, images: what is evaluated.
        block: consecutive images that are counted together.
        machine: on whose first device it runs.
        segmented: as for `route_of`.
        metrics: what is measured of each image.
        keep: of the specification.
        precision: of matrix products and convolutions.

    Raises:
        SpecificationError: what the network or a metric says of an image depends on the images
            beside it or on its place.
    """
    count = len(images.labels)
    whole = route_of(network, (), block, platform=machine.platform, precision=precision)
    size = images_per_step(whole, block, images=count, machine=machine)
    forward = Forward(network, size, machine.devices[0], segmented, precision)
    mesh = mesh_of(machine.devices[:1], 1)
    sums_of = Scoring(size, 1, block=block, metrics=metrics, keep=keep, mesh=mesh)

    rows = []
    sums: dict[str, np.ndarray] = {}
    for start in range(0, count, size):
        batch = images.batch(start, size, block)
        inputs = images.inputs(network, batch.index, 1)
        logits = forward(inputs)
        rows.append(logits)
        if start == 0:
            check_network(network.name, forward.by_definition, inputs, rows[0], precision)
            check_metrics(metrics, rows[0], batch.labels)
        scoring = (batch.labels, batch.present, logits, batch.place_of)
        found = sums_of((logits[None], False), {}, None, None, scoring)
        del found[STRANGE]
        for name, of_one_trial in found.items():
            values = np.asarray(of_one_trial)[0]
            kind = np.float64 if values.dtype == np.float32 else values.dtype
            nothing = np.zeros((-(-count // block), *values.shape[1:]), kind)
            own = sums.setdefault(name, nothing)[batch.first_block :]
            with np.errstate(invalid="ignore"):  # infinities of both signs add up to NaN
                own[: len(values)] += values[: len(own)]
    answers = np.concatenate(rows)[:count]
    warnings = warnings_of(network.name, answers, images.labels)
    return Baseline(answers, sums, forward.ordinary, warnings)
