"""From a source's labels to a network's class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxrobust.data.class_order import doubt, indices_in_order
from jaxrobust.data.store import Store
from jaxrobust.ground.errors import SpecificationError


def class_indices(store: Store, class_names: Sequence[str] | None, classes: int) -> np.ndarray:
    """The network's class index of each image of a store.

    A class folder, or a class of a data set, named by one of the network's class names takes that
    name's index. Where none is, the order counts, if there are as many as classes and their names
    leave no doubt about it (see `class_order.py`). Where the store has no folders, its labels
    are class indices already.

    Args:
        store: The images.
        class_names: The network's class names in the order of its outputs, if it has any.
        classes: How many outputs the network has.

    Returns:
        int32, one per image of the store.

    Raises:
        SpecificationError: If folders and classes do not match, or a label is not below `classes`.
    """
    if store.folders is None:
        outside = np.flatnonzero(store.labels >= classes)
        if len(outside):
            raise SpecificationError(
                f"{len(outside)} labels lie outside the network's {classes} classes, such as "
                f"{store.labels[outside[0]]} at {store.describe(int(outside[0]))}; "
                f"possible: 0 to {classes - 1}"
            )
        return store.labels
    names = () if class_names is None else tuple(class_names)
    return _folder_indices(store, store.folders, names, classes)[store.labels]


def _folder_indices(
    store: Store, folders: Sequence[str], names: Sequence[str], classes: int
) -> np.ndarray:
    index = {name: position for position, name in enumerate(names)}
    unknown = [folder for folder in folders if folder not in index]
    if not unknown:
        times = Counter(names)
        ambiguous = [folder for folder in folders if times[folder] > 1]
        if ambiguous:
            raise SpecificationError(
                f"{store.named} {_some(ambiguous)} each name several classes of the network"
            )
        return np.array([index[folder] for folder in folders], np.int32)
    by_name = f"{store.named} with names of its own (such as {names[0]!r}), or " if names else ""
    if len(unknown) == len(folders) == classes:
        in_doubt = doubt(folders)
        if in_doubt is None:
            return np.array(indices_in_order(folders), np.int32)
        raise SpecificationError(
            f"{store.named} {in_doubt}; possible: {by_name}{store.named} named by class "
            f"indices, 0 to {classes - 1}{'' if names else ', or a network with class_names'}"
        )
    raise SpecificationError(
        f"{len(unknown)} of {len(folders)} {store.named} are no class names of the network "
        f"({_some(unknown)}); possible: {by_name}exactly {classes} {store.named}, which then "
        "count in their order"
    )


def _some(folders: Sequence[str]) -> str:
    return ", ".join(map(repr, folders[:3])) + (", ..." if len(folders) > 3 else "")
