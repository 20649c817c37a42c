"""The zoo: named networks, found and loaded by name.

Listing them imports neither JAX nor Flax, so it is instant.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.networks.entry import Entry
from jaxrobust.networks.table import entries

if TYPE_CHECKING:
    from jaxrobust.network import Network

ZOO = {entry.blueprint.name: entry for entry in entries()}


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
    download = f"`jaxrobust port {network} --out DIR` to download them, or " * (
        entry.weights.url is not None
    )
    raise SpecificationError(
        f"the weights of {network} don't come with the package: run {download}"
        f"`jaxrobust port {network} FILE{entry.weights.format} --out DIR`, and use DIR; "
        f"FILE: {entry.weights.file}"
    )
