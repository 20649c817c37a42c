"""`Blueprint`: everything but the parameters that makes a network of a built-in definition."""

from __future__ import annotations

import importlib
import importlib.resources
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jaxrobust.ground.errors import SpecificationError, unknown
from jaxrobust.preprocessing import Preprocessing

if TYPE_CHECKING:
    from flax import nnx

    from jaxrobust.network import Network

# Only these can be named by a checkpoint, so opening a foreign one runs no foreign code.
DEFINITIONS = {
    "alexnet": "jaxrobust.networks.definitions.alexnet:AlexNet",
    "cifar_resnet": "jaxrobust.networks.definitions.resnet:CifarResNet",
    "googlenet": "jaxrobust.networks.definitions.googlenet:GoogLeNet",
    "lenet": "jaxrobust.networks.definitions.lenet:LeNet",
    "resnet": "jaxrobust.networks.definitions.resnet:ResNet",
    "squeezenet": "jaxrobust.networks.definitions.squeezenet:SqueezeNet",
    "vgg": "jaxrobust.networks.definitions.vgg:VGG",
}
CLASS_NAMES = {
    "cifar10": "cifar10_classes.txt",
    "digits": "digits.txt",
    "imagenet": "imagenet_wordnet_ids.txt",
}


# What a description from elsewhere may ask for: the largest number of each kind, and of any other.
# Shapes are checked against what is stored, so that these bound time and the images' memory.
_MOST = {
    "classes": 10**6,
    "widths": 10**6,
    "dense_width": 10**6,
    "image_size": 4096,
    "size": 4096,
    "resize": 16_384,
    "groups": 64,
}
_MOST_OTHERWISE = 1_000
_LONGEST = 200
# The numbers of layers among a definition's arguments.
_LAYERS = ("blocks", "convolutions")


@dataclass(frozen=True)
class Blueprint:
    """A built-in definition with its configuration, preprocessing and class names.

    It imports JAX and Flax only when a module is made.

    Args:
        name: What results call the network.
        definition: Name of the Flax definition, a key of `DEFINITIONS`.
        configuration: Keyword arguments of the definition that differ from its defaults, plain
            values.
        preprocessing: What turns an image into the network's input.
        class_names: Name of a list of class names that the package holds (`imagenet`: the 1,000
            WordNet ids; `cifar10`; `digits`), or None.

    Raises:
        SpecificationError: If the definition or the list of class names is unknown.

    Example:
        >>> blueprint = Blueprint("tiny", "squeezenet", {"classes": 7}, Preprocessing((64, 64)))
        >>> blueprint.shapes()["conv10/kernel"]
        (1, 1, 512, 7)
    """

    name: str
    definition: str
    configuration: Mapping[str, Any]
    preprocessing: Preprocessing
    class_names: str | None = None

    def __post_init__(self) -> None:
        checks = [("network definition", self.definition, DEFINITIONS)]
        if self.class_names is not None:
            checks.append(("list of class names", self.class_names, CLASS_NAMES))
        for kind, asked, known in checks:
            if asked not in known:
                raise SpecificationError(unknown(kind, asked, known))

    def module(self, seed: int = 0) -> nnx.Module:
        """Makes the Flax module, with random starting weights, in training mode.

        Args:
            seed: Seed of the starting weights.

        Returns:
            The module.
        """
        from flax import nnx

        where, name = DEFINITIONS[self.definition].split(":")
        definition = getattr(importlib.import_module(where), name)
        return definition(**self.configuration, rngs=nnx.Rngs(seed))

    @cached_property
    def _abstract(self) -> tuple[Any, Any]:
        """The module's structure, and its state with shapes in place of weights."""
        from flax import nnx

        return nnx.split(nnx.eval_shape(self.module))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The path of every parameter (`conv1/kernel`), with its shape."""
        import jax
        from flax import nnx

        from jaxrobust.layers import leaf_paths

        params = nnx.to_pure_dict(self._abstract[1])
        leaves = jax.tree.leaves(params)
        return {path: x.shape for path, x in zip(leaf_paths(params), leaves, strict=True)}

    def network(self, params: Mapping[str, Any]) -> Network:
        """Joins the definition with its parameters.

        Args:
            params: Nested dict with an array for every path in `shapes`.

        Returns:
            The network.
        """
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from jaxrobust.network import Network
        from jaxrobust.parameters import as_arrays

        structure, shapes = self._abstract
        state = jax.tree.map(lambda leaf: leaf, shapes)
        arrays = as_arrays(dict(params), self.name)
        nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, arrays))
        return Network.from_nnx(
            nnx.merge(structure, state),
            name=self.name,
            preprocessing=self.preprocessing,
            class_names=self.read_class_names(),
        )

    def read_class_names(self) -> tuple[str, ...] | None:
        """The class names in the order of the logits, or None where there are none."""
        if self.class_names is None:
            return None
        folder = importlib.resources.files("jaxrobust.networks")
        return tuple((folder / CLASS_NAMES[self.class_names]).read_text("ascii").split())

    def to_json(self) -> dict[str, Any]:
        """The blueprint as plain values that JSON can hold."""
        return {**asdict(self), "preprocessing": self.preprocessing.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Blueprint:
        """The inverse of `to_json`.

        Args:
            values: Field names and values.

        Returns:
            The blueprint.

        Raises:
            SpecificationError: If a field is unknown or missing.
        """
        needed = {one.name for one in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != needed:
            raise SpecificationError(
                f"a network's description has the fields {', '.join(sorted(values)):.200}; "
                f"needed: {', '.join(sorted(needed))}"
            )
        name = values["name"]
        if not (isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST):
            raise SpecificationError(
                f"the network's name must be printable text of at most {_LONGEST} characters"
            )
        for part in ("configuration", "preprocessing"):
            for name, value in values[part].items():
                if not _fits(name, value):
                    raise SpecificationError(
                        f"{part}: {name!a:.50} is {value!a:.50}; plain values are possible, "
                        f"numbers up to {_MOST.get(name, _MOST_OTHERWISE):,}"
                    )
        preprocessing = Preprocessing.from_json(values["preprocessing"])
        return cls(**{**values, "preprocessing": preprocessing})

    def check_layers(self, stored: int) -> None:
        """Makes sure that no more layers are asked for than can be among so many stored arrays.

        Raises:
            SpecificationError: if they are, or if they are more than any network has.
        """
        asked = [self.configuration.get(name) for name in _LAYERS]
        layers = sum(
            count for counts in asked if isinstance(counts, list | tuple) for count in counts
        )
        if layers > min(stored, _MOST_OTHERWISE):
            raise SpecificationError(
                f"the definition {self.definition} is asked for {layers:,} layers or blocks of "
                f"them, but {stored:,} arrays are stored; at most {_MOST_OTHERWISE:,} are possible"
            )


def _fits(name: Any, value: Any) -> bool:
    """Whether a value of a description is plain and not too large."""
    match value:
        case None | bool():
            return True
        case str():
            return len(value) <= _LONGEST
        case int() | float():
            return abs(value) <= _MOST.get(name, _MOST_OTHERWISE)
        case list() | tuple():
            flat = not any(isinstance(each, list | tuple | dict) for each in value)
            return flat and len(value) <= _LONGEST and all(_fits(name, each) for each in value)
    return False
