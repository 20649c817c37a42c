"""The source `npz:PATH`."""

from __future__ import annotations

import zipfile

import numpy as np

from jaxrobust.data.arrays import ArrayStore
from jaxrobust.data.paths import existing_file
from jaxrobust.data.registry import register
from jaxrobust.errors import SpecificationError


@register("npz:PATH")
def open_npz(path: str) -> ArrayStore:
    """A NumPy file with the arrays `images` (uint8) and `labels` (class indices)."""
    file = existing_file(path)
    try:
        with file.open("rb") as opened:
            arrays = np.load(opened, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise SpecificationError(
                    "is a single array, not an .npz file with images and labels"
                )
            missing = [name for name in ("images", "labels") if name not in arrays]
            if missing:
                raise SpecificationError(
                    f"has no array {' and no array '.join(missing)}; it holds "
                    f"{', '.join(arrays.files) or 'nothing'}"
                )
            images, labels = arrays["images"], arrays["labels"]
    except SpecificationError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SpecificationError(f"cannot be read as an .npz file ({error})") from error
    return ArrayStore(images, labels)
