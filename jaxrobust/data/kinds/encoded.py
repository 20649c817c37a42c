"""Images that are encoded files, sorted into class folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxrobust.data.class_order import class_order
from jaxrobust.data.decoded.decoding import EXTENSIONS, decode_and, decode_image
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError, first_line

if TYPE_CHECKING:
    from jaxtyping import UInt8


class Item(NamedTuple):
    """One encoded image: its class folder, its name in there, and the path to read it by."""

    folder: str
    key: str
    path: str


class EncodedStore(Store):
    """Encoded images and a function that reads one.

    Args:
        items: The images, in any order.
        read: The bytes at an item's path; called from several threads at once.
        folders: Names of all class folders in the order of the classes, where that is known.

    Raises:
        SpecificationError: If there are no items.
    """

    def __init__(
        self,
        items: Iterable[Item],
        read: Callable[[str], bytes],
        folders: Sequence[str] | None = None,
    ) -> None:
        ordered = sorted(items)
        if not ordered:
            raise SpecificationError(f"holds no images ({', '.join(EXTENSIONS)} in class folders)")
        self._paths = [item.path for item in ordered]
        self._read = read
        self.keys = [item.key for item in ordered]
        self.folders = tuple(folders or class_order({item.folder for item in ordered}))
        position = {folder: index for index, folder in enumerate(self.folders)}
        self.labels = np.array([position[item.folder] for item in ordered], np.int32)

    def content(self, index: int) -> bytes:
        try:
            return self._read(self._paths[index])
        except OSError as error:
            raise SpecificationError(
                f"cannot be read ({error.strerror or first_line(error)})"
            ) from error

    def pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        return decode_image(self.content(index))

    def cropped(self, index: int, crop: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return decode_and(self.content(index), crop)

    def describe(self, index: int) -> str:
        return self._paths[index]


def class_folders(paths: Iterable[str]) -> list[Item]:
    """Finds the images among paths, and the class folder and key of each.

    Folders that hold everything else are passed through, so `photos/train/cat/1.jpg` beside
    `photos/train/dog/1.jpg` is image `1.jpg` of class `cat`, wherever the folders lie. Hidden
    files (`._1.jpg`, what macOS adds) and files without an image's extension are left out.

    Args:
        paths: Paths with forward slashes.

    Returns:
        The images, with each key relative to its class folder.

    Raises:
        SpecificationError: If an image lies in no class folder.
    """
    found = [(path, _parts(path)) for path in paths if is_image(path)]
    if not found:
        return []
    parents = [parts[:-1] for _, parts in found]
    around = len(commonprefix(parents))
    if all(len(parent) == around for parent in parents):
        around -= 1  # a single folder is the class, not something around the classes
    for (path, _), parent in zip(found, parents, strict=True):
        if not parent or len(parent) <= around:
            raise SpecificationError(
                f"the image {path!r} lies in no class folder; each class needs a folder of its own"
            )
    return [Item(parts[around], "/".join(parts[around + 1 :]), path) for path, parts in found]


def is_image(path: str) -> bool:
    """Whether a path has an image's extension and no hidden part."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in _parts(path))
    return not hidden and path.lower().endswith(EXTENSIONS)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
