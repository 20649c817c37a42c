"""The source `imagenet-val:PATH`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from jaxrobust.data.kinds.encoded import EncodedStore, Item, is_image
from jaxrobust.data.kinds.folder import files_below
from jaxrobust.data.kinds.tar import read_in_place
from jaxrobust.data.paths import existing
from jaxrobust.data.registry import register
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.ground.paths import read_file

if TYPE_CHECKING:
    from jaxtyping import UInt16

_NAME = re.compile(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
_CLASS_FOLDER = re.compile(r"(?:.*/)?(n\d{8})/[^/]*")


@cache
def validation_labels() -> UInt16[np.ndarray, 50000]:
    """The classes of the 50,000 validation images, in the order of their numbers.

    They are ILSVRC's ground truth, as indices of the sorted WordNet ids: what a network that was
    trained on sorted class folders calls these classes, and not the numbers of ILSVRC's own file
    `ILSVRC2012_validation_ground_truth.txt`.
    """
    packed = resources.files("jaxrobust").joinpath("data/imagenet_validation_labels.npy")
    with packed.open("rb") as file:
        labels = np.load(file)
    labels.flags.writeable = False
    return labels


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of the 1,000 classes, sorted."""
    names = resources.files("jaxrobust").joinpath("networks/imagenet_wordnet_ids.txt")
    return tuple(names.read_text(encoding="ascii").split())


@register("imagenet-val:PATH")
def open_imagenet_val(path: str) -> EncodedStore:
    """ILSVRC2012_img_val.tar, read in place, or a folder of its JPEGs, flat or by class."""
    root = existing(path)
    if root.is_dir():
        return _store(files_below(root), lambda name: read_file(root / name))
    return _store(*read_in_place(root))


def _store(paths: Iterable[str], read: Callable[[str], bytes]) -> EncodedStore:
    items = [_item(path) for path in paths if is_image(path)]
    if not items:
        raise SpecificationError(
            "holds no images; possible: ILSVRC2012_img_val.tar, or a folder of its files "
            "ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG"
        )
    seen: dict[str, str] = {}
    for item in items:
        if (other := seen.setdefault(item.key, item.path)) != item.path:
            raise SpecificationError(f"holds {item.key} twice: {other!r} and {item.path!r}")
    return EncodedStore(items, read, wordnet_ids())


def _item(path: str) -> Item:
    found = _NAME.fullmatch(path)
    number = int(found[1]) if found else 0
    if not 1 <= number <= len(validation_labels()):
        raise SpecificationError(
            f"{path!r} is no image of the ImageNet validation set; possible: "
            "ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG (for other images in "
            "class folders, use folder:PATH or tar:PATH)"
        )
    name = wordnet_ids()[validation_labels()[number - 1]]
    folder = _CLASS_FOLDER.fullmatch(path)
    if folder and folder[1] != name:
        raise SpecificationError(f"{path!r} lies in the folder of another class: it shows {name}")
    return Item(name, f"ILSVRC2012_val_{number:08d}.JPEG", path)
