"""Local training: the model of the round and this participant's data give an update."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from deepledger.protocol.errors import BadInput
from deepledger.protocol.evaluation.blueprint import blueprint, check_unmoved, nowhere
from deepledger.protocol.evaluation.state_dict import fingerprints, read_floats, write_floats
from deepledger.protocol.evaluation.task import Task, TaskSource
from deepledger.protocol.formats.model import Frozen
from deepledger.protocol.formats.rules import CenteredClipping
from deepledger.protocol.formats.spec import JobSpec
from deepledger.protocol.formats.vectors import (
    Encoded,
    Floats,
    ModelVector,
    UpdateVector,
    decode_model,
    encode_change,
)
from deepledger.protocol.kernels.cores import BLOCK
from deepledger.protocol.types import Address, RoundNumber


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


_EVALUATED, _TRAINED = 1024, 64
"""Samples that a rehearsal evaluates at a time, and that it trains on."""
_LOOK_FOR = "look for NaN, infinity and values that are far too large in it"


class MakeUpdate(Protocol):
    """How a node comes by its updates: `make_update`, unless an experiment has it do something else."""

    def __call__(
        self,
        trainer: Trainer,
        before: ModelVector,
        residual: Floats,
        *,
        last: UpdateVector | None,
        training_seed: int,
        rounding_seed: int,
    ) -> Encoded: ...


def load_trainer(
    spec: JobSpec, source: TaskSource, data: Path, *, fetch: Callable[[Frozen], bytes] = nowhere
) -> Trainer:
    """`fetch` is as of `blueprint`.

    Raises `BadInput` if the data cannot be loaded, `BadSpec` if the task's model is not the spec's.
    """
    task = Task(source)
    plan = blueprint(spec, task, fetch)
    return Trainer(spec, task, task.load_data(data), plan.build())


def rehearse(trainer: Trainer) -> None:
    """Evaluate all data and train on a little of it, on copies of the model: before a stake depends on that.

    What fails with a part of the data counts only if it fails with all of it. Raises `BadInput` then; NaN and infinity
    are failures, too.
    """
    trainer.task.check_hyperparameters(trainer.spec.training.hyperparameters)
    first = islice(_parts(trainer.data, _TRAINED), 1)
    for attempt, parts in ((_try_evaluation, _parts(trainer.data, _EVALUATED)), (_try_training, first)):
        try:
            for part in parts:
                attempt(trainer, part)
        except BadInput:
            attempt(trainer, trainer.data)


def _try_evaluation(trainer: Trainer, data: Any) -> None:
    """Where the loss is greater than any that counts, what training makes of such data is looked at, too."""
    model = copy.deepcopy(trainer.model)
    evaluation, loss = trainer.task.measure(model, data, seed=trainer.spec.training.seed)
    if not math.isfinite(loss):
        raise BadInput(f"the first model's loss on your data is {loss}: {_LOOK_FOR}")
    if evaluation.diverged:
        _try_training(trainer, data)


def _try_training(trainer: Trainer, data: Any) -> None:
    model, training = copy.deepcopy(trainer.model), trainer.spec.training
    before = {} if trainer.spec.model.frozen is None else fingerprints(model, trainer.spec.model.frozen)
    trainer.task.train(model, data, seed=training.seed, hyperparameters=training.hyperparameters)
    check_unmoved(before, model, trainer.spec)
    if not np.isfinite(read_floats(model, trainer.spec.model.layout)).all():
        raise BadInput(
            f"training on your data makes NaN or infinity of the model: {_LOOK_FOR}; if it is sound, the job's "
            "hyperparameters do not suit it"
        )


def _parts(data: Any, size: int) -> Iterator[Any]:
    """All samples in parts, as data of the same kind where that is known."""
    for start in range(0, len(data), size):
        end = min(start + size, len(data))
        if type(data) is torch.utils.data.TensorDataset:
            yield torch.utils.data.TensorDataset(*data[start:end])
        elif isinstance(data, list | tuple):
            yield data[start:end]
        else:
            yield torch.utils.data.Subset(data, range(start, end))


def make_update(
    trainer: Trainer,
    before: ModelVector,
    residual: Floats,
    *,
    last: UpdateVector | None,
    training_seed: int,
    rounding_seed: int,
) -> Encoded:
    """Train from `before`, shape (d,), and encode the change, with the momentum that the spec asks for.

    `last` is what this node committed to in the latest earlier round. Raises `BadInput` if training fails.
    """
    spec = trainer.spec
    start = decode_model(before, spec.model)
    write_floats(trainer.model, start, spec.model.layout)
    trainer.task.train(trainer.model, trainer.data, seed=training_seed, hyperparameters=spec.training.hyperparameters)
    change = read_floats(trainer.model, spec.model.layout)
    change -= start
    trained = spec.model.trained
    _add_momentum(change[:trained], None if last is None else last[:trained], spec)
    return encode_change(change, residual, spec=spec, seed=rounding_seed, out=change)


def momentum_percent(spec: JobSpec) -> int:
    return spec.aggregation.momentum_percent if isinstance(spec.aggregation, CenteredClipping) else 0


def _add_momentum(change: Floats, last: UpdateVector | None, spec: JobSpec) -> None:
    """Make m_t = (1 - b)·change + b·m_{t-1} of `change`, in place (Karimireddy et al. 2021, algorithm 2).

    m_{t-1} is the update as it was sent: what its rounding left out comes with the residual. It is 0 at first: a change
    is a whole local training, and were the first one sent as it is, following rounds would make most of it again.
    """
    percent = momentum_percent(spec)
    if not percent:
        return
    change *= np.float32(1 - percent / 100)
    if last is None:
        return
    scale = percent / 100 * 2.0**-spec.update.fraction_bits
    for start in range(0, len(change), BLOCK):
        change[start : start + BLOCK] += np.multiply(last[start : start + BLOCK], scale, dtype=np.float64)


def training_seed(spec: JobSpec, round: RoundNumber, *, attempt: int, participant: Address) -> int:
    """Distinct for every participant, round and attempt, and the same wherever it is computed: 48 bits."""
    words = f"{spec.training.seed}|{round}|{attempt}|{participant.lower()}"
    return int.from_bytes(sha256(words.encode()).digest()[:6], "big")
