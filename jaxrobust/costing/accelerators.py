"""What accelerators can compute at most, by their makers' statements."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.program.rounding import PrecisionMode

EFFICIENCY = 0.2
"""The share of the peak that is assumed: a cautious figure that was not measured."""

# What JAX makes of one float32 product at full precision on a TPU, whose units take bfloat16.
_BFLOAT16_PASSES = 6


@dataclass(frozen=True)
class Accelerator:
    """A kind of device.

    Attributes:
        label: its name.
        peaks: operations per second in dense matrix products, by precision mode.
        memory: bytes.
    """

    label: str
    peaks: dict[PrecisionMode, float]
    memory: float


def _gpu(label: str, float32: float, tensorfloat32: float, bfloat16: float, memory: float):
    teras: dict[PrecisionMode, float] = {
        "float32": float32,
        "tensorfloat32": tensorfloat32,
        "bfloat16": bfloat16,
    }
    return Accelerator(label, {mode: rate * 1e12 for mode, rate in teras.items()}, memory * 1e9)


def _tpu(label: str, bfloat16: float, memory: float):
    full = bfloat16 / _BFLOAT16_PASSES
    return _gpu(label, full, full, bfloat16, memory)


ACCELERATORS = {
    "v100": _gpu("NVIDIA V100 SXM2", 15.7, 15.7, 15.7, 32),
    "a100": _gpu("NVIDIA A100 SXM", 19.5, 156, 312, 80),
    "h100": _gpu("NVIDIA H100 SXM", 67, 494.5, 989, 80),
    "h200": _gpu("NVIDIA H200 SXM", 67, 494.5, 989, 141),
    "tpu-v4": _tpu("TPU v4", 275, 32),
    "tpu-v5e": _tpu("TPU v5e", 197, 16),
    "tpu-v5p": _tpu("TPU v5p", 459, 95),
    "tpu-v6e": _tpu("TPU v6e", 918, 32),
}
"""By name; per chip, without sparsity.

Sources: NVIDIA's data sheets of V100, A100 80GB, H100 and H200, which state the rates of tensor
cores with sparsity, twice those without; Google Cloud's documentation of TPU v4, v5e, v5p and v6e.
V100 has no units for tensorfloat32 or bfloat16, so that both are computed in float32. A TPU
computes everything but bfloat16 in six passes of bfloat16 (`jax.lax.Precision.HIGHEST`).
"""


def find_accelerator(name: str, devices: int, efficiency: float) -> Accelerator:
    """The accelerator of a name.

    Raises:
        SpecificationError: there is none, no devices, an efficiency outside (0, 1].
    """
    if name.lower() not in ACCELERATORS:
        raise SpecificationError(unknown("accelerator", name, ACCELERATORS))
    if devices < 1:
        raise SpecificationError(f"devices {devices}: a whole number from 1 is needed")
    if not (math.isfinite(efficiency) and 0 < efficiency <= 1):
        raise SpecificationError(f"efficiency {efficiency}: above 0 and at most 1 is needed")
    return ACCELERATORS[name.lower()]
