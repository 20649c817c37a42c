"""Checkpoints: a folder with a network's parameters, and all that is needed to use them.

The folder holds `parameters/`, an Orbax checkpoint of the parameter pytree, and `network.json`:
the blueprint, where the parameters came from, the versions that wrote them, a fingerprint of the
parameters, the SHA-256 of each of Orbax's files and of `network.json` itself. Orbax restores a
flipped byte without a word, so all of these are verified whenever a checkpoint is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import jax
import numpy as np
import orbax.checkpoint
from flax import traverse_util

from jaxrobust.ground.errors import SpecificationError, check_can_be_made
from jaxrobust.layers import leaf_paths
from jaxrobust.network import Network
from jaxrobust.networks.blueprint import Blueprint
from jaxrobust.networks.fingerprint import file_sha256, fingerprint
from jaxrobust.parameters import nonfinite

StorageType = Literal["float32", "float16"]

# A description takes a few kilobytes.
_LARGEST_DESCRIPTION = 4 * 2**20
# Parameters may take as much memory as this, and for each byte on the disk so many more: equal
# numbers are stored in almost no space.
_FREE_BYTES, _MOST_COMPRESSED = 2**30, 100

_FORMAT = "jaxrobust checkpoint 1"
_DESCRIPTION = "network.json"
_PARAMETERS = "parameters"
_PACKAGES = ("jaxrobust", "jax", "flax", "orbax-checkpoint", "numpy")


def save(
    folder: str | PathLike[str],
    blueprint: Blueprint,
    params: Mapping[str, Any],
    *,
    source: Mapping[str, Any],
    dtype: StorageType = "float32",
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        folder: Folder to write; a checkpoint that is alone in it is replaced.
        blueprint: The network but for its parameters.
        params: Nested dict of the float parameters.
        source: Where the parameters came from, plain values: a weight file and its SHA-256, or
            how they were trained.
        dtype: Type of the parameters on disk; `load` gives float32.

    Raises:
        SpecificationError: If the folder holds something else, the parameters don't fit the
            blueprint, or a value is not finite in `dtype`.
    """
    folder = check_target(folder)
    stored = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _narrowed(
            jax.tree_util.keystr(path, simple=True, separator="/"), leaf, dtype
        ),
        dict(params),
    )
    _check_shapes(stored, blueprint)
    with _written_beside(folder) as new:
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(new / _PARAMETERS, stored)
        # Orbax's mark of a complete save, which would carry a path of this machine elsewhere.
        mark = new / _PARAMETERS / "commit_success.txt"
        if mark.exists():
            mark.write_text("complete\n")
        description = {
            "format": _FORMAT,
            "blueprint": blueprint.to_json(),
            "source": dict(source),
            "dtype": dtype,
            "fingerprint": fingerprint(_float32(stored)),
            "versions": {name: _version(name) for name in _PACKAGES},
            "files": {
                file.relative_to(new).as_posix(): file_sha256(file)
                for file in sorted((new / _PARAMETERS).rglob("*"))
                if file.is_file()
            },
        }
        description["sha256"] = _checksum(description)
        text = json.dumps(description, indent=2, ensure_ascii=False)
        (new / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def load(folder: str | PathLike[str]) -> Network:
    """Reads a checkpoint and verifies that it is what was saved.

    Args:
        folder: The folder that `save` wrote.

    Returns:
        The network, its parameters in float32.

    Raises:
        SpecificationError: If the folder is not a checkpoint, or is damaged.
    """
    folder = Path(folder).resolve()
    description = _description(folder)
    with _blaming(folder):
        blueprint = Blueprint.from_json(description["blueprint"])
        dtype = description["dtype"]
        if dtype not in get_args(StorageType):
            raise SpecificationError(f"its dtype is {dtype!a:.50}")
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            # What is asked for is held against what is stored before anything is made or read.
            there = checkpointer.metadata(folder / _PARAMETERS).item_metadata.tree
            blueprint.check_layers(len(jax.tree.leaves(there)))
            _check_shapes(there, blueprint)
            _check_size(blueprint, np.dtype(dtype), folder)
            # A target of NumPy arrays makes Orbax give NumPy arrays, whatever it was saved from.
            target = {
                path: np.broadcast_to(np.zeros((), dtype), shape)
                for path, shape in blueprint.shapes().items()
            }
            stored = checkpointer.restore(
                folder / _PARAMETERS, traverse_util.unflatten_dict(target, sep="/")
            )
        _check_shapes(stored, blueprint)
        params = _float32(stored)
        if fingerprint(params) != description["fingerprint"]:
            raise SpecificationError("its parameters are not those that were saved")
    return blueprint.network(params)


def is_checkpoint(folder: str | PathLike[str]) -> bool:
    """Whether a folder looks like a checkpoint; only `load` tells whether it is a sound one."""
    return (Path(folder) / _DESCRIPTION).is_file() and (Path(folder) / _PARAMETERS).is_dir()


def check_target(folder: str | PathLike[str]) -> Path:
    """Makes sure that a checkpoint can be written to a folder without losing anything else.

    Args:
        folder: The folder to be written.

    Returns:
        Its absolute path, which Orbax needs, with links followed.

    Raises:
        SpecificationError: If something else is there than a checkpoint or an empty folder, or
            the folder cannot be made.
    """
    folder = Path(folder).resolve()
    if not folder.exists():
        check_can_be_made(folder)
        return folder
    found = "is a file"
    if folder.is_dir():
        inside = {path.name for path in folder.iterdir()}
        if not inside or (is_checkpoint(folder) and inside == {_DESCRIPTION, _PARAMETERS}):
            return folder
        found = f"holds {', '.join(sorted(inside)[:3])}{' ...' if len(inside) > 3 else ''}"
    raise SpecificationError(
        f"{folder} {found}: choose a folder that is new, empty or just a checkpoint"
    )


def _description(folder: Path) -> dict[str, Any]:
    if not is_checkpoint(folder):
        raise SpecificationError(
            f"{folder} is not a checkpoint: it has no {_DESCRIPTION} beside a folder {_PARAMETERS}"
        )
    with _blaming(folder):
        if (folder / _DESCRIPTION).stat().st_size > _LARGEST_DESCRIPTION:
            raise SpecificationError(f"its {_DESCRIPTION} is larger than any")
        description = json.loads((folder / _DESCRIPTION).read_text("utf-8"))
        if not isinstance(description, dict) or description.get("format") != _FORMAT:
            raise SpecificationError(f"its {_DESCRIPTION} doesn't say {_FORMAT!r}")
        if description.pop("sha256", None) != _checksum(description):
            raise SpecificationError(f"its {_DESCRIPTION} is not as it was saved")
        # Before Orbax reads them: what it makes of a damaged file is not always an error.
        for name, sha256 in description["files"].items():
            first, *parts = PurePosixPath(name).parts
            if first != _PARAMETERS or not parts or ".." in parts:
                raise SpecificationError(f"its {_DESCRIPTION} names a file outside {_PARAMETERS}")
            if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
                raise SpecificationError(f"its {name} is not as it was saved")
    return description


@contextmanager
def _blaming(folder: Path) -> Iterator[None]:
    try:
        yield
    # A damaged folder can raise almost anything from Orbax and the libraries below it.
    except Exception as error:
        reason = f"{error}".strip().partition("\n")[0] or type(error).__name__
        if not reason.isprintable():  # a foreign description can say anything
            reason = ascii(reason)[1:-1]
        raise SpecificationError(f"the checkpoint {folder} can't be used: {reason:.200}") from error


@contextmanager
def _written_beside(folder: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` once it is complete."""
    unique = uuid.uuid4().hex[:12]
    new, old = (folder.with_name(f".{folder.name}.{kind}-{unique}") for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise SpecificationError(f"the checkpoint {folder} can't be written: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _narrowed(path: str, leaf: Any, dtype: StorageType) -> np.ndarray:
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused below
        array = np.asarray(leaf).astype(dtype)
    if wrong := nonfinite(array):
        raise SpecificationError(
            f"{path} holds {wrong:,} of {array.size:,} values that are not finite as {dtype}"
        )
    return array


def _float32(params: Mapping[str, Any]) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(params))


def _check_shapes(params: Mapping[str, Any], blueprint: Blueprint) -> None:
    leaves = jax.tree.leaves(params)
    found = {path: leaf.shape for path, leaf in zip(leaf_paths(params), leaves, strict=True)}
    needed = blueprint.shapes()
    if found != needed:
        wrong = sorted(path for path in found | needed if found.get(path) != needed.get(path))
        raise SpecificationError(
            f"parameters that don't fit the definition {blueprint.definition}: "
            f"{', '.join(wrong[:6])}{' ...' if len(wrong) > 6 else ''}"
        )


def _check_size(blueprint: Blueprint, dtype: np.dtype, folder: Path) -> None:
    """Makes sure that the parameters' claimed size is one that the files can stand for."""
    claimed = dtype.itemsize * sum(math.prod(shape) for shape in blueprint.shapes().values())
    found = sum(x.stat().st_size for x in (folder / _PARAMETERS).rglob("*") if x.is_file())
    if claimed > _FREE_BYTES + _MOST_COMPRESSED * found:
        raise SpecificationError(
            f"its parameters claim {claimed:,} bytes, of which its files of {found:,} bytes can't "
            "hold a hundredth"
        )


def _checksum(description: Mapping[str, Any]) -> str:
    text = json.dumps(description, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
