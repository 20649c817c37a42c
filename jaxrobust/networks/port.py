"""`port`: from a weight file of another program to a checkpoint of a named network."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from jaxrobust import porting
from jaxrobust.errors import SpecificationError
from jaxrobust.networks import checkpoint, zoo
from jaxrobust.networks.fingerprint import file_sha256


@dataclass(frozen=True)
class Ported:
    """What `port` did.

    Attributes:
        name: The network's name in the zoo.
        file: The weight file.
        sha256: Its SHA-256, in hex.
        arrays: How many arrays it held.
        parameters: How many numbers they are.
        folder: The checkpoint that was written.
    """

    name: str
    file: Path
    sha256: str
    arrays: int
    parameters: int
    folder: Path

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.arrays} arrays, {self.parameters:,} parameters, from {self.file} "
            f"(SHA-256 {self.sha256}) to {self.folder}"
        )


def port(
    name: str,
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    dtype: checkpoint.StorageType = "float32",
) -> Ported:
    """Turns a weight file into a checkpoint of a named network.

    Args:
        name: The network's name in the zoo.
        path: The weight file; the ending of its name tells the format.
        out: Folder to write; a checkpoint that is alone in it is replaced.
        dtype: Type of the parameters on disk; in memory they are float32.

    Returns:
        What was done, for printing.

    Raises:
        SpecificationError: If the name is unknown or the network has no weight file; the file is
            damaged, or not this network's, with all missing, unexpected and mis-shaped arrays; or
            the folder holds something else.
    """
    entry = zoo.lookup(name)
    if entry.weights is None:
        raise SpecificationError(f"{name} comes with the package: there is no file of it to port")
    checkpoint.check_target(out)
    path = Path(path)
    weights = porting.read_weights(path)
    params = porting.fit(weights, entry.weights.recipe, entry.blueprint.shapes(), network=name)
    sha256 = file_sha256(path)
    source = {"file": path.name, "sha256": sha256}
    checkpoint.save(out, entry.blueprint, params, source=source, dtype=dtype)
    return Ported(name, path, sha256, len(weights), entry.parameters, Path(out))
