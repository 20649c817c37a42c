"""The training loop behind the reference networks: Optax, resumable, one example never twice."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as orbax
from flax import nnx

from jaxrobust.ground.errors import SpecificationError
from jaxrobust.preprocessing import Preprocessing

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

    Examples = tuple[UInt8[np.ndarray, "batch height width channels"], Int[np.ndarray, " batch"]]

# Batches that are made ahead of the step that trains on them.
_AHEAD = 4
# The device's answer is waited for once in so many steps, so that it never idles.
_STEPS_PER_REPORT = 20


@dataclass(frozen=True)
class Settings:
    """How a network is trained: AdamW, a linear warm-up, then half a cosine down to zero.

    Attributes:
        steps: updates of the weights.
        learning_rate: its peak.
        warmup: share of the steps before the peak.
        weight_decay: AdamW's, on kernels only.
        seed: of the starting weights and of dropout.
        save_every: steps between two checkpoints.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 1e-4
    seed: int = 0
    save_every: int = 500

    def to_json(self) -> dict[str, float]:
        """The settings as plain values that JSON can hold."""
        return asdict(self)


def train(
    module: nnx.Module,
    preprocessing: Preprocessing,
    examples: Callable[[int], Examples],
    settings: Settings,
    folder: str | PathLike[str],
    report: Callable[[int, float, float], None],
) -> dict[str, Any]:
    """Trains a classifier, from where the folder's newest checkpoint left off.

    The examples and the dropout of a step depend on its number only, so an interrupted training
    that is started again gives what an uninterrupted one gives.

    Args:
        module: in training mode, with its starting weights; called as `module(images, rngs=...)`.
            It is left as it is.
        preprocessing: turns images into the network's input; its crop is not applied.
        examples: gives the images and labels of a step; called on another thread, some steps ahead.
        settings: how to train.
        folder: where checkpoints of the training go, by Orbax; the newest two are kept.
        report: called every few steps with the number of steps done, and the means since the last
            report, dropout active, of the cross entropy in nats and of the
            top-1 accuracy.

    Returns:
        The trained parameters, a nested dict.

    Raises:
        SpecificationError: the folder holds a training with other settings.
    """
    definition, weights = nnx.split(module, nnx.Param)
    optimiser = _optimiser(settings)
    params = nnx.to_pure_dict(weights)
    state = {"params": params, "optimiser": optimiser.init(params)}

    def loss(params: Any, images: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        key = jax.random.fold_in(jax.random.key(settings.seed), step)
        network: Any = nnx.merge(definition, params)
        logits = network(images, rngs=nnx.Rngs(dropout=key))
        right = jnp.mean(jnp.argmax(logits, -1) == labels, dtype=np.float32)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), right

    @jax.jit
    def update(state: Any, images: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        found, slope = jax.value_and_grad(loss, has_aux=True)(state["params"], images, labels, step)
        change, memory = optimiser.update(slope, state["optimiser"], state["params"])
        return {"params": optax.apply_updates(state["params"], change), "optimiser": memory}, found

    with _checkpoints(folder, settings) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start:
            state = checkpoints.restore(start, args=orbax.args.StandardRestore(state))
        since = []
        for step, (images, labels) in _ahead(examples, start, settings.steps):
            inputs = preprocessing.normalise(images)
            state, found = update(state, inputs, np.asarray(labels, np.int32), np.int32(step))
            since.append(found)
            done = step + 1
            if done % _STEPS_PER_REPORT == 0 or done == settings.steps:
                mean_loss, accuracy = np.mean(jax.device_get(since), axis=0).tolist()
                report(done, mean_loss, accuracy)
                since = []
            if done % settings.save_every == 0 or done == settings.steps:
                checkpoints.save(done, args=orbax.args.StandardSave(state))
    return jax.device_get(state["params"])


def _optimiser(settings: Settings) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=settings.learning_rate,
        warmup_steps=round(settings.warmup * settings.steps),
        decay_steps=settings.steps,
    )
    return optax.adamw(
        schedule,
        weight_decay=settings.weight_decay,
        mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    )


@contextmanager
def _checkpoints(
    folder: str | PathLike[str], settings: Settings
) -> Iterator[orbax.CheckpointManager]:
    folder = Path(folder).resolve()  # Orbax takes no relative path
    described = folder / "settings.json"
    wanted = json.dumps(settings.to_json())
    if described.exists() and described.read_text() != wanted:
        raise SpecificationError(
            f"{folder} holds a training with the settings {described.read_text()}, not {wanted}: "
            "choose a new folder, or the same settings to go on with it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    described.write_text(wanted)
    options = orbax.CheckpointManagerOptions(max_to_keep=2)
    with orbax.CheckpointManager(folder / "checkpoints", options=options) as manager:
        yield manager


def _ahead(
    examples: Callable[[int], Examples], start: int, stop: int
) -> Iterator[tuple[int, Examples]]:
    """The steps with their examples, made on one other thread while the device is busy."""
    with ThreadPoolExecutor(1) as thread:
        steps = iter(range(start, stop))
        waiting = deque((step, thread.submit(examples, step)) for step in islice(steps, _AHEAD))
        while waiting:
            step, made = waiting.popleft()
            for later in islice(steps, 1):
                waiting.append((later, thread.submit(examples, later)))
            yield step, made.result()
