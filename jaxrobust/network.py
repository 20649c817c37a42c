"""`Network`: a pure function with its parameters, layer table and preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from jaxrobust import adapters
from jaxrobust.ground.errors import SpecificationError, first_line
from jaxrobust.layers import LayerTable, layer_table
from jaxrobust.parameters import as_arrays, check_finite
from jaxrobust.preprocessing import Preprocessing
from jaxrobust.program.jaxprs import Program, trace

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# On recent GPUs and TPUs the default precision of float32 products is far below float32.
PRECISION = "highest"


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network as a pure function.

    Attributes:
        apply: `apply(params, images) -> logits`: float32 images [n, height, width, channels] to
            logits [n, classes], for any n, each row depending on its own image only.
        params: the parameter pytree, of NumPy's or JAX's arrays; statistics of normalisation
            layers travel in it too. float64 becomes float32, as which networks are computed.
        name: what results call the network.
        preprocessing: what turns an image into the network's input.
        class_names: the name of each class in the order of the logits, if known; image folders
            of these names take these indices.
        leaves_of: layer name -> paths of its leaves (`conv1/kernel`), where paths alone don't say
            which leaves belong together.
        frozen: paths of leaves that are never damaged.
        collections: the first key of every path is a Flax Linen collection.
        allow_nonfinite: parameters may hold NaN or infinite values before any damage; otherwise
            they are refused.

    Raises:
        SpecificationError: no function, no parameters, name or preprocessing, parameters that are
            no finite numbers, class names that are not one for each output.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, images):
        ...     return images.mean((1, 2)) @ params["dense"]["w"] + params["dense"]["b"][None]
        >>> params = {"dense": {"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}}
        >>> net = Network(apply, params, name="mean", preprocessing=Preprocessing(size=(8, 8)))
        >>> net.layers
        layer  leaves      entries  units  output  note
        dense  w 3×4, b 4  16       4      4
    """

    apply: Callable[[Any, Any], Any]
    params: Any
    name: str = field(kw_only=True)
    preprocessing: Preprocessing = field(kw_only=True)
    class_names: Sequence[str] | None = field(default=None, kw_only=True)
    leaves_of: Mapping[str, Sequence[str]] | None = field(default=None, kw_only=True)
    frozen: Collection[str] = field(default=(), kw_only=True)
    collections: bool = field(default=False, kw_only=True)
    allow_nonfinite: bool = field(default=False, kw_only=True)

    @staticmethod
    def from_nnx(
        module: Any,
        *,
        name: str,
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None = None,
        leaves_of: Mapping[str, Sequence[str]] | None = None,
        allow_nonfinite: bool = False,
        call: Callable[..., Any] | None = None,
        **arguments: Any,
    ) -> Network:
        """Makes a network of a Flax NNX module.

        Args:
            module: called as `module(images, **arguments)`. An evaluation-mode clone of it is
                used; the module stays as it is. Also a function of images that calls exactly one
                module, such as `lambda images: module(images, train=False)[0]`; arrays that it
                uses beside the module are constants.
            name, preprocessing, class_names, leaves_of, allow_nonfinite: see `Network`.
            call: how a module is called if not as above:
                `call(module, images, **arguments) -> logits`.
            arguments: for the module's call, such as `train=False`.

        Raises:
            SpecificationError: no module; a function that reaches none, several, or one only
                through other objects, so that its parameters would be constants; as `Network`.
        """
        made = adapters.from_nnx(module, call, arguments)
        return Network(
            made.apply,
            made.params,
            name=name,
            preprocessing=preprocessing,
            class_names=class_names,
            leaves_of=leaves_of,
            frozen=made.frozen,
            allow_nonfinite=allow_nonfinite,
        )

    @staticmethod
    def from_linen(
        module: Any,
        variables: Mapping[str, Any] | None = None,
        *,
        name: str,
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None = None,
        leaves_of: Mapping[str, Sequence[str]] | None = None,
        allow_nonfinite: bool = False,
        **arguments: Any,
    ) -> Network:
        """Makes a network of a Flax Linen module and its variables.

        Args:
            module: called as `module.apply(variables, images, **arguments)`.
            variables: all collections, `params` among them; the others are never damaged.
            name, preprocessing, class_names, leaves_of, allow_nonfinite: see `Network`.
            arguments: for the module's call, such as `train=False`.

        Raises:
            SpecificationError: no Linen module, no collection `params`; as `Network`.
        """
        made = adapters.from_linen(module, variables, arguments)
        return Network(
            made.apply,
            made.params,
            name=name,
            preprocessing=preprocessing,
            class_names=class_names,
            leaves_of=leaves_of,
            frozen=made.frozen,
            collections=True,
            allow_nonfinite=allow_nonfinite,
        )

    def __new__(cls, *given: Any, **options: Any) -> Self:
        """Checks what is given before Python misses what a module's user would not know of."""
        if given or "apply" in options:  # nothing is given where one is copied or unpickled
            _check_given(given, options)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", as_arrays(self.params, self.name))
        if not self.allow_nonfinite:
            check_finite(self.params, self.name)
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise SpecificationError(
                f"{self.name} has {self.classes} outputs, but {len(self.class_names)} class names"
            )

    def program(self, images: int) -> Program:
        """The network traced for a batch of that many images, at full float32 precision."""
        if images in self._programs:
            return self._programs[images]
        shape = (images, *self.preprocessing.shape)
        with jax.default_matmul_precision(PRECISION):
            try:
                program = trace(self.apply, self.params, jax.ShapeDtypeStruct(shape, np.float32))
            except SpecificationError:
                raise
            except Exception as error:  # whatever the user's function does
                raise SpecificationError(f"{self.name} {_failed(error, shape[1:])}") from error
        logits = program.shapes[program.output].shape
        if len(logits) != 2 or logits[0] != images:
            raise SpecificationError(
                f"{self.name} turned {images} images into an array of shape {logits}: "
                f"logits of shape ({images}, classes) are needed"
            )
        self._programs[images] = program
        return program

    def with_params(self, params: Any) -> Network:
        """The same network with other parameters of the same shapes; it is not traced anew."""
        other = replace(self, params=params)
        other._programs.update(self._programs)
        return other

    @cached_property
    def _programs(self) -> dict[int, Program]:
        return {}

    @cached_property
    def classes(self) -> int:
        """The number of classes."""
        program = self.program(1)
        return program.shapes[program.output].shape[1]

    @cached_property
    def layers(self) -> LayerTable:
        """The layer table, in order of first use."""
        return layer_table(
            self.params,
            self.program(1),
            layers=self.leaves_of,
            frozen=self.frozen,
            collections=self.collections,
        )

    def prepare(
        self, images: Any
    ) -> tuple[Float[np.ndarray, "images height width channels"], Int[np.ndarray, " images"]]:
        """Decodes and preprocesses images on the host.

        Args:
            images: whatever `jaxrobust.images` takes, or any slice of what it gives.

        Returns:
            The network's input, float32 [n, height, width, channels], and the labels as indices
            of the network's classes, int32 [n].

        Raises:
            SpecificationError: labels that don't fit the network's classes, images of a wrong
                size, an image file that can't be read.
        """
        from jaxrobust.data import images as source_of

        source = source_of(images).with_classes(self.class_names, self.classes)
        pixels, labels = source.decode(0, len(source), self.preprocessing.crop)
        return self.preprocessing.normalise(pixels), labels


