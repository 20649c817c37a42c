"""The zoo: the table of named networks.

Reading the table imports neither JAX nor Flax, so listing it is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrobust.errors import SpecificationError, unknown
from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.porting.recipes import CAFFE_NPZ, TORCHVISION_ALEXNET, Recipe
from jaxrobust.preprocessing import Preprocessing

if TYPE_CHECKING:
    from jaxrobust.network import Network


@dataclass(frozen=True)
class WeightSource:
    """Where a network's trained weights come from.

    Args:
        format: Ending of the file's name, which tells its format: `.npz`.
        origin: Where to find the file and what its arrays are called.
        recipe: What the network's parameters are called in the file.
    """

    format: str
    origin: str
    recipe: Recipe


@dataclass(frozen=True)
class Published:
    """The accuracy that a network's authors report.

    Args:
        top1: Percentage of the ImageNet validation images whose class has the largest logit.
        top5: Percentage of them whose class is among the five largest logits.
        source: Who reports it.
    """

    top1: float
    top5: float
    source: str


@dataclass(frozen=True)
class Entry:
    """A named network.

    Args:
        blueprint: The network but for its parameters; its name is the entry's.
        summary: What it is, in one line.
        parameters: How many numbers its parameters are.
        weights: Where its trained weights come from; None for the package's own.
        published: The accuracy that it is known to have, if any is.
    """

    blueprint: Blueprint
    summary: str
    parameters: int
    weights: WeightSource | None = None
    published: Published | None = None


_ENTRIES = (
    Entry(
        Blueprint(
            name="alexnet-glyphs",
            definition="alexnet",
            configuration=dict(
                classes=100,
                image_size=(64, 64),
                conv1_kernel=5,
                conv1_stride=2,
                conv1_padding=2,
                widths=(24, 48, 96, 96, 64),
                dense_width=512,
                dropout=0.2,
            ),
            preprocessing=Preprocessing(size=(64, 64), mean=(127.5,), std=(64.0,)),
        ),
        summary="a small AlexNet trained on the embedded data set, glyphs",
        parameters=820_020,
    ),
    Entry(
        Blueprint(
            name="alexnet",
            definition="alexnet",
            configuration={},
            preprocessing=Preprocessing(
                size=(224, 224),
                resize=256,
                mode="shorter",
                channels="rgb",
                mean=(123.675, 116.28, 103.53),
                std=(58.395, 57.12, 57.375),
            ),
            class_names="imagenet",
        ),
        summary="torchvision's AlexNet: no groups, no response normalisation",
        parameters=61_100_840,
        weights=WeightSource(
            format=".npz",
            origin="torchvision's state_dict AlexNet_Weights.IMAGENET1K_V1, saved by numpy.savez "
            "under its own names (features.0.weight, ...)",
            recipe=TORCHVISION_ALEXNET,
        ),
        published=Published(56.522, 79.066, "torchvision's documentation"),
    ),
    Entry(
        Blueprint(
            name="squeezenet-1.1-caffe",
            definition="squeezenet",
            configuration={},
            preprocessing=Preprocessing(
                size=(227, 227),
                resize=256,
                mode="squash",
                channels="bgr",
                mean=(104.0, 117.0, 123.0),
                small="pad",
            ),
            class_names="imagenet",
        ),
        summary="SqueezeNet 1.1 as its authors trained it in Caffe",
        parameters=1_235_496,
        weights=WeightSource(
            format=".npz",
            origin="the authors' Caffe model, its blobs saved by numpy.savez under Caffe's layer "
            "names (conv1/w, conv1/b, fire2/squeeze1x1/w, ...)",
            recipe=CAFFE_NPZ,
        ),
    ),
)

ZOO = {entry.blueprint.name: entry for entry in _ENTRIES}


def lookup(name: str) -> Entry:
    """Finds a named network.

    Args:
        name: Its name in the zoo.

    Returns:
        Its entry.

    Raises:
        SpecificationError: If the name is unknown, with the closest ones that are known.
    """
    if name not in ZOO:
        raise SpecificationError(unknown("network", name, ZOO))
    return ZOO[name]


def packed_checkpoint(name: str) -> Path | None:
    """The folder of the checkpoint that comes with the package, if `name` has one."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_checkpoints" / name, package.parent / "checkpoints" / name):
        if (folder / "network.json").is_file():
            return folder
    return None


def load(network: str | PathLike[str]) -> Network:
    """Loads a trained network.

    Args:
        network: A name of the zoo whose weights come with the package, or a checkpoint folder.
            A zoo name comes first; write `./NAME` for a folder that is called like one.

    Returns:
        The network.

    Raises:
        SpecificationError: If it is neither, its weights have to be ported first, or the
            checkpoint is damaged.
    """
    from jaxrobust.networks import checkpoint

    folder = packed_checkpoint(str(network)) if str(network) in ZOO else None
    if folder is None and Path(network).is_dir():
        folder = Path(network)
    if folder is not None:
        return checkpoint.load(folder)
    if str(network) not in ZOO and len(Path(network).parts) != 1:
        raise SpecificationError(f"there is no checkpoint folder {network}")
    entry = lookup(str(network))
    if entry.weights is None:
        raise SpecificationError(
            f"the checkpoint of {network} is missing: it comes with the package, and "
            f"scripts/train_reference makes it anew"
        )
    raise SpecificationError(
        f"the weights of {network} don't come with the package: run "
        f"`jaxrobust port {network} FILE{entry.weights.format} --out DIR` and use DIR; "
        f"FILE: {entry.weights.origin}"
    )
