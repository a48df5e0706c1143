"""What an attacker is given: the task, the round's model, data like its victim's, and what it sees of an update.

Updates are made by the task's own training and go through rounding and clipping as they would in a round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as f

from deepledger.node.attacks.measures import Array
from deepledger.node.training import Guard, Trainer, make_update
from deepledger.protocol.evaluation.samples import count, take
from deepledger.protocol.evaluation.state_dict import write_floats
from deepledger.protocol.formats.vectors import Floats, ModelVector, decode_model, hold_variances
from deepledger.protocol.types import RoundNumber

Rows = npt.NDArray[np.int64]

FEWEST = 40
"""Records, to tell what an attack finds from chance: half of them are trained on, and half are not."""
_WORST = 1e3
"""In the place of a loss that is greater, or no number."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`trainer` has the victim's data. `similar` are of the same kind and in no update that is seen; `others` are those
    of who else is in a sum.
    """

    trainer: Trainer
    before: ModelVector
    round: RoundNumber
    similar: Any
    others: Any
    seed: int

    @property
    def own(self) -> Any:
        return self.trainer.data

    def random(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose.encode()])


@dataclass(frozen=True, slots=True)
class Sight:
    """The mean of updates as somebody sees it, shape (d,)."""

    change: Floats
    participants: int


def update_of(scene: Scene, data: Any, *, seed: int, guard: Guard | None = None) -> Floats:
    """What training on these data would send, decoded, shape (d,). `guard` keeps what was made private.

    Raises `BadInput` if training fails.
    """
    spec = scene.trainer.spec
    alone = replace(scene.trainer, data=data, guard=guard or Guard())
    none = np.zeros(spec.model.coordinates, np.float32)
    encoded = make_update(
        alone, scene.before, none, round=scene.round, last=None, training_seed=seed, rounding_seed=seed
    )
    values = encoded.vector[0 : spec.model.coordinates]
    return np.multiply(values, 2.0**-spec.update.fraction_bits, dtype=np.float32)


def updates_of_others(scene: Scene, number: int, *, seed: int) -> list[Floats]:
    """Of so many other participants."""
    return [
        update_of(scene, data, seed=seed + each)
        for each, data in enumerate(data_of_others(scene, number, seed=seed), 1)
    ]


def data_of_others(scene: Scene, number: int, *, seed: int) -> list[Any]:
    """Each has half of `others`, drawn by lot, or as many as the victim has."""
    size = max(1, min(count(scene.own), count(scene.others) // 2))
    random = np.random.default_rng([scene.seed, seed])
    return [take(scene.others, random.permutation(count(scene.others))[:size].tolist()) for _ in range(number)]


def halves(scene: Scene) -> tuple[Rows, Rows]:
    """Of the victim's records, those that it is played to train on, and those that it leaves out."""
    drawn = scene.random("trained on").permutation(count(scene.own))
    middle = len(drawn) // 2
    return np.sort(drawn[:middle]), np.sort(drawn[middle:])


def mean_of(updates: Sequence[Floats]) -> Floats:
    total: Floats = np.stack(updates).mean(axis=0, dtype=np.float32)
    return total


def model_with(scene: Scene, change: Floats | None = None) -> torch.nn.Module:
    """The round's model, with such a change."""
    spec = scene.trainer.spec
    values = decode_model(scene.before, spec.model)
    if change is not None:
        values = values + change
        hold_variances(values, spec.model)
    model = scene.trainer.build()
    write_floats(model, values, spec.model.layout)
    return model


def losses(scene: Scene, change: Floats | None, data: Any) -> Array:
    """The task's own loss of every sample, with the model so changed."""
    model, task = model_with(scene, change), scene.trainer.task
    seed = scene.trainer.spec.training.seed
    found = _at_once(model, data)

    def told(rows: list[int]) -> float:
        return task.measure(model, take(data, rows), seed=seed)[1]

    # All at once where that gives what the task gives: one by one it takes a hundred times as long.
    if found is None or not all(
        math.isclose(told(rows), found[rows].mean(), rel_tol=1e-4, abs_tol=1e-5) for rows in ([0], [*range(len(found))])
    ):
        found = np.array([told([row]) for row in range(count(data))])
    bounded: Array = np.clip(np.nan_to_num(found, nan=_WORST, posinf=_WORST, neginf=-_WORST), -_WORST, _WORST)
    return bounded


def _at_once(model: torch.nn.Module, data: Any) -> Array | None:
    columns = columns_of(data)
    if columns is None:
        return None
    with torch.no_grad():
        found = usual_loss(model, *columns)
    return None if found is None else found.double().numpy()


def usual_loss(model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    """Of every sample: the cross-entropy of classes, the squared error of numbers; None where neither can be."""
    model.eval()
    outputs = model(inputs)
    if not isinstance(outputs, torch.Tensor):
        return None
    if is_classes(targets) and outputs.dim() == 2 and len(outputs) == len(targets):
        return f.cross_entropy(outputs, targets.long(), reduction="none")
    if targets.is_floating_point() and outputs.numel() == targets.numel():
        return f.mse_loss(outputs.reshape(targets.shape), targets, reduction="none").reshape(len(targets), -1).mean(1)
    return None


def columns_of(data: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Inputs and targets, one sample a row, where data show which is which: pairs of them, or two tensors."""
    pair = data.tensors if isinstance(data, torch.utils.data.TensorDataset) else data
    if isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(each, torch.Tensor) for each in pair):
        return pair[0].detach(), pair[1].detach()
    if isinstance(data, list | torch.utils.data.Dataset):
        rows = [data[row] for row in range(count(data))]
        if all(isinstance(row, tuple | list) and len(row) == 2 for row in rows):
            try:
                inputs, targets = zip(*rows, strict=True)
                return torch.stack([*map(torch.as_tensor, inputs)]), torch.stack([*map(torch.as_tensor, targets)])
            except (TypeError, ValueError, RuntimeError):
                return None
    return None


def is_classes(targets: torch.Tensor) -> bool:
    return targets.dim() == 1 and not targets.is_floating_point() and not targets.is_complex()