def _check_given(given: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Raises SpecificationError for what is no function, and for what is missing beside it."""
    apply = given[0] if given else options["apply"]
    if adapters.is_module(apply) or not callable(apply):
        raise SpecificationError(f"a network needs a function, not {adapters.described(apply)}")
    needed = ("params", "name", "preprocessing")
    missing = [each for each in needed[len(given[1:]) :] if each not in options]
    if missing:
        raise SpecificationError(
            f"a network needs {', '.join(missing)} too: "
            "jaxrobust.Network(apply, params, name=…, preprocessing=…)"
        )


def _failed(error: Exception, shape: tuple[int, ...]) -> str:
    """What became of a network that was called with images of a shape, in one line."""
    kind = "" if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: "
    said = f"{kind}{first_line(error)}"
    if adapters.is_of_training(error):
        return (
            "is called in training mode, in which layers draw or change their statistics: pass "
            f"train=False, or what else its call takes for evaluation ({said})"
        )
    return f"cannot take images of shape {shape}: {said}"


def check_network(given: Any) -> Network:
    """Makes sure that what is given for a network is one.

    Raises:
        SpecificationError: it is not; it says what makes a network of it.
    """
    if not isinstance(given, Network):
        raise SpecificationError(f"a jaxrobust.Network is needed, not {adapters.described(given)}")
    return given
