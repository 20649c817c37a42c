"""What is measured: networks, layers and grids, and the trials of them that a loop times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

# Written once per workload, read by every contender.
WEIGHTS, IMAGES = "weights.npz", "images.npz"
PERTURBATIONS = ("synapse_knockout", "node_knockout", "weight_noise")


@dataclass(frozen=True)
class Trial:
    layer: str
    perturbation: str
    strength: Decimal
    seed: int


@dataclass(frozen=True)
class Workload:
    """One sweep, the same for every contender.

    Attributes:
        network: a name of the zoo.
        layers: each is damaged on its own, in all three ways.
        strengths: decimal numbers, without 0, which no contender would run.
        seeds, images, block: as for `jaxrobust.sweep`.
        every: a loop times one trial in so many; a divisor of the number of strengths × seeds.
        reduced: what was left out to keep the benchmark short.
    """

    network: str
    layers: tuple[str, ...]
    strengths: tuple[str, ...]
    seeds: int
    images: int
    block: int
    every: int
    reduced: str = ""

    @property
    def trials(self) -> int:
        return len(self.layers) * len(PERTURBATIONS) * len(self.strengths) * self.seeds

    @property
    def title(self) -> str:
        return (
            f"{len(self.layers)} layers × {len(PERTURBATIONS)} perturbations × "
            f"{len(self.strengths)} strengths × {self.seeds} seeds × {self.images} images"
        )

    def timed(self, number: int) -> list[Trial]:
        """The trials that a loop runs in one round: as many of each layer and perturbation.

        Other strengths of another layer, perturbation or round, so that all have their turn.
        """
        grid = [(Decimal(s), seed) for seed in range(self.seeds) for s in self.strengths]
        return [
            Trial(layer, perturbation, *cell)
            for row, layer in enumerate(self.layers)
            for column, perturbation in enumerate(PERTURBATIONS)
            for cell in grid[(row + column + number) % self.every :: self.every]
        ]


@dataclass(frozen=True)
class FirstRun:
    """A sweep whose first run, in a process of its own, is measured: all layers, one seed.

    Attributes:
        network: a name of the zoo.
        images: how many, in one block.
        perturbations, strengths: as for `jaxrobust.sweep`.
    """

    network: str
    images: int
    perturbations: tuple[str, ...] = ("weight_noise",)
    strengths: tuple[str, ...] = ("0.5",)

    @property
    def title(self) -> str:
        return (
            f"all layers × {len(self.perturbations)} perturbations × {len(self.strengths)} "
            f"strengths × 1 seed × {self.images} images"
        )


FIRST_RUNS = {
    "resnet18": FirstRun("resnet18", 16),
    "resnet50": FirstRun("resnet50", 16),
    "squeezenet": FirstRun("squeezenet1_1", 64, PERTURBATIONS, ("0.3", "0.6")),
    "tiny-vit": FirstRun("tiny-vit", 100, PERTURBATIONS, ("0.3", "0.6", "0.9")),
}


def batch_sizes(images: int) -> list[int]:
    """Batch sizes to try: the largest divisors of the number of images up to 16, 64 and 256."""
    divisors = [size for size in range(1, images + 1) if images % size == 0]
    return sorted({max(size for size in divisors if size <= most) for most in (16, 64, 256)})


def best_seconds(work: Callable[[], object], times: int = 2) -> float:
    """The shortest of so many times that some work takes, after it has been done once."""
    work()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _steps(step: str, count: int) -> tuple[str, ...]:
    return tuple(str(number * Decimal(step)) for number in range(1, count + 1))


_ALEXNET = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
_FIRE = ("squeeze1x1", "expand1x1", "expand3x3")
_SQUEEZENET = (
    "conv1",
    *(f"fire{number}/{part}" for number in range(2, 10) for part in _FIRE),
    "conv10",
)

FULL = {
    "alexnet": Workload(
        "alexnet", _ALEXNET, _steps("0.15", 6), seeds=2, images=128, block=64, every=6
    ),
    "vgg16": Workload(
        "vgg16",
        ("conv1_1", "conv3_1", "conv5_1", "fc6"),
        _steps("0.15", 6),
        seeds=1,
        images=32,
        block=32,
        every=6,
        reduced="1 seed instead of 2",
    ),
    "alexnet-glyphs": Workload(
        "alexnet-glyphs", _ALEXNET, _steps("0.08", 11), seeds=20, images=250, block=50, every=20
    ),
    "squeezenet": Workload(
        "squeezenet1_1", _SQUEEZENET, _steps("0.15", 6), seeds=2, images=64, block=64, every=12
    ),
}
PRECISE = {
    "alexnet-glyphs": Workload(
        "alexnet-glyphs", _ALEXNET, _steps("0.2", 5), seeds=6, images=1000, block=50, every=30
    ),
    "squeezenet-photographs": Workload(
        "squeezenet-1.1-caffe",
        ("conv1", "fire4/expand3x3", "fire9/squeeze1x1", "conv10"),
        _steps("0.3", 3),
        seeds=4,
        images=1000,
        block=50,
        every=12,
        reduced="4 of 26 layers",
    ),
}
QUICK = {
    "alexnet-glyphs": Workload(
        "alexnet-glyphs",
        ("conv1", "conv3", "fc6", "fc8"),
        _steps("0.2", 4),
        seeds=4,
        images=100,
        block=50,
        every=8,
    ),
    "squeezenet": Workload(
        "squeezenet1_1",
        ("conv1", "fire4/expand3x3", "conv10"),
        _steps("0.3", 3),
        seeds=1,
        images=16,
        block=16,
        every=3,
    ),
    "alexnet": Workload(
        "alexnet", ("conv2", "fc7"), _steps("0.3", 3), seeds=1, images=16, block=16, every=3
    ),
}
