"""Local training: the model of the round and this participant's data give an update."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from deepledger.protocol.errors import BadInput, BadSpec
from deepledger.protocol.spec import JobSpec
from deepledger.protocol.task import Task, TaskSource, layout_of, read_floats, write_floats
from deepledger.protocol.types import Address, RoundNumber
from deepledger.protocol.vectors import Encoded, Floats, ModelVector, decode_model, encode_update


@dataclass(frozen=True, slots=True)
class Trainer:
    """A task, loaded with this participant's data."""

    spec: JobSpec
    task: Task
    data: Any
    model: torch.nn.Module

    @property
    def samples(self) -> int:
        return len(self.data)


def load_trainer(spec: JobSpec, source: TaskSource, data: Path) -> Trainer:
    """Raises `BadInput` if the data cannot be loaded, `BadSpec` if the task's model is not the spec's."""
    task = Task(source)
    model = task.build_model(spec.training.seed)
    if layout_of(model) != spec.model.layout:
        raise BadSpec("the task's model does not have the layout that the spec pins; do not join this job")
    return Trainer(spec, task, task.load_data(data), model)


def make_update(
    trainer: Trainer, before: ModelVector, residual: Floats, *, training_seed: int, rounding_seed: int
) -> Encoded:
    """Train from `before`, shape (d,), and encode the change. Raises `BadInput` if training fails."""
    spec = trainer.spec
    start = decode_model(before, spec.model)
    write_floats(trainer.model, start)
    trainer.task.train(trainer.model, trainer.data, seed=training_seed, hyperparameters=spec.training.hyperparameters)
    change = read_floats(trainer.model)
    if len(change) != len(start):
        raise BadInput("training changed the shape of the model")
    change -= start
    return encode_update(change, residual, update=spec.update, seed=rounding_seed, out=change)


def training_seed(spec: JobSpec, round: RoundNumber, *, attempt: int, participant: Address) -> int:
    """Distinct for every participant, round and attempt, and the same wherever it is computed: 48 bits."""
    words = f"{spec.training.seed}|{round}|{attempt}|{participant.lower()}"
    return int.from_bytes(sha256(words.encode()).digest()[:6], "big")
