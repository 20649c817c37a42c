"""Results whose curves are known, for tests of what is derived from them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from jaxrobust.results import make_dataset
from jaxrobust.storage.run_folder import write_run

ALEXNET = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
KNOCKOUTS = tuple(round(0.1 * step, 1) for step in range(10))
NOISES = tuple(round(0.2 * step, 1) for step in range(11))
IMAGES, CLEAN, CLASSES = 1000, 900, 100

Share = Callable[[str, int, float, int], float]


def made(
    share: Share,
    strengths: Mapping[str, Sequence[float]],
    layers: Sequence[str] = ALEXNET,
    seeds: int = 4,
    **attributes: Any,
) -> xarray.Dataset:
    """A result of 1,000 images, 900 right undamaged (800 at top-1), as an engine would give it.

    Args:
        share: (perturbation, layer's index, strength, seed) -> the share of the undamaged
            accuracy that is left, NaN for a trial that was not run. Strength 0 is undamaged.
        strengths: perturbation -> its grid.
        layers: their names, from the first to the last.
        seeds: how many.
        attributes: instead of those of a finished run of these layers, None to leave one out.
    """
    union = sorted({strength for grid in strengths.values() for strength in grid})
    shape = (len(strengths), len(layers), len(union), seeds, 1)
    names = ("images", "top1", "top5", "changed", "nonfinite", "loss")
    trials = {name: np.zeros(shape, float if name == "loss" else int) for name in names}
    for place in np.ndindex(shape):
        perturbation = list(strengths)[place[0]]
        strength = union[place[2]]
        left = share(perturbation, place[1], strength, place[3]) if strength else 1.0
        if strength in strengths[perturbation] and not np.isnan(left):
            trials["images"][place] = IMAGES
            trials["top5"][place] = round(left * CLEAN)
            trials["top1"][place] = round(left * (CLEAN - 100))
            trials["changed"][place] = IMAGES - round(left * IMAGES)
            trials["loss"][place] = IMAGES * (2 - left)
    clean = {name: np.array([0]) for name in names}
    clean |= {"images": np.array([IMAGES]), "top5": np.array([CLEAN])}
    clean |= {"top1": np.array([CLEAN - 100]), "loss": np.array([float(IMAGES)])}
    told = {
        "network": "small",
        "data": "glyphs",
        "classes": CLASSES,
        "depth": json.dumps(list(layers)),
        "identity": json.dumps(dict.fromkeys(strengths, 0.0)),
        "finished": 1,
    } | attributes
    told = {name: value for name, value in told.items() if value is not None}
    coordinates = {"perturbation": list(strengths), "layer": list(layers), "strength": union}
    return make_dataset(trials, clean, coordinates, told)


def like_the_study(perturbation: str, layer: int, strength: float, seed: int) -> float:
    """conv1 is at chance at 0.7 knockout, late layers keep most, noise does less harm."""
    middle = 0.35 + 0.13 * layer + 0.01 * seed
    middle *= 3.3 if perturbation == "weight_noise" else 1
    return float(1 / (1 + np.exp((strength - middle) / 0.07)))


def against_the_study(perturbation: str, layer: int, strength: float, seed: int) -> float:
    """The last layers are the fragile ones; noise does more harm, in the opposite order."""
    if perturbation == "weight_noise":
        return like_the_study("synapse_knockout", layer, strength * 1.5, seed)
    return like_the_study(perturbation, 7 - layer, strength, seed)


STUDY = {"synapse_knockout": KNOCKOUTS, "weight_noise": NOISES}


def made_precise(seeds: Callable[[int, float], int], half_width: float) -> xarray.Dataset:
    """A result of a sweep to a precision, of three layers; every seed has seen all images.

    Args:
        seeds: (layer's index, strength) -> how many the cell has.
        half_width: the one asked for. With 32 seeds it is 0.0124, with 48 0.0101.
    """

    def share(perturbation: str, layer: int, strength: float, seed: int) -> float:
        spread = 0.06 * np.sin(7 * seed)
        return 0.7 - 0.1 * layer + spread if seed < seeds(layer, strength) else np.nan

    damaged = json.dumps({"synapse_knockout": [0.3, 0.6]})
    told = {"half_width": half_width, "exact": "[]", "damaged": damaged}
    result = made(share, {"synapse_knockout": (0, 0.3, 0.6)}, ALEXNET[:3], 48, **told)
    part = result["images"] / result["clean_images"]
    controls = {f"control_{name}": part * result[f"clean_{name}"] for name in ("top1", "top5")}
    return result.assign(controls)


def record(result: xarray.Dataset) -> dict[str, Any]:
    """What `sweep.json` of such a result says."""
    ran = (result["images"] > 0).any(("layer", "seed", "block"))
    grids = [
        [str(name), [f"{s:g}" for s in result.strength.values[ran.sel(perturbation=name).values]]]
        for name in result.perturbation.values
    ]
    specification = {
        "network": result.attrs["network"],
        "preprocessing": json.dumps({"size": [8, 8]}),
        "parameters": "feed",
        "data": result.attrs["data"],
        "data_fingerprint": "beef",
        "images": IMAGES,
        "block": 50,
        "layers": [[str(name), [str(name)]] for name in result.layer.values],
        "strengths": grids,
        "import_paths": [],
        "seeds": result.sizes["seed"],
        "root": 0,
        "metrics": [],
        "precision": "float32",
    }
    return {
        "specification": specification,
        "hash": "cafe",
        "finished": bool(result.attrs["finished"]),
        "written": "2025-01-02T03:04:05+00:00",
        "plan": [],
        "versions": {"jaxrobust": "0.1.0", "jax": "0.10.0"},
        "device": {"platform": "cpu", "kind": "a small one"},
    }


def written(result: xarray.Dataset, folder: Path) -> Path:
    """The result as a run folder."""
    write_run(folder, result, record(result))
    return folder
