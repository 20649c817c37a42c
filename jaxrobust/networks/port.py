"""`port`: from a weight file of another program to a checkpoint of a named network."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from jaxrobust import porting
from jaxrobust.ground.errors import SpecificationError
from jaxrobust.networks import checkpoint, zoo
from jaxrobust.networks.download import Report, download
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
    path: str | PathLike[str] | None,
    out: str | PathLike[str],
    *,
    dtype: checkpoint.StorageType = "float32",
    base_url: str | None = None,
    verify: bool = True,
    report: Report | None = None,
) -> Ported:
    """Turns a weight file into a checkpoint of a named network.

    Args:
        name: The network's name in the zoo.
        path: The weight file; the ending of its name tells the format. None downloads the
            published one.
        out: Folder to write; a checkpoint that is alone in it is replaced.
        dtype: Type of the parameters on disk; in memory they are float32.
        base_url, verify, report: Of the download (see `download`).

    Returns:
        What was done, for printing.

    Raises:
        SpecificationError: If the name is unknown or the network has no weight file; the file
            can't be downloaded, is damaged, or not this network's, with all missing, unexpected
            and mis-shaped arrays; or the folder holds something else.
    """
    entry = zoo.lookup(name)
    source = entry.weights
    if source is None:
        raise SpecificationError(f"{name} comes with the package: there is no file of it to port")
    checkpoint.check_target(out)
    if path is None:
        if source.url is None:
            raise SpecificationError(
                f"{name} has no published address to download it from: give the file, "
                f"`jaxrobust port {name} FILE{source.format} --out DIR`; FILE: {source.file}"
            )
        path = download(
            source.url, source.checksum, base_url=base_url, verify=verify, report=report
        )
    path = Path(path)
    weights = porting.read_weights(path)
    params = porting.fit(weights, source.recipe, entry.blueprint.shapes(), network=name)
    sha256 = file_sha256(path)
    origin = {"file": path.name, "sha256": sha256}
    checkpoint.save(out, entry.blueprint, params, source=origin, dtype=dtype)
    return Ported(name, path, sha256, len(weights), entry.parameters, Path(out))
