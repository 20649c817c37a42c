"""The arguments that commands share, and what they stand for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from jaxrobust.ground.errors import SpecificationError

if TYPE_CHECKING:
    from jaxrobust.data import ImageSource
    from jaxrobust.data.progress import Report
    from jaxrobust.network import Network

NetworkArgument = Annotated[
    Positional[str],
    arg(metavar="NETWORK", help="a name of `list networks`, or a checkpoint folder"),
]
RunArgument = Annotated[Positional[str], arg(metavar="RUN", help="the folder of a sweep")]
DataArgument = Annotated[
    str, arg(metavar="SOURCE", help="where the images come from: see `list data`")
]
ImagesArgument = Annotated[
    int | None,
    arg(metavar="N", help="how many images, classes balanced", help_behavior_hint="(default: all)"),
]
ResizeArgument = Annotated[
    Literal["squash", "shorter"] | None,
    arg(
        metavar="{squash,shorter}",
        help="resizing before the centre crop: squash to a square, or the shorter side to the "
        "target, keeping the shape",
        help_behavior_hint="(default: the network's own)",
    ),
]
SmallArgument = Annotated[
    Literal["enlarge", "pad"] | None,
    arg(
        metavar="{enlarge,pad}",
        help="with --resize shorter: what becomes of photographs whose shorter side is below the "
        "target; enlarge is what most people do, networks from Caffe pad with black",
        help_behavior_hint="(default: the network's own)",
    ),
]
PrecisionArgument = Annotated[
    Literal["float32", "tensorfloat32", "bfloat16"],
    arg(
        metavar="{float32,tensorfloat32,bfloat16}",
        help="what the operands of convolutions and matrix products are rounded to",
    ),
]
SkipBrokenArgument = Annotated[
    bool, arg(help="leave out images that cannot be decoded, rather than stop at the first")
]


@dataclass(kw_only=True)
class SweepArguments:
    """What a sweep measures, for the commands that run it or plan it."""

    network: NetworkArgument
    data: DataArgument
    perturbations: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME …",
            help="see `list perturbations`; or an import path module:attribute, where the module "
            "may be in the current folder",
        ),
    ] = ("synapse_knockout", "node_knockout", "weight_noise")
    layers: Annotated[
        tuple[str, ...],
        arg(
            metavar="LAYER …",
            help="names and globs, each layer damaged on its own; `all`: each layer with a kernel; "
            "LAYER[1], LAYER[*]: one or each depth of a stack; GROUP=LAYER,LAYER: these together",
        ),
    ] = ("all",)
    strengths: Annotated[
        tuple[str, ...],
        arg(
            metavar="GRID …",
            help="start:stop:step with both ends, or values with commas: one grid for all, or "
            "PERTURBATION=GRID for each",
            help_behavior_hint="(default: see `list perturbations`)",
        ),
    ] = ()
    metrics: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME …",
            help="what is measured beside top1, top5, loss and changed: see `list metrics`; or an "
            "import path module:attribute of a function or a jaxrobust.Metric",
            help_behavior_hint="(default: none)",
        ),
    ] = ()
    seeds: Annotated[
        int | None,
        arg(
            metavar="N",
            help="independent random draws per layer and strength",
            help_behavior_hint="(default: 5)",
        ),
    ] = None
    images: ImagesArgument = None
    resize: ResizeArgument = None
    small: SmallArgument = None
    root: Annotated[int, arg(help="root of all random draws")] = 0
    block: Annotated[int, arg(help="consecutive images that are counted together")] = 50
    precision_mode: PrecisionArgument = "float32"
    keep: Annotated[
        Literal["counts", "images"],
        arg(
            metavar="{counts,images}",
            help="images: also which images were right, for `jaxrobust.right` in Python",
        ),
    ] = "counts"
    skip_broken: SkipBrokenArgument = False

    def checked(self) -> dict[str, Any]:
        """The arguments that `sweep` and `plan` share, as far as they can be checked at once."""
        from jaxrobust.design.specification import resolve_perturbations, resolve_strengths
        from jaxrobust.metrics import resolve

        resolve(self.metrics)
        strengths = _strengths(self.strengths)
        resolve_strengths(resolve_perturbations(self.perturbations), strengths)
        return {
            "perturbations": self.perturbations,
            "layers": _layers(self.layers),
            "strengths": strengths,
            "metrics": self.metrics,
            "seeds": self.seeds,
            "root": self.root,
            "block": self.block,
            "precision_mode": self.precision_mode,
            "keep": self.keep,
        }

    def opened(self, report: Report) -> tuple[Network, ImageSource]:
        """The network and the images, without broken ones where these are left out."""
        images = open_images(self.data, self.images)
        network = load_network(self.network, self.resize, self.small)
        return network, images.without_broken(report) if self.skip_broken else images


def load_network(name: str, resize: str | None, small: str | None) -> Network:
    """The network, perhaps with another resizing than its own.

    Raises:
        SpecificationError: If there is no such network, or `small` would have no effect.

    Warns:
        UserWarning: If `resize` makes it pad small images, which nobody asked for.
    """
    from jaxrobust.networks.zoo import load

    network = load(name)
    changes = {"mode": resize, "small": small}
    changes = {field: value for field, value in changes.items() if value is not None}
    preprocessing = replace(network.preprocessing, **changes)
    if small is not None and preprocessing.mode != "shorter":
        raise SpecificationError(f"--small {small} has no effect without --resize shorter")
    if resize == "shorter" and small is None and preprocessing.small == "pad":
        target = preprocessing.resize or max(preprocessing.size)
        warnings.warn(
            f"{network.name} pads photographs whose shorter side is below {target} pixels with "
            "black; --small enlarge enlarges them, which is what most people do, --small pad is "
            "silent",
            stacklevel=2,
        )
    return replace(network, preprocessing=preprocessing) if changes else network


def open_images(source: str, count: int | None) -> ImageSource:
    """The images of a source, or the first ones."""
    from jaxrobust.data import images

    found = images(source)
    if count is not None and not 1 <= count <= len(found):
        raise SpecificationError(f"--images {count}: {source} has {len(found):,} images")
    return found[:count]


def _layers(texts: Sequence[str]) -> Any:
    """Layer arguments as a selector: `GROUP=LAYER,LAYER` or names and globs."""
    groups = [text for text in texts if "=" in text]
    if not groups:
        return list(texts)
    if len(groups) < len(texts):
        raise SpecificationError("--layers: either all of the form GROUP=LAYER,LAYER, or none")
    return {name: names.split(",") for name, _, names in (text.partition("=") for text in groups)}


def _strengths(texts: Sequence[str]) -> str | Mapping[str, str] | None:
    """Strength arguments: one grid, or `PERTURBATION=GRID` each, or none."""
    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    if not all("=" in text for text in texts):
        raise SpecificationError("--strengths: one grid for all, or PERTURBATION=GRID for each")
    return {name: grid for name, _, grid in (text.rpartition("=") for text in texts)}
