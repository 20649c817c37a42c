"""The source `tfds:NAME:SPLIT`: data sets that TensorFlow Datasets has prepared.

Reading needs no TensorFlow, where the data set was prepared in a format with random access
(array_record). Preparing does for most data sets: `prepare` says so.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrobust.data.decoded.decoding import decode_and, decode_image
from jaxrobust.data.paths import existing_folder
from jaxrobust.data.registry import register
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError, first_line, unknown

if TYPE_CHECKING:
    from jaxtyping import UInt8

# A version may follow the name after a colon, and a split may hold colons in brackets.
_SOURCE = re.compile(r"(?P<name>[^:\[\]]+(?::\d+\.\d+\.\d+)?):(?P<split>.+)")
_FORMAT = "array_record"
_KEYS = ("file_name", "id")


class TfdsStore(Store):
    """Images of a prepared data set, read where they lie.

    Args:
        records: TFDS's data source, its images not decoded.
        image, label: What the data set calls them.
        names: The names of the classes in the order of their labels, if it has any.
    """

    named = "classes of the data"

    def __init__(self, records: Any, image: str, label: str, names: tuple[str, ...] | None) -> None:
        self._records, self._image = records, image
        self.folders = names
        self.keys = []
        labels = []
        # Labels and names lie beside the pixels: all is read once here, and hashed on the way.
        for index in range(len(records)):
            record = self._record(index)
            key = next((record[name] for name in _KEYS if name in record), str(index))
            self.keys.append(key.decode() if isinstance(key, bytes) else str(key))
            labels.append(int(record[label]))
            self._digests[index] = blake2b(record[image], digest_size=16).digest()
        self.labels = np.array(labels, np.int32)
        if self.labels.min() < 0:  # ILSVRC's test images, for instance
            raise SpecificationError("has images without a label")

    def content(self, index: int) -> bytes:
        return self._record(index)[self._image]

    def pixels(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        return decode_image(self.content(index))

    def cropped(self, index: int, crop: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return decode_and(self.content(index), crop)

    def describe(self, index: int) -> str:
        return self.keys[index]

    def _record(self, index: int) -> dict[str, Any]:
        try:
            record = self._records[index]
        except RuntimeError as error:  # a shard is missing, or its checksums do not fit
            raise SpecificationError(f"record {index} cannot be read ({error})") from error
        if record[self._image] is None:  # what a truncated shard may give
            raise SpecificationError(f"record {index} cannot be read (it is empty)")
        return record


@register("tfds:NAME:SPLIT")
def open_tfds(argument: str) -> TfdsStore:
    """A prepared data set of TensorFlow Datasets, such as imagenet2012:validation[:2000]."""
    parts = _SOURCE.fullmatch(argument)
    if not parts:
        raise SpecificationError(
            "needs a name and a split; possible: tfds:NAME:SPLIT, such as "
            "tfds:imagenet2012:validation[:2000]"
        )
    import tensorflow_datasets as tfds

    builder = _builder(parts["name"])
    _check_prepared(builder, parts["name"])
    image, label = _image_and_label(builder)
    try:
        records = builder.as_data_source(
            parts["split"], decoders={image: tfds.decode.SkipDecoding()}
        )
    except ValueError as error:  # TFDS says what is wrong with the split
        raise SpecificationError(first_line(error)) from error
    if len(records) == 0:
        raise SpecificationError(f"the split {parts['split']} holds no images")
    # A plain integer as label has no names.
    names = getattr(builder.info.features[label], "names", None)
    return TfdsStore(records, image, label, names and tuple(names))


def prepare(
    name: str, *, manual_dir: str | Path | None = None, data_dir: str | Path | None = None
) -> Path:
    """Downloads a data set and prepares it, so that `tfds:NAME:SPLIT` can read it.

    Args:
        name: TFDS's name, such as `imagenet_v2/matched-frequency` or `imagenet2012`.
        manual_dir: Where files lie that TFDS cannot download, such as ILSVRC2012_img_val.tar;
            by default `downloads/manual` in `data_dir`.
        data_dir: Where data sets lie, by default TFDS's own folder: TFDS_DATA_DIR or
            ~/tensorflow_datasets.

    Returns:
        The folder of the prepared data set.

    Raises:
        SpecificationError: If there is no such data set, or preparing it needs TensorFlow and
            that is not installed, or files are missing.
    """
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    if _is_prepared(builder):
        _check_prepared(builder, name)
        return Path(builder.data_dir)
    # Most builders name TensorFlow in their module and import it when they get to work, which
    # may be after hours of downloading.
    if hasattr(sys.modules[type(builder).__module__], "tf") and not find_spec("tensorflow"):
        raise SpecificationError(_needs(name, "tensorflow"))
    if manual_dir is not None:
        manual_dir = existing_folder(str(manual_dir))
    settings = tfds.download.DownloadConfig(manual_dir=manual_dir)
    try:
        builder.download_and_prepare(download_config=settings, file_format=_FORMAT)
    except ImportError as error:
        raise SpecificationError(_needs(name, error.name)) from error
    except AssertionError as error:  # files that only a person can fetch
        reason = " ".join(str(error).split())
        raise SpecificationError(f"{name} cannot be prepared: {reason}") from error
    return Path(builder.data_dir)


def _builder(name: str, data_dir: str | Path | None = None) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    try:
        return tfds.builder(name, data_dir=data_dir and str(data_dir))
    except tfds.core.DatasetNotFoundError as error:
        raise SpecificationError(
            f"TensorFlow Datasets has no data set {name!r}; possible: those of "
            "https://www.tensorflow.org/datasets/catalog/overview"
        ) from error
    # No such configuration, no such version, a description that is damaged, no name at all.
    except (ValueError, TypeError, AssertionError, json_format.Error) as error:
        data_set, _, configuration = name.partition(":")[0].partition("/")
        try:
            possible = tfds.builder_cls(data_set).builder_configs
        except ValueError:
            raise SpecificationError(first_line(error)) from error
        if configuration and configuration not in possible:
            raise SpecificationError(
                unknown(f"configuration of {data_set}", configuration, possible)
            ) from error
        raise SpecificationError(first_line(error).rpartition('}": ')[2]) from error


def _check_prepared(builder: Any, name: str) -> None:
    if not _is_prepared(builder):
        raise SpecificationError(
            f"{name} is not prepared: there is nothing in {builder.data_dir} (TFDS_DATA_DIR names "
            f"another place for all data sets); {_how(builder, name)}"
        )
    formats = sorted(each.value for each in builder.info.available_file_formats())
    if not {_FORMAT, "parquet"}.intersection(formats):
        raise SpecificationError(
            f"{name} is prepared as {', '.join(formats)} in {builder.data_dir}, which only "
            f"TensorFlow reads; move it away, or set TFDS_DATA_DIR, and then {_how(builder, name)}"
        )


def _is_prepared(builder: Any) -> bool:
    with _quiet():
        return builder.is_prepared()


def _how(builder: Any, name: str) -> str:
    by_hand = " --manual-dir DIR, where DIR holds the files" if _manual(builder) else ""
    return (
        f"possible: `jaxrobust prepare {name}{by_hand}`, which may need TensorFlow "
        "(pip install 'jaxrobust[prepare]')"
    )


def _manual(builder: Any) -> str:
    """What TFDS says about files that only a person can fetch, in one line."""
    return " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())


def _needs(name: str, module: str | None) -> str:
    tensorflow = module is None or module.split(".")[0] == "tensorflow"
    what = "TensorFlow, once (reading it does not)" if tensorflow else f"the package {module}"
    return f"preparing {name} needs {what}; possible: pip install 'jaxrobust[prepare]'"


def _image_and_label(builder: Any) -> tuple[str, str]:
    """What a data set calls its images and labels."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    names = builder.info.supervised_keys or ("image", "label")
    kinds = [features[name] if name in list(features) else None for name in names]
    image, label = (*kinds, None)[:2]
    is_image = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    is_label = label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
    if not (is_image and is_label):
        raise SpecificationError(
            f"{builder.name} has no 8-bit images with one class label each; it holds "
            f"{', '.join(list(features))}"
        )
    return names[0], names[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's warning that a data set is not prepared: the error says it."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
