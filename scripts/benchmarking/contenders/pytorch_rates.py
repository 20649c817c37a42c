"""How fast PyTorch multiplies matrices and convolves on this machine, in float32."""

# Only the PyTorch contenders need PyTorch; where it is missing there is nothing to check against.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarking.workloads import best_seconds

_CHANNELS, _SIDE = 64, 56
_KERNELS = (1, 3, 5)


def rates(device: str) -> dict[str, float]:
    """The best rate of each operation, in operations per second.

    A convolution counts as its definition has it, 2 · k² · inputs · outputs for each place, zeros
    of the border included.

    Args:
        device: `cpu` or `cuda`.
    """
    images, sizes = (32, (1024, 1536, 2048)) if device == "cpu" else (256, (4096, 8192))

    def seconds(work: Callable[[], Any]) -> float:
        def waited() -> None:
            work()
            if device == "cuda":
                torch.cuda.synchronize()

        return best_seconds(waited, 5)

    best = 0.0
    for size in sizes:
        square = torch.ones(size, size, device=device)
        best = max(best, 2 * size**3 / seconds(lambda x=square: x @ x))
    found = {"PyTorch matrix product": best}
    for side in _KERNELS:
        operations = 2 * side**2 * _CHANNELS**2 * images * _SIDE**2
        best = 0.0
        for form in (torch.contiguous_format, torch.channels_last):
            shapes = (images, _CHANNELS, _SIDE, _SIDE), (_CHANNELS, _CHANNELS, side, side)
            x, kernel = (torch.ones(s, device=device).to(memory_format=form) for s in shapes)
            took = seconds(lambda x=x, k=kernel, p=side // 2: F.conv2d(x, k, padding=p))
            best = max(best, operations / took)
        shape = f"{_CHANNELS} to {_CHANNELS} channels, {images} × {_SIDE} × {_SIDE}"
        found[f"PyTorch {side}×{side} convolution, {shape}"] = best
    return found
