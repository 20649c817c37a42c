"""A sequence of labelled images in a fixed order."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np

from jaxrobust.data.decoded.broken import intact_images
from jaxrobust.data.decoded.cache import BlockCache
from jaxrobust.data.decoded.crops import Crops, keys_of
from jaxrobust.data.matching import class_indices
from jaxrobust.data.messages import about
from jaxrobust.data.order import balanced_order
from jaxrobust.data.progress import READING, Report, silent
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError

if TYPE_CHECKING:
    from jaxtyping import Int32, Int64, UInt8

    from jaxrobust.preprocessing import Preprocessing

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, eq=False, repr=False)
class ImageSource(Sequence[tuple[np.ndarray, int]]):
    """Labelled images in the source's fixed, class-balanced order, decoded when asked for.

    `source[i]` is a pair of pixels (uint8 [height, width, 3]) and label; a slice is a source
    again, with the same order. Every prefix holds each class equally often, to within one image
    (where no class runs out), and an image's place depends on nothing but its class and name.

    Attributes:
        name: The source string; slices keep it.
        store: Where the images come from.
        order: int64, the position in the store of each image.
        labels: int32, one per image: class indices, once `with_classes` has matched them to a
            network; before, positions in the order of the class folders.
        left_out: What `without_broken` left out, by name.
    """

    name: str
    store: Store
    order: Int64[np.ndarray, " images"]
    labels: Int32[np.ndarray, " images"]
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for array in (self.order, self.labels):  # shared with slices
            array.flags.writeable = False

    @classmethod
    def from_store(cls, name: str, store: Store) -> ImageSource:
        """All images of a store, put in order."""
        folders = store.folders
        classes = [folders[i] if folders else str(i) for i in store.labels.tolist()]
        order = balanced_order(classes, store.keys)
        return cls(name, store, order, store.labels[order])

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> tuple[UInt8[np.ndarray, "height width 3"], int]: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSource: ...
    def __getitem__(self, index: int | slice) -> tuple[np.ndarray, int] | ImageSource:
        if isinstance(index, slice):
            return replace(self, order=self.order[index], labels=self.labels[index])
        position = range(len(self))[operator.index(index)]
        return self._load(position, lambda pixels: pixels), int(self.labels[position])

    def __repr__(self) -> str:
        classes = len(np.unique(self.labels))
        images_word = "image" if len(self) == 1 else "images"
        classes_word = "class" if classes == 1 else "classes"
        return f"<ImageSource {self.name}: {len(self)} {images_word}, {classes} {classes_word}>"

    def with_classes(self, class_names: Sequence[str] | None, classes: int) -> ImageSource:
        """The same images with a network's class indices as labels.

        A class folder named by one of the network's class names takes that name's index. Where no
        folder is, the order of all the source's folders counts, if there are as many as classes:
        by number where their names are exactly the whole numbers from 0 (ImageNet-V2's 0 to 999),
        as text otherwise; where the two differ for other names, nothing is guessed. The class
        names of a data set count as folders do, in the order that it gives them. Labels of a
        source without class names are class indices already.

        Args:
            class_names: The network's class names in the order of its outputs, if it has any.
            classes: How many outputs the network has.

        Returns:
            A source with the same images in the same order.

        Raises:
            SpecificationError: If folders and classes do not match, the order of the folders is
                in doubt, or a label is not below `classes`.
        """
        with about(self.name):
            labels = class_indices(self.store, class_names, classes)
        return replace(self, labels=labels[self.order])

    def decode(
        self,
        start: int,
        stop: int,
        crop: Callable[[UInt8[np.ndarray, "height width 3"]], UInt8[np.ndarray, "h w channels"]],
    ) -> tuple[UInt8[np.ndarray, "images h w channels"], Int32[np.ndarray, " images"]]:
        """Decodes and crops the images from `start` up to `stop`, on several threads.

        Args:
            start: The first image.
            stop: One after the last image.
            crop: Makes an array of one common shape from each image, such as
                `Preprocessing.crop`; called on several threads at once.

        Returns:
            The crops, uint8, and their labels, int32.

        Raises:
            SpecificationError: If the range is empty or goes beyond the source, or if an image
                is broken or cannot be cropped; it is named.
        """
        if not 0 <= start < stop <= len(self):
            raise SpecificationError(
                f"{self.name}: there are no images {start} to {stop} among {len(self)}"
            )
        crops = None
        loaded = self._each(lambda position: self._load(position, crop), range(start, stop))
        for row, pixels in enumerate(loaded):
            if crops is None:
                crops = np.empty((stop - start, *pixels.shape), np.uint8)
            if pixels.shape != crops.shape[1:]:
                raise SpecificationError(
                    f"{self.name}: cropped images must have one shape, "
                    f"not {crops.shape[1:]} and {pixels.shape}"
                )
            crops[row] = pixels
        assert crops is not None
        return crops, self.labels[start:stop]

    def crops(self, preprocessing: Preprocessing, report: Report = silent) -> Crops:
        """Decodes and crops all images once, into the cache on the disk, and reads them there.

        Args:
            preprocessing: Its resizing and crop.
            report: Called with what is being done, images done and all of them.

        Returns:
            The crops as an array to be read in parts.

        Raises:
            SpecificationError: If an image is broken or cannot be cropped; it is named.
        """
        cache = BlockCache.default()
        keys = keys_of(self.digests(report), preprocessing) if cache else ()

        def decoded(start: int, stop: int) -> np.ndarray:
            return self.decode(start, stop, preprocessing.crop)[0]

        crops = Crops((len(self), *preprocessing.shape), decoded, cache, keys)
        crops.fill(report)
        return crops

    def without_broken(self, report: Report = silent) -> ImageSource:
        """Leaves out the images that cannot be read or decoded.

        Every image is decoded to find out, unless the cache knows the outcome.

        Args:
            report: Called with what is being done, images done and all of them.

        Returns:
            The other images in the same order; its `left_out` names those that are missing.

        Raises:
            SpecificationError: If no image is left.
        """
        intact = intact_images(self.store, self.order, self._each, report)
        names = [self.store.describe(index) for index in self.order[~intact].tolist()]
        if not intact.any():
            raise SpecificationError(f"{self.name}: not one of {len(self)} images can be decoded")
        return replace(
            self,
            order=self.order[intact],
            labels=self.labels[intact],
            left_out=(*self.left_out, *names),
        )

    def digests(self, report: Report = silent) -> list[bytes]:
        """A hash of each encoded image, 16 bytes each, in this order; read once, then remembered.

        Args:
            report: Called with what is being done, images done and all of them.

        Raises:
            SpecificationError: If an image cannot be read; it is named.
        """

        def digest(index: int) -> bytes:
            with about(self.name, self.store.describe(index)):
                return self.store.digest(index)

        digests = []
        for each in self._each(digest, self.order.tolist()):
            if len(digests) % 500 == 0:
                report(READING, len(digests), len(self))
            digests.append(each)
        return digests

    def fingerprint(self, report: Report = silent) -> str:
        """A hash of the encoded images and labels in this order, in hexadecimal digits.

        Args:
            report: As for `digests`.
        """
        digest = blake2b(self.labels.astype("<i4").tobytes(), digest_size=16)
        for each in self.digests(report):
            digest.update(each)
        return digest.hexdigest()

    def _each(self, function: Callable[[_In], _Out], items: Sequence[_In]) -> Iterator[_Out]:
        """The results of a function in order, from several threads where that is faster."""
        if not self.store.threads:
            yield from map(function, items)
            return
        # PIL, NumPy and hashlib release the interpreter's lock while they work.
        with ThreadPoolExecutor() as threads:
            yield from threads.map(function, items)

    def _load(self, position: int, crop: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        index = int(self.order[position])
        with about(self.name, self.store.describe(index)):
            return self.store.cropped(index, crop)
